"""Uploads in pieces over HTTP: the protocol tus 1.0.0, header by header."""

import base64
import hashlib
import http.client
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.settings import get_settings
from schemas.enums import UserRole
from tests.api.client import Answer, Client

CSV = b"id,prompt\n1,the first task of all\n2,the second task of all\n"
PIECE = "application/offset+octet-stream"


@pytest.fixture(autouse=True)
def _own_folder(folder: Path) -> None:
    """Have every test of this module look at its own files."""


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def offset(self) -> int:
        return int(self.headers["Upload-Offset"])


class Tus:
    """A client written by the protocol's text, which can also say what it should not."""

    def __init__(self, port: int, token: str | None) -> None:
        self._port, self._token = port, token

    def ask(self, method: str, path: str = "", body: bytes | None = None, **headers: str | None) -> Reply:
        sent = {"Tus-Resumable": "1.0.0", "Authorization": f"Bearer {self._token}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        known = {name: value for name, value in sent.items() if value is not None}
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)) as line:
            line.request(method, path or "/api/uploads", body, known)
            with line.getresponse() as answer:
                return Reply(answer.status, answer.headers, answer.read())

    def create(self, length: int, **headers: str | None) -> str:
        reply = self.ask("POST", Upload_Length=str(length), **headers)
        assert reply.status == 201
        return reply.headers["Location"]

    def patch(self, path: str, piece: bytes, offset: int, **headers: str | None) -> Reply:
        known = {"Content_Type": PIECE, "Upload_Offset": str(offset)}
        return self.ask("PATCH", path, piece, **(known | headers))


@pytest.fixture
def tus(port: int, admin: Client) -> Tus:
    return Tus(port, admin.token)


def submit(client: Client, project_id: str, path: str, **fields: str) -> Answer:
    body = {"projectId": project_id, "type": "TASK", "uploadId": path.rpartition("/")[2]}
    return client.post("/api/ingest/csv", body | fields)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def checksum(algorithm: str, piece: bytes) -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, piece).digest()).decode()}"


def test_what_is_spoken_is_told(tus: Tus) -> None:
    reply = tus.ask("OPTIONS", Tus_Resumable=None)
    assert reply.status == 204
    assert reply.headers["Tus-Version"] == reply.headers["Tus-Resumable"] == "1.0.0"
    extensions = {"creation", "creation-with-upload", "termination", "checksum", "expiration"}
    assert set(reply.headers["Tus-Extension"].split(",")) == extensions
    assert reply.headers["Tus-Max-Size"] == str(get_settings().max_upload_bytes)
    assert reply.headers["Tus-Checksum-Algorithm"] == "sha1,sha256"


def test_pieces_become_a_job(
    tus: Tus, admin: Client, project_id: str, folder: Path, session: Session
) -> None:
    name = base64.b64encode("größe.csv".encode()).decode()
    path = tus.create(len(CSV), Upload_Metadata=f"filename {name},kind")
    for start in range(0, len(CSV), 20):
        reply = tus.patch(path, CSV[start : start + 20], start)
        assert (reply.status, reply.offset) == (204, min(start + 20, len(CSV)))
    state = tus.ask("HEAD", path)
    assert (state.status, state.offset, state.headers["Upload-Length"]) == (200, len(CSV), str(len(CSV)))
    assert state.headers["Upload-Metadata"] == f"filename {name},kind"
    assert state.headers["Cache-Control"] == "no-store"
    answer = submit(admin, project_id, path)
    assert (answer.status, answer.body["estimatedRecords"]) == (202, 2)
    (kept,) = folder.iterdir()
    assert kept.read_bytes() == CSV
    assert session.scalar(text("SELECT file_name FROM uploads")) == "größe.csv"
    assert tus.ask("HEAD", path).status == 404
    assert submit(admin, project_id, path).status == 404


def test_an_upload_may_begin_with_its_first_bytes(tus: Tus, folder: Path) -> None:
    reply = tus.ask("POST", body=b"abcd", Upload_Length="10", Content_Type=PIECE)
    assert (reply.status, reply.offset) == (201, 4)
    assert tus.patch(reply.headers["Location"], b"efghij", 4).offset == 10
    for body, sent in ((b"x" * 11, {}), (b"abcd", {"Upload_Checksum": checksum("sha1", b"abcX")})):
        before = names(folder)
        reply = tus.ask("POST", body=body, Upload_Length="10", Content_Type=PIECE, **sent)
        assert reply.status in {400, 460}
        assert names(folder) == before


def test_an_empty_upload_is_finished_at_once(tus: Tus, admin: Client, project_id: str) -> None:
    path = tus.create(0)
    assert tus.ask("HEAD", path).headers["Upload-Length"] == "0"
    answer = submit(admin, project_id, path)
    assert (answer.status, answer.body["code"]) == (400, "EMPTY_FILE")


def test_when_an_upload_expires_is_told(tus: Tus) -> None:
    path = tus.create(10)
    for reply in (tus.patch(path, b"abcd", 0), tus.ask("HEAD", path), tus.ask("POST", Upload_Length="10")):
        left = parsedate_to_datetime(reply.headers["Upload-Expires"]) - datetime.now(UTC)
        assert timedelta(hours=23) < left <= timedelta(days=1)


@pytest.mark.parametrize("version", [None, "0.2.2", "1.0", "1.0.0,0.2.2"])
def test_another_version_is_refused_before_anything_is_done(
    tus: Tus, folder: Path, version: str | None
) -> None:
    path = tus.create(10)
    before = names(folder)
    for reply in (
        tus.ask("POST", Upload_Length="10", Tus_Resumable=version),
        tus.patch(path, b"abcd", 0, Tus_Resumable=version),
        tus.ask("DELETE", path, Tus_Resumable=version),
        tus.ask("HEAD", path, Tus_Resumable=version),
    ):
        assert (reply.status, reply.headers["Tus-Version"]) == (412, "1.0.0")
    assert names(folder) == before
    assert tus.ask("HEAD", path).offset == 0


def test_a_wrong_offset_changes_nothing(tus: Tus) -> None:
    path = tus.create(10)
    assert tus.patch(path, b"abcd", 0).status == 204
    for offset in (0, 3, 5, 11):
        reply = tus.patch(path, b"xy", offset)
        assert (reply.status, b"ends at byte 4" in reply.body) == (409, True)
        assert reply.headers["Tus-Resumable"] == "1.0.0"
    assert tus.ask("HEAD", path).offset == 4


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_piece_that_arrived_as_another_is_not_kept(tus: Tus, algorithm: str, folder: Path) -> None:
    path = tus.create(10)
    wrong = tus.patch(path, b"abcX", 0, Upload_Checksum=checksum(algorithm, b"abcd"))
    assert (wrong.status, b"CHECKSUM_MISMATCH" in wrong.body) == (460, True)
    assert tus.ask("HEAD", path).offset == 0
    assert tus.patch(path, b"abcd", 0, Upload_Checksum=checksum(algorithm, b"abcd")).offset == 4
    assert len(names(folder)) == 2


@pytest.mark.parametrize("value", ["md5 abcd", "sha1", "sha1 ?", "", "SHA1 abcd", "sha1 größe"])
def test_a_checksum_that_is_not_understood_is_refused(tus: Tus, value: str) -> None:
    path = tus.create(10)
    reply = tus.patch(path, b"abcd", 0, Upload_Checksum=value)
    assert reply.status in {400, 460}
    assert tus.ask("HEAD", path).offset == 0


@pytest.mark.parametrize("length", ["", "-1", "x", "1.5", "٣", "9" * 19, "1_0", None])
def test_an_upload_without_a_length_is_not_begun(tus: Tus, folder: Path, length: str | None) -> None:
    sent = length if length is None else length.encode().decode("latin-1")
    reply = tus.ask("POST", Upload_Length=sent)
    assert (reply.status, b"Upload-Length" in reply.body) == (400, True)
    assert tus.ask("POST", Upload_Defer_Length="1").status == 400
    assert names(folder) == set()


def test_more_than_may_come_is_refused(tus: Tus, folder: Path) -> None:
    reply = tus.ask("POST", Upload_Length=str(get_settings().max_upload_bytes + 1))
    assert (reply.status, b"PAYLOAD_TOO_LARGE" in reply.body) == (413, True)
    assert names(folder) == set()
    path = tus.create(10)
    assert tus.patch(path, b"x" * 11, 0).status == 400
    assert tus.ask("HEAD", path).offset == 0


def test_a_piece_of_another_kind_is_refused(tus: Tus) -> None:
    path = tus.create(10)
    assert tus.patch(path, b"abcd", 0, Content_Type="text/csv").status == 415
    assert tus.ask("PATCH", path, b"abcd", Content_Type=PIECE).status == 400
    assert tus.ask("HEAD", path).offset == 0


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ("filename ?", "not Base64"),
        ("filename YQ==,filename Yg==", "given twice"),
        ("filename YQ==,,kind", "a key that is empty"),
        (",", "a key that is empty"),
        ("größe YQ==", "no plain word"),
        ("filename /w==", "not taken"),
        (f"filename {base64.b64encode(b'../x.csv').decode()}", "is a path"),
        (f"filename {base64.b64encode(b'a' + bytes([13, 10]) + b'X: 1').decode()}", "control characters"),
    ],
)
def test_metadata_that_cannot_be_meant_is_refused(tus: Tus, folder: Path, metadata: str, told: str) -> None:
    reply = tus.ask("POST", Upload_Length="10", Upload_Metadata=metadata)
    assert (reply.status, told in reply.body.decode()) == (400, True), reply.body
    assert names(folder) == set()


def test_a_removed_upload_is_gone(tus: Tus, folder: Path) -> None:
    path = tus.create(10)
    assert tus.patch(path, b"abcd", 0).status == 204
    assert tus.ask("DELETE", path).status == 204
    assert names(folder) == set()
    for reply in (tus.ask("HEAD", path), tus.patch(path, b"ef", 4), tus.ask("DELETE", path)):
        assert (reply.status, reply.headers["Upload-Offset"]) == (404, None)


def test_an_upload_is_its_owner_s(
    tus: Tus, port: int, folder: Path, project_id: str, sign_in: Callable[[str, UserRole], Client]
) -> None:
    path = tus.create(len(CSV))
    assert tus.patch(path, CSV, 0).status == 204
    stranger = sign_in("m@example.com", UserRole.ADMIN)
    other = Tus(port, stranger.token)
    for reply in (other.ask("HEAD", path), other.patch(path, b"", len(CSV)), other.ask("DELETE", path)):
        assert reply.status == 404
    assert submit(stranger, project_id, path).status == 404
    assert len(names(folder)) == 2


@pytest.mark.parametrize("role", [UserRole.PENDING, UserRole.USER, None])
def test_who_may_not_ingest_may_not_upload(
    tus: Tus, port: int, sign_in: Callable[[str, UserRole], Client], role: UserRole | None
) -> None:
    path = tus.create(10)
    token = "otk_" + "0" * 64 if role is None else sign_in("u@example.com", role).token
    other = Tus(port, token)
    for reply in (
        other.ask("OPTIONS"),
        other.ask("POST", Upload_Length="10"),
        other.ask("HEAD", path),
        other.patch(path, b"abcd", 0),
        other.ask("DELETE", path),
    ):
        assert reply.status == (401 if role is None else 403)
    assert tus.ask("HEAD", path).offset == 0


def test_methods_may_be_named_by_a_header(tus: Tus) -> None:
    path = tus.create(10)
    headers = {"X_HTTP_Method_Override": "PATCH", "Content_Type": PIECE, "Upload_Offset": "0"}
    assert tus.ask("POST", path, b"abcd", **headers).offset == 4
    assert tus.ask("POST", path, X_HTTP_Method_Override="HEAD").offset == 4
    assert tus.ask("POST", path).status == tus.ask("POST", path, X_HTTP_Method_Override="GET").status == 405
    assert tus.ask("POST", path, X_HTTP_Method_Override="DELETE").status == 204
    assert tus.ask("HEAD", path).status == 404


@pytest.mark.parametrize("name", ["cmwyi7z4ev2d8qd7dg03jw1o6", "x", "..%2f..%2fetc%2fpasswd", ".json", "%00"])
def test_an_address_of_no_upload_is_not_found(tus: Tus, name: str) -> None:
    tus.create(10)
    path = f"/api/uploads/{name}"
    assert tus.ask("HEAD", path).status == tus.patch(path, b"abcd", 0).status == 404


def test_a_submission_has_one_source(tus: Tus, admin: Client, project_id: str) -> None:
    path = tus.create(len(CSV))
    assert tus.patch(path, CSV, 0).status == 204
    both = submit(admin, project_id, path, csvData="id,prompt\n1,a task to do\n")
    neither = admin.post("/api/ingest/csv", {"projectId": project_id, "type": "TASK"})
    fields = {"projectId": project_id, "type": "TASK", "uploadId": path.rpartition("/")[2]}
    beside = admin.upload("/api/ingest/csv", fields, CSV)
    for answer in (both, neither, beside):
        assert (answer.status, "uploadId" in answer.body["error"]) == (400, True)
    assert submit(admin, project_id, path, fileName="named.csv").status == 202


def test_an_unfinished_upload_is_not_submitted(tus: Tus, admin: Client, project_id: str) -> None:
    path = tus.create(10)
    assert tus.patch(path, b"abcd", 0).status == 204
    answer = submit(admin, project_id, path)
    assert (answer.status, "4 of 10 bytes" in answer.body["error"]) == (400, True)
    assert tus.patch(path, b"efghij", 4).offset == 10


def test_a_refused_submission_leaves_the_upload(
    tus: Tus, admin: Client, project_id: str, sign_in: Callable[[str, UserRole], Client], port: int
) -> None:
    path = tus.create(len(CSV))
    tus.patch(path, CSV, 0)
    assert submit(admin, "nowhere", path).status == 404
    assert submit(admin, project_id, path, delimiter="||").status == 400
    assert tus.ask("HEAD", path).offset == len(CSV)
    assert submit(admin, project_id, path).status == 202
    again = tus.create(len(CSV))
    tus.patch(again, CSV, 0)
    assert submit(admin, project_id, again).body["code"] == "DUPLICATE_ENTRY"
    assert submit(admin, project_id, again, force="true").status == 202
    stranger = sign_in("m@example.com", UserRole.MANAGER)
    theirs = Tus(port, stranger.token)
    path = theirs.create(len(CSV))
    theirs.patch(path, CSV, 0)
    assert submit(stranger, project_id, path).status == 403
    assert theirs.ask("HEAD", path).offset == len(CSV)
