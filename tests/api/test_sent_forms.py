"""Files sent as multipart forms: straight into storage, in any order; odd forms are told what is wrong."""

import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.settings import get_settings
from schemas.enums import UserRole
from tests.api.client import Answer, Client

CSV = b"id,prompt\n1,the first task of all\n2,the second task of all\n"
EDGE = "frontier"
FILE_HEAD = 'Content-Disposition: form-data; name="file"; filename="batch.csv"'


@pytest.fixture(autouse=True)
def _own_folder(folder: Path) -> None:
    """Have every test of this module look at its own files."""


def part(head: str, body: bytes) -> bytes:
    return f"--{EDGE}\r\n{head}\r\n\r\n".encode() + body + b"\r\n"


def field(name: str, value: str) -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"', value.encode())


def file(body: bytes = CSV, head: str = FILE_HEAD) -> bytes:
    return part(head, body)


def send(client: Client, *parts: bytes, end: bytes = f"--{EDGE}--\r\n".encode(), edge: str = EDGE) -> Answer:
    headers = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    return client.send("POST", "/api/ingest/csv", b"".join(parts) + end, headers)


def known(project_id: str) -> tuple[bytes, bytes, bytes]:
    return field("projectId", project_id), field("type", "TASK"), field("generateEmbeddings", "false")


def stored(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("position", range(4))
def test_the_file_may_stand_anywhere_among_the_fields(
    admin: Client, project_id: str, folder: Path, session: Session, position: int
) -> None:
    parts = list(known(project_id))
    parts.insert(position, file())
    assert send(admin, *parts).status == 202
    (kept,) = stored(folder)
    assert kept.read_bytes() == CSV
    upload = session.execute(text("SELECT file_name, size_bytes, sha256 FROM uploads")).one()
    assert (upload.file_name, upload.size_bytes) == ("batch.csv", len(CSV))


def test_bytes_that_look_like_the_boundary_stay_in_the_file(
    admin: Client, project_id: str, folder: Path
) -> None:
    body = CSV + b"\r\n--frontie\r\n--front\r\nier,\r\n-" + b"\r" * 70_000 + b"\r\n--frontiers\r\n"
    assert send(admin, file(body), *known(project_id)).status == 202
    assert stored(folder)[0].read_bytes() == body


def test_the_name_of_a_file_may_be_of_any_script(admin: Client, project_id: str, session: Session) -> None:
    head = 'Content-Disposition: form-data; name="file"; filename="партия 7, größe.csv"'
    assert send(admin, file(head=head), *known(project_id)).status == 202
    assert session.scalar(text("SELECT file_name FROM uploads")) == "партия 7, größe.csv"


def named(name: str) -> bytes:
    return file(head=f'Content-Disposition: form-data; name="file"; filename={name}')


def encoded(name: str) -> bytes:
    return file(head=f"Content-Disposition: form-data; name=\"file\"; filename*=UTF-8''{name}")


def other(name: str) -> bytes:
    return file(head=f'Content-Disposition: form-data; name="{name}"; filename="batch.csv"')


ODD: dict[str, tuple[list[bytes], str]] = {
    "two files": ([file(), file()], "more than one file"),
    "two files of two names": ([file(), other("other")], "more than one file"),
    "a file of another name": ([other("data")], "file is missing"),
    "no file": ([], "file is missing"),
    "a file without a file name": ([field("file", CSV.decode())], "file name"),
    "a large file without a file name": ([field("file", "x" * 400_000)], "a part with a file name"),
    "an empty file name": ([named('""')], "has no name"),
    "a path": ([named('"../../etc/passwd"')], "is a path"),
    "a path of Windows": ([named('"C:\\\\temp\\\\batch.csv"')], "is a path"),
    "the folder above": ([named('".."')], "is a path"),
    "an encoded path": ([encoded("..%2Fx.csv")], "is a path"),
    "an encoded line end": (
        [encoded("a%0d%0aX-Evil:%201.csv")],
        "control characters",
    ),
    "an encoded NUL": (
        [encoded("a%00.csv")],
        "control characters",
    ),
    "a line end in the file name": ([named('"a\r\nX-Evil: 1.csv"')], "file name"),
    "a very long file name": ([named(f'"{"x" * 300}.csv"')], "shorten it"),
    "a huge field": ([field("filterKeywords", "x" * 400_000), file()], "of more than"),
    "a thousand fields": (
        [*(field(f"f{number}", "1") for number in range(1000)), file()],
        "more than 32 parts",
    ),
    "huge headers": ([part(f"X-Huge: {'x' * 400_000}", b"1"), file()], "of more than"),
    "a field twice": ([field("type", "TASK"), file()], "2 times"),
    "a field without a name": ([part("Content-Disposition: form-data", b"1"), file()], "no name"),
    "a part without headers": ([part("X-Other: 1", b"1"), file()], "cannot be read"),
    "headers that are no text": ([b"--frontier\r\n\xff\xfe: 1\r\n\r\n1\r\n", file()], "cannot be read"),
    "an unknown field": ([field("colour", "red"), file()], "colour"),
    "text and file": ([field("csvData", "id"), file()], "csvData"),
    "a NUL in a field": ([field("filterKeywords", "a\0b"), file()], "NUL"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_form_is_told_what_is_wrong_and_leaves_nothing(
    admin: Client, project_id: str, folder: Path, session: Session, name: str
) -> None:
    parts, told = ODD[name]
    for sent in ([*parts, *known(project_id)], [*known(project_id), *parts]):
        answer = send(admin, *sent)
        assert (answer.status, answer.body["code"]) == (400, "INVALID_INPUT")
        assert told in answer.body["error"]
    assert stored(folder) == []
    assert session.scalar(text("SELECT count(*) FROM ingest_jobs")) == 0


@pytest.mark.parametrize(
    "end", [b"", f"--{EDGE}".encode(), f"--{EDGE}\r\n".encode(), b"--other--\r\n", b"\r\n"]
)
def test_a_form_that_is_cut_short_is_refused(
    admin: Client, project_id: str, folder: Path, end: bytes
) -> None:
    for parts in ([*known(project_id), file()], [file(), *known(project_id)]):
        answer = send(admin, *parts, end=end)
        assert (answer.status, answer.body["code"]) == (400, "INVALID_INPUT")
        assert "cut short" in answer.body["error"]
    assert stored(folder) == []


@pytest.mark.parametrize("edge", ["", '""', "other", "ö"])
def test_a_form_without_its_boundary_is_refused(
    admin: Client, project_id: str, folder: Path, edge: str
) -> None:
    assert send(admin, *known(project_id), file(), edge=edge).status == 400
    assert stored(folder) == []


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/csv", ""])
def test_a_body_of_another_kind_is_told_which_are_taken(admin: Client, kind: str) -> None:
    answer = admin.send("POST", "/api/ingest/csv", CSV, {"Content-Type": kind})
    assert (answer.status, answer.body["code"]) == (400, "INVALID_INPUT")
    assert "multipart/form-data" in answer.body["error"]


def test_a_form_behind_which_more_comes_is_bounded(admin: Client, project_id: str, folder: Path) -> None:
    assert send(admin, *known(project_id), file(), end=f"--{EDGE}--\r\n".encode() + b"x" * 100).status == 202
    end = f"--{EDGE}--\r\n".encode() + b"x" * 400_000
    assert send(admin, *known(project_id), file(CSV + b"3,another\n"), end=end).status == 400
    assert len(stored(folder)) == 1


def test_who_may_not_write_leaves_no_file(
    admin: Client, project_id: str, folder: Path, sign_in: Callable[[str, UserRole], Client]
) -> None:
    for role, status in ((UserRole.MANAGER, 403), (UserRole.USER, 403), (UserRole.PENDING, 403)):
        client = sign_in(f"{role}@example.com", role)
        assert send(client, file(), *known(project_id)).status == status
    admin.token = None
    assert send(admin, file(), *known(project_id)).status == 401
    assert stored(folder) == []


@pytest.fixture
def small_uploads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A thousand bytes a file at most."""
    monkeypatch.setenv("OPSPIPE_MAX_UPLOAD_BYTES", "1000")
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.mark.usefixtures("small_uploads")
def test_a_file_that_is_too_large_is_refused_while_it_comes(
    admin: Client, project_id: str, folder: Path
) -> None:
    row = b"3,another task\n"
    fits = CSV + row * ((1000 - len(CSV)) // len(row))
    fits += b" " * (1000 - len(fits))
    assert send(admin, file(fits), *known(project_id)).status == 202
    answer = send(admin, file(fits + b" "), *known(project_id))
    assert (answer.status, answer.body["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert "1,000 bytes" in answer.body["error"]
    assert len(stored(folder)) == 1


@pytest.mark.usefixtures("small_uploads")
def test_text_in_json_is_bounded_too(admin: Client, project_id: str, folder: Path) -> None:
    body = {"projectId": project_id, "type": "TASK", "csvData": CSV.decode() + "x" * 1000}
    answer = admin.post("/api/ingest/csv", body)
    assert (answer.status, answer.body["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert stored(folder) == []


def test_forms_broken_at_random_are_no_unforeseen_error(admin: Client, project_id: str, folder: Path) -> None:
    whole = b"".join([field("type", "TASK"), file(), field("projectId", project_id)]) + b"--frontier--\r\n"
    chance = random.Random(7)
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            place = chance.randrange(len(broken))
            if chance.random() < 0.5:
                del broken[place : place + chance.randint(1, 20)]
            else:
                broken[place : place + 1] = chance.choice(
                    [b"\r\n", b"\n", b"\r", b'"', b"\0", b"--", b"\xff", b";"]
                )
        answer = send(admin, bytes(broken), end=b"")
        assert answer.status in {202, 400, 404, 409}, (answer, bytes(broken))
    assert not [path for path in stored(folder) if path.name.startswith(".")]


def test_a_storage_that_is_full_is_told_and_nothing_is_left(
    admin: Client, project_id: str, folder: Path, session: Session
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file of this process may grow larger, as on a disk that is full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        answer = send(admin, *known(project_id), file(CSV + b"3,the third\n" * 200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (answer.status, answer.body["code"]) == (503, "STORAGE_ERROR")
    assert str(folder) not in str(answer.body)
    assert stored(folder) == []
    assert session.scalar(text("SELECT count(*) FROM ingest_jobs")) == 0
