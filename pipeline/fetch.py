"""Fetching a batch by its URL: from public addresses only unless allowed, in bounded time and size.

A name is resolved once, every address that it has is checked, and the connection goes to one of those: what
the name resolves to a moment later does not matter. Messages name the host and never path or query, which may
hold a secret.
"""

import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpx

from pipeline.errors import FatalError, InputError, TransientError

MAX_REDIRECTS = 5
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_HEADERS = {
    "Accept": "application/json, application/x-ndjson, application/jsonl, */*;q=0.5",
    # What else a server might choose may grow without limit in a single step.
    "Accept-Encoding": "gzip",
    "User-Agent": "opspipe",
}
# Answers that may be another one later, besides those of 500 and above.
_PASSING = frozenset({408, 425, 429})
_SERVER_ERRORS = 500
_LONGEST_WAIT = 24 * 3600.0
_BLOCK_BYTES = 256 * 1024
# Of zlib: a gzip or a zlib header, whichever is there.
_ANY_HEADER = zlib.MAX_WBITS | 32
_NAME_CHARACTERS = 200
# What an IPv4 address follows for translation: everybody's prefix (RFC 6052), and networks' own (RFC 8215),
# which not every version of Python knows to be private.
_NAT64, _LOCAL_NAT64 = ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48")
# What not every version of Python, or none, takes for special: services of the network that one is in, relays
# of 6to4 (RFC 7526), addresses of documentation (RFC 9637), and Azure's for its machines alone, whose
# number looks as public as any.
_OTHERS = tuple(
    map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "2001::/23", "3fff::/20"))
)

Address = IPv4Address | IPv6Address


def check_url(url: str) -> httpx.URL:
    """Give a URL as far as its text tells that it can be fetched.

    Raises:
        InputError: it is neither http nor https, names no host, or holds a user name or password.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise InputError(f"this is no URL: {error}") from None
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise InputError("a batch is fetched from an http:// or https:// URL only: give one with a host")
    if parsed.userinfo:
        raise InputError(
            "the URL holds a user name or password, which would be kept with every record: give it without"
        )
    return parsed


def safe_name(url: str) -> str:
    """Give a name to show for what a URL leads to: the last part of its path, else its host."""
    parsed = httpx.URL(url)
    part = parsed.path.rstrip("/").rpartition("/")[2]
    shown = "".join(filter(str.isprintable, part)).strip()
    return (shown or parsed.host)[:_NAME_CHARACTERS]


def is_public(address: Address) -> bool:
    """Tell whether an address, and the IPv4 address that it stands for, belongs to the public internet."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner:
            return is_public(inner)
        # Python takes site-local addresses for global, as they are deprecated; networks may still use them.
        if address in _LOCAL_NAT64 or address.is_site_local:
            return False
    is_special = (
        address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local
    )
    return address.is_global and not is_special and not any(address in network for network in _OTHERS)


def resolve(target: httpx.URL, *, allow_private: bool) -> list[Address]:
    """Give the addresses of a URL's host, each of which may be connected to.

    Raises:
        InputError: there is no such host, or one of its addresses is not public.
        TransientError: the name cannot be resolved for now.
    """
    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        # As bytes: text would be encoded again, by older rules for names than the URL's.
        found = socket.getaddrinfo(target.raw_host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise TransientError(f"the name {target.host} cannot be resolved for now") from error
        raise InputError(f"there is no host {target.host}: {error.strerror}") from None
    except (OSError, OverflowError) as error:  # a port or a name that no host can have
        raise InputError(f"{target.host} cannot be connected to: {error}") from None
    addresses = list(dict.fromkeys(ip_address(entry[4][0]) for entry in found))
    refused = next((address for address in addresses if not is_public(address)), None)
    if refused and not allow_private:
        raise InputError(
            f"{target.host} is at {refused}, which is no public address: "
            "set OPSPIPE_ALLOW_PRIVATE_URLS=true to fetch from your own network"
        )
    return addresses


class Download:
    """The body of an answer, to be read once; made by `open_url`."""

    def __init__(self, host: str, response: httpx.Response, *, max_bytes: int, deadline: "_Deadline") -> None:
        self._host, self._deadline = host, deadline
        self._blocks = _decode(host, response)
        self._max_bytes = self._left = max_bytes
        self._held = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes; nothing at the end.

        Raises:
            InputError: the body is too large, or not compressed as its header says.
            TransientError: the connection broke, or time is over.
        """
        while not self._held:
            block = self._next_block()
            if block is None:
                return b""
            self._left -= len(block)
            if self._left < 0:
                raise _too_large(self._host, self._max_bytes)
            self._held = memoryview(block)
        data, self._held = bytes(self._held[:size]), self._held[size:]
        return data

    def _next_block(self) -> bytes | None:
        try:
            block = next(self._blocks, None)
        except httpx.HTTPError as error:
            raise self._deadline.explain(self._host, error) from error
        # A body of no stated length ends well where the deadline cut it off.
        self._deadline.check(self._host)
        return block


@contextmanager
def open_url(
    url: str, *, max_bytes: int, seconds: float, allow_private: bool, tls: ssl.SSLContext | None = None
) -> Iterator[Download]:
    """Ask for a URL, follow its redirects, and give the body of the answer.

    Args:
        url: http or https.
        max_bytes: the most bytes of the body, decompressed.
        seconds: how long all of it may take, from here until the body's end.
        allow_private: whether addresses that are not public may be connected to, link-local ones included.
        tls: how servers are verified; without it, by the usual authorities or those of `SSL_CERT_FILE`.

    Raises:
        InputError: the URL or an address is refused, a certificate is wrong, or the body is too large.
        FatalError: the server refuses, or redirects where it should not.
        TransientError: it does not answer, or not in time, or says that it will later.
    """
    target = check_url(url)
    tls = tls or httpx.create_ssl_context()
    with ExitStack() as stack:
        deadline = stack.enter_context(closing(_Deadline(seconds)))
        for _ in range(MAX_REDIRECTS + 1):
            # A client a hop: no cookie and no connection of a host is used for another at its address.
            hop = stack.enter_context(ExitStack())
            client = hop.enter_context(httpx.Client(verify=tls, trust_env=False, timeout=_TIMEOUT))
            response = hop.enter_context(closing(_ask(client, target, deadline, allow_private=allow_private)))
            if not response.has_redirect_location:
                break
            target = _follow(target, response)
            hop.close()
        else:
            raise FatalError(f"{target.host} redirects more than {MAX_REDIRECTS} times: give the final URL")
        _check_status(target, response)
        if _content_length(response.headers) > max_bytes:
            raise _too_large(target.host, max_bytes)
        yield Download(target.host, response, max_bytes=max_bytes, deadline=deadline)


class _Deadline:
    """The end of a download's time: the connection that is open then is shut down.

    Checks between reads would not do: a server that sends a byte now and then, headers or body, never lets a
    read time out, and no read of a header returns to us.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._ends_at = seconds, time.monotonic() + seconds
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._shut_down)
        self._timer.daemon = True
        self._timer.start()

    def trace(self, event: str, info: Mapping[str, object]) -> None:
        """Note the connection that httpcore has made, as its extension `trace` tells."""
        stream = info.get("return_value")
        if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            self._socket = stream.get_extra_info("socket")  # type: ignore[attr-defined]  # httpcore's stream
            if self._is_over():
                self._shut_down()

    def check(self, host: str) -> None:
        """Raise TransientError if time is over."""
        if self._is_over():
            raise TransientError(
                f"{host} did not send all of the batch within {self._seconds:g} s: "
                "raise OPSPIPE_FETCH_SECONDS if it is large"
            )

    def explain(self, host: str, error: httpx.HTTPError) -> TransientError | InputError:
        """Say why an exchange failed, which may be because of us."""
        self.check(host)
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return InputError(f"the certificate of {host} is not valid: {cause.verify_message}")
            cause = cause.__cause__ or cause.__context__
        return TransientError(
            f"{host} did not answer to the end: {type(error).__name__}: {error}".rstrip(": ")
        )

    def close(self) -> None:
        """Let time go on."""
        self._timer.cancel()

    def _is_over(self) -> bool:
        return time.monotonic() >= self._ends_at

    def _shut_down(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # it is closed already
                # Not by the method of a TLS socket, which would take its state from under the reader.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _ask(
    client: httpx.Client, target: httpx.URL, deadline: _Deadline, *, allow_private: bool
) -> httpx.Response:
    """Send the request to the first of the host's addresses that can be connected to."""
    failure: httpx.HTTPError | None = None
    for address in resolve(target, allow_private=allow_private):
        deadline.check(target.host)
        request = client.build_request(
            "GET",
            target.copy_with(host=str(address)),
            headers=_HEADERS | {"Host": target.netloc.decode("ascii")},
            # The certificate has to be that of the name, wherever the connection goes.
            extensions={"sni_hostname": target.raw_host.decode("ascii"), "trace": deadline.trace},
        )
        try:
            return client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failure = error
        except httpx.HTTPError as error:
            raise deadline.explain(target.host, error) from error
    if failure is None:
        raise TransientError(f"the name {target.host} has no address for now")
    raise deadline.explain(target.host, failure) from failure


def _follow(target: httpx.URL, response: httpx.Response) -> httpx.URL:
    """Give the URL of a redirect, checked as the first one was."""
    try:
        following = check_url(str(target.join(response.headers["Location"])))
    except (httpx.InvalidURL, InputError) as error:
        raise FatalError(f"{target.host} redirects to where nothing is fetched from: {error}") from None
    if target.scheme == "https" and following.scheme == "http":
        raise FatalError(f"{target.host} redirects from https to http, which anybody on the way could change")
    return following


def _check_status(target: httpx.URL, response: httpx.Response) -> None:
    if response.is_success:
        return
    status = response.status_code
    said = f"{target.host} answers with status {status}"
    if status in _PASSING or status >= _SERVER_ERRORS:
        raise TransientError(said, retry_after=_retry_after(response.headers.get("Retry-After", "")))
    raise FatalError(f"{said}: check the URL, and that it can be read without signing in")


def _retry_after(value: str) -> float | None:
    """Give the seconds to wait, up to a day; None where the header is neither a number nor a date."""
    if value.isascii() and value.isdecimal():
        return min(float(value), _LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    # A date whose zone is written as -0000 comes without one, and is in UTC.
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), _LONGEST_WAIT)


def _content_length(headers: httpx.Headers) -> int:
    value = headers.get("Content-Length", "")
    return int(value) if value.isascii() and value.isdecimal() else 0


def _too_large(host: str, max_bytes: int) -> InputError:
    return InputError(
        f"what {host} sends is larger than {max_bytes:,} bytes: "
        "split the batch, or raise OPSPIPE_MAX_UPLOAD_BYTES"
    )


def _decode(host: str, response: httpx.Response) -> Iterator[bytes]:
    encoding = response.headers.get("Content-Encoding", "").strip().lower() or "identity"
    if encoding == "identity":
        return response.iter_raw()
    if encoding in {"gzip", "x-gzip", "deflate"}:
        return _inflate(host, response.iter_raw())
    raise InputError(f"{host} sends the batch in the content encoding {encoding!r}, where gzip was asked for")


def _inflate(host: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress a body in steps of bounded size, however well it is compressed.

    One of several gzip members is read to its end, and one that breaks off is an error; httpx's own decoder
    ends either without a word.
    """
    inflater, is_ended = zlib.decompressobj(_ANY_HEADER), True
    try:
        for data in blocks:
            rest = data
            while rest:
                if inflater.eof:
                    inflater = zlib.decompressobj(_ANY_HEADER)
                if block := inflater.decompress(rest, _BLOCK_BYTES):
                    yield block
                rest = inflater.unconsumed_tail or inflater.unused_data
            is_ended = inflater.eof
        if not is_ended:
            if block := inflater.flush():
                yield block
            is_ended = inflater.eof
    except zlib.error as error:
        raise InputError(f"what {host} sends is not compressed as it says: {error}") from None
    if not is_ended:
        raise TransientError(f"{host} did not send all of the batch: its compressed form breaks off")
