"""Bodies that are read as they come, because they are too large to be held."""

import socket

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge

from pipeline.errors import TooLargeError
from pipeline.settings import get_settings
from pipeline.storage import Readable, too_large


class BodyStream:
    """A request's body, bounded in size."""

    def __init__(self, source: Readable, most: int) -> None:
        self._source = source
        self._most = most

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes.

        Raises:
            TooLargeError: more came than is taken.
            ClientDisconnected: the connection was cut, or nothing came on it for too long.
        """
        try:
            return self._source.read(size)
        except RequestEntityTooLarge:
            raise TooLargeError(too_large(self._most)) from None


def open_body(*, extra: int = 0) -> BodyStream:
    """Give the request's body to be read block by block.

    Args:
        extra: how many bytes more than the largest upload it may have.

    Raises:
        TooLargeError: it is announced as larger; nothing of it was read.
    """
    most = get_settings().max_upload_bytes
    if (request.content_length or 0) > most + extra:
        raise TooLargeError(too_large(most))
    # One byte more: whoever looks for the end of the largest body is not told that it is too large.
    request.max_content_length = most + extra + 1
    return BodyStream(request.stream, most)


def bound_silence() -> None:
    """Wait for the request's body no longer than a line may be silent, whoever reads it."""
    connection = request.environ.get("gunicorn.socket")
    has_body = request.content_length or "Transfer-Encoding" in request.headers
    if has_body and isinstance(connection, socket.socket):
        # A line that went dead says nothing: without this a thread would wait for it for good.
        connection.settimeout(get_settings().upload_silence_seconds)
