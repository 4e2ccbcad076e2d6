"""Connections of an httpx client by asyncio alone.

httpx reaches its engine's connections through anyio, which gives every other task a turn at each piece of an
answer, so that answers that arrive together are all read late: see docs/decisions/0013.
"""

import asyncio
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import httpcore
import httpx

# More that nobody has read yet is left to the kernel.
_MOST_UNREAD_BYTES = 4 * 1024**2
# Between beginning to try one address of a host and the next (RFC 8305, section 8).
_NEXT_ADDRESS_SECONDS = 0.25


def connect_by_asyncio(client: httpx.AsyncClient) -> None:
    """Let all further connections of a client be of this module, except those through a proxy."""
    # httpcore takes another backend by its constructor, which httpx has no argument for.
    client._transport._pool._network_backend = AsyncioBackend()  # type: ignore[attr-defined] # noqa: SLF001


class AsyncioBackend(httpcore.AsyncNetworkBackend):
    """What httpcore connects by."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a host, at whichever of its addresses answers first.

        Raises:
            httpcore.ConnectTimeout: none of them did in time.
            httpcore.ConnectError: the host is not known, or refuses.
        """
        with _told_as(httpcore.ConnectTimeout, httpcore.ConnectError):
            async with asyncio.timeout(timeout):
                _, connection = await asyncio.get_running_loop().create_connection(
                    _Connection,
                    host,
                    port,
                    local_addr=None if local_address is None else (local_address, 0),
                    happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS,
                )
        for option in socket_options or ():
            connection.transport.get_extra_info("socket").setsockopt(*option)
        return AsyncioStream(connection)

    async def sleep(self, seconds: float) -> None:
        """Wait before a connection is tried again."""
        await asyncio.sleep(seconds)


class AsyncioStream(httpcore.AsyncNetworkStream):
    """One connection, as httpcore reads and writes it."""

    def __init__(self, connection: "_Connection") -> None:
        self._connection = connection

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002, ASYNC109 - httpcore's interface
        """Give all that has arrived, as soon as there is something; nothing at the end.

        That may be more than `max_bytes`: cut up, it would only be put together again.

        Raises:
            httpcore.ReadTimeout: nothing arrived in time.
            httpcore.ReadError: the connection broke.
        """
        with _told_as(httpcore.ReadTimeout, httpcore.ReadError):
            if not self._connection.is_readable:
                async with asyncio.timeout(timeout):
                    await self._connection.wait_until_readable()
            return self._connection.take()

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's interface
        """Send bytes, and wait while the other side takes none.

        Raises:
            httpcore.WriteTimeout: it took none for so long.
            httpcore.WriteError: the connection broke.
        """
        with _told_as(httpcore.WriteTimeout, httpcore.WriteError):
            self._connection.send(buffer)
            if not self._connection.is_writable:
                async with asyncio.timeout(timeout):
                    await self._connection.wait_until_writable()

    async def aclose(self) -> None:
        """Hang up at once, whatever is still to be sent."""
        self._connection.transport.close()
        self._connection.transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
    ) -> httpcore.AsyncNetworkStream:
        """Go on encrypted.

        Raises:
            httpcore.ConnectTimeout: the two did not come to terms in time.
            httpcore.ConnectError: the server's certificate is not to be trusted, or it speaks no TLS.
        """
        with _told_as(httpcore.ConnectTimeout, httpcore.ConnectError):
            try:
                async with asyncio.timeout(timeout):
                    transport = await asyncio.get_running_loop().start_tls(
                        self._connection.transport,
                        self._connection,
                        ssl_context,
                        server_hostname=server_hostname,
                    )
            except BaseException:
                await self.aclose()
                raise
        if transport is None:
            raise httpcore.ConnectError("the server hung up while TLS began")
        self._connection.transport = transport
        return self

    def get_extra_info(self, info: str) -> object:
        """Tell the two things that httpcore asks for; None of anything else."""
        if info == "is_readable":
            return self._connection.is_readable
        return self._connection.transport.get_extra_info(info) if info == "ssl_object" else None


class _Connection(asyncio.Protocol):
    """What has arrived, and whether more may be sent."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._arrived: list[bytes] = []
        self._unread_bytes = 0
        self._is_over, self._is_full = False, False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._arrived.append(data)
        self._unread_bytes += len(data)
        if self._unread_bytes > _MOST_UNREAD_BYTES:
            self.transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> None:
        self._is_over = True
        _wake(self._reader)

    def connection_lost(self, error: Exception | None) -> None:
        self._is_over, self._error = True, error
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        _wake(self._writer)

    @property
    def is_readable(self) -> bool:
        """Whether `take` has something to give, be it the end."""
        return bool(self._arrived) or self._is_over

    @property
    def is_writable(self) -> bool:
        """Whether more may be sent, or never again."""
        return not self._is_full or self._is_over

    async def wait_until_readable(self) -> None:
        self._reader = asyncio.get_running_loop().create_future()
        await self._reader

    async def wait_until_writable(self) -> None:
        self._writer = asyncio.get_running_loop().create_future()
        await self._writer
        self._raise_error()

    def take(self) -> bytes:
        if not self._arrived:
            self._raise_error()
            return b""
        taken = self._arrived[0] if len(self._arrived) == 1 else b"".join(self._arrived)
        self._arrived.clear()
        if self._unread_bytes > _MOST_UNREAD_BYTES and not self._is_over:
            self.transport.resume_reading()
        self._unread_bytes = 0
        return taken

    def send(self, data: bytes) -> None:
        self._raise_error()
        if self.transport.is_closing():
            raise ConnectionResetError("the connection was closed")
        self.transport.write(data)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


@contextmanager
def _told_as(
    timed_out: type[httpcore.TimeoutException], broken: type[httpcore.NetworkError]
) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise timed_out(str(error)) from error
    except OSError as error:
        raise broken(str(error)) from error
