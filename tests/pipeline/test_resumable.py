"""Uploads in pieces: the file's size is the offset, whoever appends, whatever breaks."""

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.errors import ChecksumError, InputError, NotFoundError, OffsetError, TooLargeError
from pipeline.ids import new_cuid
from pipeline.ingest.submit import submit_csv
from pipeline.projects import ProjectRef
from pipeline.resumable import (
    Checksum,
    append_piece,
    create_upload,
    find_upload,
    finished_upload,
    remove_expired_uploads,
    remove_upload,
)
from pipeline.settings import get_settings
from pipeline.uploads import remove_stray_files
from schemas.enums import RecordType
from schemas.options import IngestOptions

ME, OTHER = UUID(int=1), UUID(int=2)
CSV = b"id,prompt\n1,the first task of all\n2,the second task of all\n"
OPTIONS = IngestOptions(record_type=RecordType.TASK, embed=False)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A storage of this test's own, of small files."""
    (tmp_path / "uploads").mkdir()
    monkeypatch.setenv("OPSPIPE_STORAGE_URL", f"file://{tmp_path}/uploads")
    monkeypatch.setenv("OPSPIPE_MAX_UPLOAD_BYTES", str(10 * 1024**2))
    get_settings.cache_clear()
    yield tmp_path / "uploads"
    get_settings.cache_clear()


def begin(length: int, *pieces: bytes) -> str:
    upload = create_upload(ME, length)
    for piece in pieces:
        append(upload.id, piece, find_upload(upload.id, ME).offset)
    return upload.id


def append(upload_id: str, piece: bytes, offset: int, checksum: Checksum | None = None) -> int:
    return append_piece(upload_id, ME, io.BytesIO(piece), offset=offset, checksum=checksum).offset


def data(folder: Path, upload_id: str) -> Path:
    return folder / f".resumable-{upload_id}"


def age(folder: Path, upload_id: str, **since: float) -> None:
    """Make an upload one that was last written so long ago, and begun before that."""
    moment = (datetime.now(UTC) - timedelta(**since)).timestamp()
    os.utime(data(folder, upload_id), (moment, moment))
    note = folder / f".resumable-{upload_id}.json"
    os.utime(note, (moment - 3600, moment - 3600))


def test_pieces_become_the_file(folder: Path) -> None:
    upload_id = begin(10, b"abcd", b"", b"efghij")
    assert data(folder, upload_id).read_bytes() == b"abcdefghij"
    assert find_upload(upload_id, ME).offset == 10


def test_an_upload_is_found_only_by_its_owner() -> None:
    upload_id = begin(10, b"abcd")
    for ask in (find_upload, remove_upload):
        with pytest.raises(NotFoundError):
            ask(upload_id, OTHER)
    with pytest.raises(NotFoundError):
        append_piece(upload_id, OTHER, io.BytesIO(b"x"), offset=4)
    assert find_upload(upload_id, ME).offset == 4


NO_UPLOAD = "cmwyi7z4ev2d8qd7dg03jw1o6"


@pytest.mark.parametrize("upload_id", [NO_UPLOAD, "", "../x", ".json", "c" * 24 + "/", "x\0"])
def test_what_is_no_upload_is_not_found(upload_id: str) -> None:
    with pytest.raises(NotFoundError):
        find_upload(upload_id, ME)


@pytest.mark.parametrize("offset", [0, 3, 5, 10])
def test_a_piece_for_another_place_changes_nothing(folder: Path, offset: int) -> None:
    upload_id = begin(10, b"abcd")
    with pytest.raises(OffsetError, match="ends at byte 4 and not at"):
        append(upload_id, b"xy", offset)
    assert data(folder, upload_id).read_bytes() == b"abcd"


def test_more_than_was_announced_is_refused() -> None:
    upload_id = begin(10, b"abcd")
    with pytest.raises(InputError, match="more bytes than the upload still takes"):
        append(upload_id, b"efghijk", 4)
    with pytest.raises(InputError, match="more than the 6 bytes"):
        append_piece(upload_id, ME, io.BytesIO(b""), offset=4, size=7)
    assert find_upload(upload_id, ME).offset == 4


def test_an_upload_of_too_many_bytes_is_not_begun(folder: Path) -> None:
    with pytest.raises(TooLargeError, match="larger than 10,485,760 bytes"):
        create_upload(ME, 10 * 1024**2 + 1)
    assert list(folder.iterdir()) == []


class Broken:
    """A line that breaks after its blocks."""

    def __init__(self, *blocks: bytes) -> None:
        self._blocks = list(blocks)

    def read(self, size: int, /) -> bytes:
        if not self._blocks:
            raise ConnectionResetError
        block, self._blocks[:1] = self._blocks[0][:size], []
        return block


def test_what_came_before_the_line_broke_stays(folder: Path) -> None:
    upload_id = begin(10)
    with pytest.raises(ConnectionResetError):
        append_piece(upload_id, ME, Broken(b"abc", b"de"), offset=0)
    assert find_upload(upload_id, ME).offset == 5
    assert append(upload_id, b"fghij", 5) == 10
    assert data(folder, upload_id).read_bytes() == b"abcdefghij"


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_piece_is_kept_only_if_it_is_what_was_sent(folder: Path, algorithm: str) -> None:
    right = Checksum(algorithm, hashlib.new(algorithm, b"efgh").digest())
    upload_id = begin(10, b"abcd")
    with pytest.raises(ChecksumError, match=f"another {algorithm}"):
        append(upload_id, b"efgX", 4, right)
    with pytest.raises(ConnectionResetError):
        append_piece(upload_id, ME, Broken(b"ef"), offset=4, checksum=right)
    with pytest.raises(InputError, match="more bytes than"):
        append(upload_id, b"efghijk", 4, right)
    assert data(folder, upload_id).read_bytes() == b"abcd"
    assert append(upload_id, b"efgh", 4, right) == 8
    assert data(folder, upload_id).read_bytes() == b"abcdefgh"
    assert {path.name[:11] for path in folder.iterdir()} == {".resumable-"}


def test_of_two_who_append_at_once_one_goes_on_and_the_other_is_told(folder: Path) -> None:
    size = 2 * 1024**2
    for _ in range(5):
        upload_id = begin(size)
        ready, told = threading.Barrier(2), []

        def _send(letter: bytes, ready: threading.Barrier, told: list[object], upload_id: str) -> None:
            ready.wait()
            try:
                told.append(append(upload_id, letter * size, 0))
            except OffsetError as error:
                told.append(error)

        threads = [threading.Thread(target=_send, args=(x, ready, told, upload_id)) for x in (b"a", b"b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {type(one) for one in told} == {OffsetError, int}
        content = data(folder, upload_id).read_bytes()
        assert (len(content), len(set(content))) == (size, 1)


def test_who_hangs_on_a_dead_line_keeps_nobody_from_going_on(folder: Path) -> None:
    upload_id = begin(10)
    asked, over = threading.Event(), threading.Event()

    class Dead:
        def __init__(self) -> None:
            self._blocks = [b"abc"]

        def read(self, size: int, /) -> bytes:
            if self._blocks:
                return self._blocks.pop()[:size]
            asked.set()
            over.wait(30)
            return b"XYZ"

    told: list[object] = []

    def _hang() -> None:
        try:
            append_piece(upload_id, ME, Dead(), offset=0)
        except OffsetError as error:
            told.append(error)

    thread = threading.Thread(target=_hang)
    thread.start()
    asked.wait(30)
    assert find_upload(upload_id, ME).offset == 3
    assert append(upload_id, b"defghij", 3) == 10
    over.set()
    thread.join()
    assert len(told) == 1
    assert data(folder, upload_id).read_bytes() == b"abcdefghij"


def test_a_removed_upload_takes_no_more(folder: Path) -> None:
    upload_id = begin(10, b"abcd")

    class Removing:
        def __init__(self) -> None:
            self._blocks = [b"ef", b"gh"]

        def read(self, size: int, /) -> bytes:
            if len(self._blocks) == 1:
                remove_upload(upload_id, ME)
            return self._blocks.pop(0)[:size] if self._blocks else b""

    with pytest.raises(NotFoundError):
        append_piece(upload_id, ME, Removing(), offset=4)
    with pytest.raises(NotFoundError):
        find_upload(upload_id, ME)
    assert list(folder.iterdir()) == []


def test_a_day_after_it_was_last_written_an_upload_is_gone(folder: Path) -> None:
    old, young = begin(10, b"abcd"), begin(10, b"abcd")
    age(folder, old, hours=24.1)
    age(folder, young, hours=23.9)
    with pytest.raises(NotFoundError, match="has expired"):
        find_upload(old, ME)
    assert find_upload(young, ME).expires_at < datetime.now(UTC) + timedelta(minutes=7)
    assert remove_expired_uploads(datetime.now(UTC)) == 1
    assert {path.name for path in folder.iterdir()} == {f".resumable-{young}", f".resumable-{young}.json"}
    append(young, b"e", 4)
    assert find_upload(young, ME).expires_at > datetime.now(UTC) + timedelta(hours=23)


def test_what_a_killed_removal_leaves_goes_too(folder: Path) -> None:
    upload_id = begin(10, b"abcd")
    age(folder, upload_id, hours=25)
    data(folder, upload_id).unlink()
    assert remove_expired_uploads(datetime.now(UTC)) == 1
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("session")
def test_upkeep_of_stray_files_leaves_uploads_alone(folder: Path) -> None:
    upload_id = begin(10, b"abcd")
    assert remove_stray_files(datetime.now(UTC) + timedelta(hours=25)) == 0
    assert data(folder, upload_id).exists()


def test_no_more_expire_at_once_than_is_said(folder: Path) -> None:
    for _ in range(5):
        age(folder, begin(10), hours=25)
    assert [remove_expired_uploads(datetime.now(UTC), limit=2) for _ in range(4)] == [2, 2, 1, 0]


def test_a_finished_upload_becomes_the_job_s(project: ProjectRef, session: Session, folder: Path) -> None:
    upload_id = begin(len(CSV), CSV)
    inode = data(folder, upload_id).stat().st_ino
    with finished_upload(upload_id, ME) as upload:
        submit_csv(project.id, upload, file_name="a.csv", options=OPTIONS)
    (kept,) = folder.iterdir()
    assert (kept.stat().st_ino, kept.read_bytes()) == (inode, CSV)
    noted = session.execute(text("SELECT storage_key, size_bytes, sha256 FROM uploads")).one()
    assert tuple(noted) == (kept.name, len(CSV), hashlib.sha256(CSV).hexdigest())
    with pytest.raises(NotFoundError), finished_upload(upload_id, ME):
        pass


def test_an_unfinished_upload_is_not_submitted(folder: Path) -> None:
    upload_id = begin(10, b"abcd")
    with pytest.raises(InputError, match="4 of 10 bytes"), finished_upload(upload_id, ME):
        pass
    with pytest.raises(NotFoundError), finished_upload(upload_id, OTHER):
        pass
    assert data(folder, upload_id).exists()


def test_an_upload_whose_submission_is_refused_can_be_submitted_again(
    project: ProjectRef, folder: Path
) -> None:
    upload_id = begin(len(CSV), CSV)
    wrong = OPTIONS.model_copy(update={"mapping": {"content": "nowhere"}})
    with pytest.raises(InputError, match="nowhere"), finished_upload(upload_id, ME) as upload:
        submit_csv(project.id, upload, file_name="a.csv", options=wrong)
    assert {path.name[:11] for path in folder.iterdir()} == {".resumable-"}
    with finished_upload(upload_id, ME) as upload:
        submit_csv(project.id, upload, file_name="a.csv", options=OPTIONS)
    assert len(list(folder.iterdir())) == 1


def test_an_upload_that_waited_for_long_is_no_stray_file_when_it_is_submitted(
    project: ProjectRef, folder: Path
) -> None:
    upload_id = begin(len(CSV), CSV)
    age(folder, upload_id, hours=23.9)
    with finished_upload(upload_id, ME) as upload:
        # What upkeep sees before the job is committed.
        upload.store_as(f"{new_cuid()}.csv")
        assert remove_stray_files(datetime.now(UTC) + timedelta(hours=1)) == 0
        submit_csv(project.id, upload, file_name="a.csv", options=OPTIONS)


def test_of_two_who_submit_an_upload_one_gets_a_job(
    project: ProjectRef, session: Session, folder: Path
) -> None:
    upload_id = begin(len(CSV), CSV)
    ready, told = threading.Barrier(2), []

    def _submit() -> None:
        ready.wait()
        try:
            with finished_upload(upload_id, ME) as upload:
                submit_csv(project.id, upload, file_name="a.csv", options=OPTIONS, force=True)
        except NotFoundError as error:
            told.append(error)

    threads = [threading.Thread(target=_submit) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 1
    assert session.scalar(text("SELECT count(*) FROM ingest_jobs")) == 1
    assert len(list(folder.iterdir())) == 1


def test_an_upload_in_use_does_not_expire(folder: Path) -> None:
    upload_id = begin(len(CSV), CSV)
    with finished_upload(upload_id, ME):
        assert remove_expired_uploads(datetime.now(UTC) + timedelta(days=2)) == 0
        assert data(folder, upload_id).exists()
