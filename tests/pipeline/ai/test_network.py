"""Connections by asyncio, against servers of bytes: what arrives, what breaks, and what httpx makes of it."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpcore
import httpx
import pytest

from pipeline.ai.http import HttpServer
from pipeline.ai.network import _MOST_UNREAD_BYTES, AsyncioBackend, AsyncioStream, connect_by_asyncio
from tests.certificates import Authority

Serve = Callable[..., int]
MB = 1024**2
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Let a function have each connection of a port, in a thread; it is hung up on when that ends."""
    listeners: list[socket.socket] = []
    over = threading.Event()

    def accept(listener: socket.socket, handle: Callable[[socket.socket], None]) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                if over.is_set():
                    return
                continue  # a handshake that failed
            with connection, suppress(OSError):
                handle(connection)

    def _serve(handle: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        if tls is not None:
            listener = tls.wrap_socket(listener, server_side=True)
        listeners.append(listener)
        threading.Thread(target=accept, args=(listener, handle), daemon=True).start()
        return port

    yield _serve
    over.set()
    for listener in listeners:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _take_request(connection: socket.socket) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(65536) or b"\r\n\r\n"


def _answer_all(connection: socket.socket) -> None:
    while True:
        _take_request(connection)
        connection.sendall(ANSWER)


def _get(url: str, *, trust: ssl.SSLContext | bool = True, times: int = 1) -> list[httpx.Response]:
    async def work() -> list[httpx.Response]:
        async with httpx.AsyncClient(verify=trust, timeout=5, trust_env=False) as client:
            connect_by_asyncio(client)
            return [await client.get(url) for _ in range(times)]

    return asyncio.run(work())


def _connected(port: int, work: Callable[[httpcore.AsyncNetworkStream], object]) -> None:
    async def run() -> None:
        stream = await AsyncioBackend().connect_tcp("127.0.0.1", port, timeout=5)
        try:
            await work(stream)  # type: ignore[misc]  # each is a coroutine function
        finally:
            await stream.aclose()

    asyncio.run(run())


def test_the_calls_of_a_server_go_by_it(serve: Serve) -> None:
    server = HttpServer(
        f"http://127.0.0.1:{serve(_answer_all)}",
        key=None,
        headers={},
        setting="ai_host",
        key_setting="ai_key",
    )

    async def ask() -> object:
        async with server._client.stream("GET", server.url) as response:
            return response.extensions["network_stream"]

    async def work() -> None:
        assert isinstance(await ask(), AsyncioStream)
        await server.close()

    asyncio.run(work())


def test_an_encrypted_answer_is_read_and_its_connection_kept(serve: Serve, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    connections: list[socket.socket] = []

    def handle(connection: socket.socket) -> None:
        connections.append(connection)
        _answer_all(connection)

    port = serve(handle, authority.serve_as("127.0.0.1"))
    found = _get(f"https://127.0.0.1:{port}/", trust=authority.trust(), times=3)
    assert [answer.content for answer in found] == [b"{}"] * 3
    assert len(connections) == 1


def test_a_certificate_of_another_name_is_refused(serve: Serve, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    port = serve(_answer_all, authority.serve_as("other.test"))
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        _get(f"https://127.0.0.1:{port}/", trust=authority.trust())


def test_a_server_that_speaks_no_tls_is_not_to_be_reached(serve: Serve) -> None:
    def answer_at_once(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(ANSWER)

    port = serve(answer_at_once)
    with pytest.raises(httpx.ConnectError):
        _get(f"https://127.0.0.1:{port}/")


def test_a_handshake_that_does_not_come_is_waited_for_no_longer_than_a_connection(serve: Serve) -> None:
    port = serve(lambda connection: threading.Event().wait(5) and connection.close())

    async def work(stream: httpcore.AsyncNetworkStream) -> None:
        with pytest.raises(httpcore.ConnectTimeout):
            await stream.start_tls(ssl.create_default_context(), "127.0.0.1", timeout=0.05)

    _connected(port, work)


def test_nobody_who_listens_is_a_connect_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(httpx.ConnectError, match="Connect call failed"):
        _get(f"http://127.0.0.1:{port}/")


def test_a_large_answer_arrives_whole(serve: Serve) -> None:
    body = bytes(range(256)) * (20 * MB // 256)

    def handle(connection: socket.socket) -> None:
        _take_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    (answer,) = _get(f"http://127.0.0.1:{serve(handle)}/")
    assert answer.content == body


def test_what_nobody_reads_does_not_fill_the_memory(serve: Serve) -> None:
    sent = [0]

    def handle(connection: socket.socket) -> None:
        for _ in range(64):
            connection.sendall(b"x" * MB)
            sent[0] += 1

    async def work(stream: httpcore.AsyncNetworkStream) -> None:
        before = -1
        while sent[0] != before:
            before = sent[0]
            await asyncio.sleep(0.2)
        # What is read here, and what the kernel takes on both sides.
        assert before < 48
        held = await stream.read(1, timeout=5)
        assert _MOST_UNREAD_BYTES < len(held) < 2 * _MOST_UNREAD_BYTES
        total = len(held)
        while part := await stream.read(1, timeout=5):
            total += len(part)
        assert total == 64 * MB

    _connected(serve(handle), work)


def test_an_answer_that_does_not_come_is_a_read_timeout(serve: Serve) -> None:
    async def work(stream: httpcore.AsyncNetworkStream) -> None:
        with pytest.raises(httpcore.ReadTimeout):
            await stream.read(1, timeout=0.05)

    _connected(serve(lambda connection: connection.recv(1) and None), work)


def test_a_server_that_takes_nothing_is_a_write_timeout(serve: Serve) -> None:
    over = threading.Event()

    async def work(stream: httpcore.AsyncNetworkStream) -> None:
        with pytest.raises(httpcore.WriteTimeout):
            await stream.write(b"x" * 64 * MB, timeout=0.05)
        over.set()

    _connected(serve(lambda _connection: over.wait(5) and None), work)


def test_a_request_that_is_taken_slowly_is_sent_whole(serve: Serve) -> None:
    taken = []

    def handle(connection: socket.socket) -> None:
        while len(b"".join(taken)) < 64 * MB:
            taken.append(connection.recv(4 * MB))
        connection.sendall(b"done")

    async def work(stream: httpcore.AsyncNetworkStream) -> None:
        await stream.write(b"x" * 64 * MB, timeout=30)
        assert await stream.read(65536, timeout=5) == b"done"

    _connected(serve(handle), work)


def test_a_connection_that_is_reset_is_an_error_and_one_that_ends_is_an_end(serve: Serve) -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    async def is_reset(stream: httpcore.AsyncNetworkStream) -> None:
        await stream.write(b"hello", timeout=5)
        with pytest.raises(httpcore.ReadError, match="reset"):
            await stream.read(65536, timeout=5)
        with pytest.raises(httpcore.WriteError):
            await stream.write(b"more", timeout=5)

    async def is_ended(stream: httpcore.AsyncNetworkStream) -> None:
        assert await stream.read(65536, timeout=5) == b"bye"
        assert await stream.read(65536, timeout=5) == b""

    _connected(serve(reset), is_reset)
    _connected(serve(lambda connection: connection.sendall(b"bye")), is_ended)


def test_a_connection_that_the_server_has_ended_meanwhile_is_not_used_again(serve: Serve) -> None:
    def answer_once(connection: socket.socket) -> None:
        _take_request(connection)
        connection.sendall(ANSWER)

    port = serve(answer_once)

    async def work() -> list[bytes]:
        found = []
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            connect_by_asyncio(client)
            for _ in range(3):
                found.append((await client.get(f"http://127.0.0.1:{port}/")).content)
                await asyncio.sleep(0.05)
        return found

    assert asyncio.run(work()) == [b"{}"] * 3


def test_who_stops_waiting_hangs_up(serve: Serve) -> None:
    ended = threading.Event()

    def handle(connection: socket.socket) -> None:
        _take_request(connection)
        with suppress(OSError):
            connection.recv(1)
        ended.set()

    port = serve(handle)

    async def work() -> None:
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            connect_by_asyncio(client)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.get(f"http://127.0.0.1:{port}/")
            assert await asyncio.to_thread(ended.wait, 5)

    asyncio.run(work())
