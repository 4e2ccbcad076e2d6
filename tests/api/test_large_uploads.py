"""Large files against a real gunicorn: its memory, clients that hang up, a server that is killed."""

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import transaction
from pipeline.storage import INCOMING_PREFIX
from pipeline.tokens import ensure_first_token
from pipeline.uploads import remove_stray_files
from tests.api.large import MIB, MOST_GROWTH, rows, watched
from tests.api.webserver import WebServer

Wait = Callable[..., None]


@dataclass
class Sender:
    """Who sends files to which server, for which project."""

    server: WebServer
    token: str
    project_id: str


@pytest.fixture
def sender(web_server: WebServer, project_id: str) -> Sender:
    with transaction() as session:
        return Sender(web_server, str(ensure_first_token(session)), project_id)


def form(project_id: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Give a multipart form whose file comes first."""
    yield b'--edge\r\nContent-Disposition: form-data; name="file"; filename="large.csv"\r\n\r\n'
    yield from blocks
    for name, value in (("projectId", project_id), ("type", "TASK"), ("generateEmbeddings", "false")):
        yield f'\r\n--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
    yield b"\r\n--edge--\r\n"


def send(sender: Sender, blocks: Iterator[bytes]) -> int:
    headers = {
        "Authorization": f"Bearer {sender.token}",
        "Content-Type": "multipart/form-data; boundary=edge",
    }
    with closing(http.client.HTTPConnection("127.0.0.1", sender.server.port, timeout=60)) as connection:
        connection.request("POST", "/api/ingest/csv", form(sender.project_id, blocks), headers)
        with connection.getresponse() as answer:
            return answer.status


def test_a_large_file_takes_no_memory(sender: Sender, uploads: Path, session: Session) -> None:
    assert send(sender, rows(MIB)) == 202
    with watched(sender.server.worker()) as seen:
        assert send(sender, rows(300 * MIB)) == 202
    assert max(seen) - seen[0] < MOST_GROWTH
    sizes = {path.name: path.stat().st_size for path in uploads.iterdir()}
    noted = session.execute(text("SELECT storage_key, size_bytes FROM uploads")).all()
    assert {row.storage_key: row.size_bytes for row in noted} == sizes
    assert max(sizes.values()) > 300 * MIB


@contextmanager
def begun(sender: Sender, *, length: int, sent: int, chunked: bool = False) -> Iterator[socket.socket]:
    """Announce a body, or a chunk of one, of `length` bytes, and send the first `sent` of them."""
    framing = f"Transfer-Encoding: chunked\r\n\r\n{length:x}" if chunked else f"Content-Length: {length}\r\n"
    head = (
        f"POST /api/ingest/csv HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {sender.token}\r\n"
        f"Content-Type: multipart/form-data; boundary=edge\r\n{framing}\r\n"
    )
    with socket.create_connection(("127.0.0.1", sender.server.port), timeout=60) as line:
        line.sendall(head.encode())
        left = sent
        for block in form(sender.project_id, rows(sent)):
            if left <= 0:
                break
            line.sendall(block[:left])
            left -= len(block)
        yield line


def incoming(uploads: Path) -> list[Path]:
    return list(uploads.glob(f"{INCOMING_PREFIX}*"))


def _is_coming(uploads: Path, size: int) -> Callable[[], bool]:
    return lambda: any(path.stat().st_size > size for path in incoming(uploads))


@pytest.mark.parametrize("how", ["closed", "reset", "closed within a chunk"])
def test_a_client_that_hangs_up_leaves_nothing(sender: Sender, uploads: Path, wait: Wait, how: str) -> None:
    with begun(sender, length=20 * MIB, sent=5 * MIB, chunked="chunk" in how) as line:
        wait(_is_coming(uploads, 4 * MIB), what="half of the file")
        if how == "reset":
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait(lambda: not incoming(uploads), what="the end of what came")
    assert list(uploads.iterdir()) == []


def test_a_client_that_says_nothing_more_has_hung_up(sender: Sender, uploads: Path, wait: Wait) -> None:
    sender.server.start(OPSPIPE_UPLOAD_SILENCE_SECONDS="1")
    with begun(sender, length=20 * MIB, sent=5 * MIB) as line:
        wait(_is_coming(uploads, 4 * MIB), what="half of the file")
        wait(lambda: not incoming(uploads), what="the end of what came")
        assert line.recv(1000).startswith(b"HTTP/1.1 400")
    assert list(uploads.iterdir()) == []


def test_what_a_killed_server_leaves_is_removed_by_upkeep(sender: Sender, uploads: Path, wait: Wait) -> None:
    with begun(sender, length=20 * MIB, sent=5 * MIB):
        wait(_is_coming(uploads, 4 * MIB), what="half of the file")
        sender.server.kill()
    (left,) = uploads.iterdir()
    assert left.name.startswith(INCOMING_PREFIX)
    assert remove_stray_files(datetime.now(UTC) + timedelta(hours=23)) == 0
    assert remove_stray_files(datetime.now(UTC) + timedelta(hours=25)) == 1
    assert list(uploads.iterdir()) == []


def test_a_body_that_is_announced_as_too_large_is_refused_before_it_comes(
    sender: Sender, uploads: Path
) -> None:
    with begun(sender, length=3 * 1024**3, sent=0) as line:
        answer = http.client.HTTPResponse(line)
        answer.begin()
        assert (answer.status, b"PAYLOAD_TOO_LARGE" in answer.read()) == (413, True)
    assert not uploads.exists()


def test_a_body_of_no_announced_length_is_refused_when_it_becomes_too_large(
    sender: Sender, uploads: Path
) -> None:
    sender.server.start(OPSPIPE_MAX_UPLOAD_BYTES=str(4 * MIB))
    assert send(sender, rows(5 * MIB)) == 413
    assert list(uploads.iterdir()) == []


def test_what_is_under_way_when_the_server_is_asked_to_stop_is_answered(sender: Sender) -> None:
    body = b"".join(form(sender.project_id, iter([b"id,prompt\n1,tell a story\n"])))
    head = (
        f"POST /api/ingest/csv HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {sender.token}\r\n"
        f"Content-Type: multipart/form-data; boundary=edge\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", sender.server.port), timeout=60) as line:
        line.sendall(head.encode() + body[:50])
        time.sleep(0.5)
        sender.server.ask_to_stop()
        time.sleep(1)
        line.sendall(body[50:])
        assert line.recv(1000).startswith(b"HTTP/1.1 202")
    sender.server.kill()
