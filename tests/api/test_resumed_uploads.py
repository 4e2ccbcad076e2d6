"""Uploads in pieces against a real gunicorn: broken lines, a server that is killed, a client of others."""

import hashlib
import http.client
import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.database import transaction
from pipeline.tokens import ensure_first_token
from tests.api.client import Client
from tests.api.large import MIB, MOST_GROWTH, rows, watched
from tests.api.webserver import WebServer

Wait = Callable[..., None]


@dataclass
class Sender:
    """Who uploads to which server."""

    server: WebServer
    token: str

    def ask(
        self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage]:
        sent = {"Tus-Resumable": "1.0.0", "Authorization": f"Bearer {self.token}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)) as line:
            line.request(method, path, body, sent)
            with line.getresponse() as answer:
                return answer.status, answer.headers

    def create(self, length: int) -> str:
        status, headers = self.ask("POST", "/api/uploads", Upload_Length=str(length))
        assert status == 201
        return str(headers["Location"])

    def offset(self, path: str) -> int:
        status, headers = self.ask("HEAD", path)
        assert status == 200
        return int(headers["Upload-Offset"])

    def patch(
        self, path: str, body: bytes | Iterator[bytes], offset: int
    ) -> tuple[int, http.client.HTTPMessage]:
        return self.ask(
            "PATCH", path, body, Content_Type="application/offset+octet-stream", Upload_Offset=str(offset)
        )

    @contextmanager
    def begun(self, path: str, data: bytes, offset: int, *, sent: int) -> Iterator[socket.socket]:
        """Announce what is missing of a file and send the first `sent` bytes of it."""
        head = (
            f"PATCH {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.token}\r\n"
            "Tus-Resumable: 1.0.0\r\nContent-Type: application/offset+octet-stream\r\n"
            f"Upload-Offset: {offset}\r\nContent-Length: {len(data) - offset}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=60) as line:
            line.sendall(head.encode() + data[offset : offset + sent])
            yield line

    def submit(self, project_id: str, path: str) -> int:
        client = Client(self.server.port)
        client.token = self.token
        body = {"projectId": project_id, "type": "TASK", "generateEmbeddings": False}
        return client.post("/api/ingest/csv", body | {"uploadId": path.rpartition("/")[2]}).status


@pytest.fixture
def sender(web_server: WebServer) -> Sender:
    with transaction() as session:
        return Sender(web_server, str(ensure_first_token(session)))


@pytest.fixture
def data() -> bytes:
    return b"".join(rows(20 * MIB))


def part(uploads: Path) -> Path:
    (found,) = (path for path in uploads.glob(".resumable-*") if path.suffix != ".json")
    return found


def test_a_server_that_is_killed_within_a_piece_loses_nothing_that_it_told(
    sender: Sender, data: bytes, project_id: str, uploads: Path, wait: Wait
) -> None:
    path, offset = sender.create(len(data)), 0
    for _ in range(3):
        with sender.begun(path, data, offset, sent=4 * MIB):
            wait(
                lambda before=offset: part(uploads).stat().st_size > before + 2 * MIB, what="half of a piece"
            )
            sender.server.kill()
        sender.server.start()
        offset = sender.offset(path)
        assert part(uploads).read_bytes() == data[:offset]
    status, headers = sender.patch(path, data[offset:], offset)
    assert (status, headers["Upload-Offset"]) == (204, str(len(data)))
    assert sender.submit(project_id, path) == 202
    (kept,) = uploads.iterdir()
    assert kept.read_bytes() == data


def test_a_client_that_hangs_up_goes_on_where_its_bytes_ended(
    sender: Sender, data: bytes, uploads: Path, wait: Wait
) -> None:
    path = sender.create(len(data))
    with sender.begun(path, data, 0, sent=4 * MIB):
        wait(lambda: sender.offset(path) > 3 * MIB, what="most of what was sent")
    wait(lambda: sender.offset(path) == 4 * MIB, what="the rest of what was sent")
    assert sender.patch(path, data[4 * MIB :], 4 * MIB)[0] == 204
    assert part(uploads).read_bytes() == data


def test_a_dead_line_keeps_nobody_from_going_on_by_another(
    sender: Sender, data: bytes, uploads: Path, wait: Wait
) -> None:
    path = sender.create(len(data))
    with sender.begun(path, data, 0, sent=4 * MIB) as line:
        wait(lambda: sender.offset(path) == 4 * MIB, what="what was sent")
        assert sender.patch(path, data[4 * MIB :], 4 * MIB)[0] == 204
        line.sendall(b"X" * MIB)
        assert line.recv(1000).startswith(b"HTTP/1.1 409")
    assert part(uploads).read_bytes() == data


def test_a_large_piece_takes_no_memory(sender: Sender, uploads: Path) -> None:
    size = sum(map(len, rows(300 * MIB)))
    small, large = sender.create(MIB), sender.create(size)
    assert sender.patch(small, b"x" * MIB, 0)[0] == 204
    with watched(sender.server.worker()) as seen:
        assert sender.patch(large, rows(300 * MIB), 0)[0] == 204
    assert max(seen) - seen[0] < MOST_GROWTH
    assert max(path.stat().st_size for path in uploads.iterdir()) == size


def test_the_largest_upload_may_come_in_one_piece(sender: Sender) -> None:
    sender.server.start(OPSPIPE_MAX_UPLOAD_BYTES=str(MIB))
    for piece in (b"x" * MIB, iter([b"x" * 1000] * 1048 + [b"x" * 576])):
        path = sender.create(MIB)
        status, headers = sender.patch(path, piece, 0)
        assert (status, headers["Upload-Offset"]) == (204, str(MIB))
    path = sender.create(MIB)
    assert sender.patch(path, b"x" * (MIB + 1), 0)[0] == 413
    assert sender.patch(path, iter([b"x" * MIB, b"x"]), 0)[0] == 400
    assert sender.offset(path) < MIB


@pytest.mark.parametrize("checked", [False, True])
def test_tuspy_uploads_a_file(
    sender: Sender, data: bytes, project_id: str, uploads: Path, *, checked: bool
) -> None:
    client = pytest.importorskip("tusclient.client")
    tus = client.TusClient(
        f"http://127.0.0.1:{sender.server.port}/api/uploads",
        headers={"Authorization": f"Bearer {sender.token}"},
    )
    uploader = tus.uploader(
        file_stream=io.BytesIO(data),
        chunk_size=3 * MIB,
        upload_checksum=checked,
        metadata={"filename": "large.csv"},
    )
    uploader.upload()
    assert sender.submit(project_id, uploader.url) == 202
    (kept,) = uploads.iterdir()
    assert hashlib.sha256(kept.read_bytes()).digest() == hashlib.sha256(data).digest()


def test_tuspy_goes_on_by_itself_after_the_server_was_killed(
    sender: Sender, data: bytes, uploads: Path
) -> None:
    client = pytest.importorskip("tusclient.client")

    class Slow(io.BytesIO):
        """Half of the file comes at once, the rest when the server was started again."""

        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() >= 10 * MIB and not killed.is_set():
                reached.set()
                killed.wait(60)
            return super().read(size)

    reached, killed = threading.Event(), threading.Event()
    tus = client.TusClient(
        f"http://127.0.0.1:{sender.server.port}/api/uploads",
        headers={"Authorization": f"Bearer {sender.token}"},
    )
    uploader = tus.uploader(file_stream=Slow(data), chunk_size=2 * MIB, retries=60, retry_delay=0.5)
    failed: list[BaseException] = []

    def _upload() -> None:
        try:
            uploader.upload()
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    thread = threading.Thread(target=_upload)
    thread.start()
    reached.wait(60)
    sender.server.kill()
    killed.set()
    sender.server.start()
    thread.join(60)
    assert failed == []
    assert part(uploads).read_bytes() == data
