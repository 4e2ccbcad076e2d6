"""HTTP byte by byte, for requests that no client sends, and what no answer may hold."""

import socket
from contextlib import suppress
from dataclasses import dataclass

# Of the inside: files, frames, statements, libraries, what is secret.
_TELLTALES = (
    b"Traceback",
    b'File "',
    b".py",
    b"site-packages",
    b"/home/",
    b"/root/",
    b"/tmp/",
    b"psycopg",
    b"sqlalchemy",
    b"SELECT ",
    b"INSERT INTO",
    b"data_records",
    b"api_tokens",
    b"postgresql://",
    b"redis://",
    b"sha256=",
    b"Werkzeug",
)


@dataclass
class Raw:
    """An answer as it came; status 0 is none at all."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """Give a header's value; two of one name are joined."""
        found = [value for known, value in self.headers if known.lower() == name.lower()]
        return ", ".join(found) if found else None


def connect(port: int, *, seconds: float = 10.0) -> socket.socket:
    """Connect to the web server."""
    return socket.create_connection(("127.0.0.1", port), timeout=seconds)


def send(port: int, request: bytes, *, seconds: float = 10.0) -> Raw:
    """Send bytes, and give the first answer and all that comes behind it."""
    received = b""
    # Who is refused before the end of the request may be hung up on.
    with connect(port, seconds=seconds) as line, suppress(ConnectionError):
        line.sendall(request)
        line.shutdown(socket.SHUT_WR)
        while block := line.recv(65536):
            received += block
    return _parse(received)


def _parse(received: bytes) -> Raw:
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    answer = Raw(int(first.split(" ")[1]) if first else 0, pairs, body)
    check_untold(received)
    return answer


def check_untold(received: bytes) -> None:
    """See that an answer tells nothing of the inside."""
    told = [word for word in _TELLTALES if word in received]
    assert not told, (told, received[:2000])


def request(
    method: str, path: str, *headers: str, token: str | None = None, body: bytes = b"", host: str = "x"
) -> bytes:
    """Write a request whose connection is closed after the answer."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body and not any(line.lower().startswith(("content-length", "transfer-")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
