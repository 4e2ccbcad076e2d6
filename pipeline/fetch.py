"""Fetching a URL that somebody gave: only from servers that anybody may ask, bounded in size and time.

Every address is checked, and the connection goes to the very address that was checked: a name that resolves
differently a moment later, or a redirect, leads nowhere else.
"""

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath

import httpx

from pipeline.errors import FatalError, InputError, TransientError

MAX_REDIRECTS = 5
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_ACCEPT = "application/json, application/x-ndjson, application/jsonl;q=0.9, */*;q=0.5"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Answers after which the same request may succeed later.
_PASSING = frozenset({408, 425, 429})
_SERVER_ERRORS = 500

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_url(url: str) -> httpx.URL:
    """Give a URL that can be fetched as far as its text tells.

    Raises:
        InputError: it is not http or https, has no host, or holds a user name or password.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise InputError(f"{url!r} is no URL: {error}") from None
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise InputError(f"{url!r} cannot be fetched: give an http:// or https:// URL")
    if parsed.userinfo:
        raise InputError(
            "the URL holds a user name or password, which would be kept with every record: give it without"
        )
    return parsed


def name_of(url: str) -> str:
    """Give a short name for what a URL leads to: its last part, else its host."""
    parsed = httpx.URL(url)
    return PurePosixPath(parsed.path).name or parsed.host


class Download:
    """The body of an answer, to be read once.

    Args:
        response: with its body not read yet.
        max_bytes: the most bytes of the body, after decompression.
        deadline: the `time.monotonic()` by which it has to be read.
    """

    def __init__(self, response: httpx.Response, *, max_bytes: int, deadline: float) -> None:
        self._host = response.request.headers["Host"]
        self._blocks = response.iter_bytes()
        self._left, self._deadline = max_bytes, deadline
        self._held = b""

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes; nothing at the end.

        Raises:
            InputError: the body is too large.
            FatalError: time is over.
            TransientError: the connection broke.
        """
        while not self._held:
            if time.monotonic() > self._deadline:
                raise FatalError(
                    f"{self._host} did not send all in time: ask for less, or raise OPSPIPE_FETCH_SECONDS"
                )
            try:
                block = next(self._blocks, None)
            except httpx.HTTPError as error:
                raise _broken(self._host, error) from error
            if block is None:
                return b""
            self._left -= len(block)
            if self._left < 0:
                raise InputError(
                    f"{self._host} sends more than is allowed: "
                    "split the batch, or raise OPSPIPE_MAX_UPLOAD_BYTES"
                )
            self._held = block
        block, self._held = self._held[:size], self._held[size:]
        return block


@contextmanager
def open_url(
    url: str,
    *,
    max_bytes: int,
    seconds: float,
    allow_private: bool,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Download]:
    """Ask for a URL and give its body, redirects followed.

    Args:
        url: http or https.
        max_bytes: the most bytes of the body, after decompression.
        seconds: how long all of it may take.
        allow_private: whether addresses that are not public may be asked.
        tls: how servers are verified; by default by the usual authorities.

    Raises:
        InputError: the URL or an address is refused, the answer is too large, or its certificate is wrong.
        FatalError: the server refuses, or redirects too often.
        TransientError: it does not answer, or says "later"; while reading, too.
    """
    deadline = time.monotonic() + seconds
    target = check_url(url)
    with ExitStack() as stack:
        client = stack.enter_context(
            # The environment's proxies would resolve names behind our back.
            httpx.Client(verify=tls or httpx.create_ssl_context(), trust_env=False, timeout=_TIMEOUT)
        )
        for _ in range(MAX_REDIRECTS + 1):
            response = _ask(client, target, allow_private=allow_private)
            stack.callback(response.close)
            if not response.has_redirect_location:
                break
            target = _follow(target, response)
        else:
            raise FatalError(f"{target.host} redirects more than {MAX_REDIRECTS} times")
        _check_status(target, response)
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > max_bytes:
            raise InputError(
                f"{target.host} announces {int(length):,} bytes and {max_bytes:,} are allowed: "
                "split the batch, or raise OPSPIPE_MAX_UPLOAD_BYTES"
            )
        yield Download(response, max_bytes=max_bytes, deadline=deadline)


def _ask(client: httpx.Client, target: httpx.URL, *, allow_private: bool) -> httpx.Response:
    """Send the request to the first of the host's addresses that takes it."""
    addresses = resolve(target, allow_private=allow_private)
    host = target.netloc.decode("ascii")
    for number, address in enumerate(addresses, start=1):
        request = client.build_request(
            "GET",
            target.copy_with(host=str(address)),
            headers={"Host": host, "Accept": _ACCEPT, "User-Agent": "opspipe"},
            # The certificate is that of the name, wherever the connection goes.
            extensions={"sni_hostname": target.raw_host.decode("ascii")},
        )
        try:
            return client.send(request, stream=True)
        except httpx.HTTPError as error:
            if number == len(addresses) or not isinstance(error, httpx.ConnectError):
                raise _broken(host, error) from error
    raise AssertionError("resolve gives at least one address")


def resolve(target: httpx.URL, *, allow_private: bool) -> list[Address]:
    """Give the addresses of a URL's host, each of which may be asked.

    Raises:
        InputError: there is no such host, or one of its addresses is not public.
        TransientError: the name cannot be resolved for now.
    """
    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(target.raw_host.decode("ascii"), port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise TransientError(f"the name {target.host} cannot be resolved for now") from error
        raise InputError(f"there is no host {target.host}: {error.strerror}") from None
    addresses = list(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))
    refused = [address for address in addresses if not is_public(address)]
    if refused and not allow_private:
        raise InputError(
            f"{target.host} is at {refused[0]}, which is no public address: "
            "set OPSPIPE_ALLOW_PRIVATE_URLS=true to fetch from your own network"
        )
    return addresses


def is_public(address: Address) -> bool:
    """Tell whether an address, and the IPv4 address that it may stand for, is one of the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner:
            return is_public(inner)
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local
    )


def _follow(target: httpx.URL, response: httpx.Response) -> httpx.URL:
    following = check_url(str(target.join(response.headers["Location"])))
    if target.scheme == "https" and following.scheme == "http":
        raise FatalError(f"{target.host} redirects from https to http, which anybody on the way could read")
    return following


def _check_status(target: httpx.URL, response: httpx.Response) -> None:
    if response.is_success:
        return
    # No path and no query: they may hold a secret.
    said = f"{target.host} answers {response.status_code} {response.reason_phrase}".rstrip()
    if response.status_code in _PASSING or response.status_code >= _SERVER_ERRORS:
        raise TransientError(said, retry_after=_retry_after(response))
    raise FatalError(f"{said}: check the URL and what it asks for")


def _retry_after(response: httpx.Response) -> float | None:
    """Read `Retry-After`, seconds or a date; None where it is neither."""
    value = response.headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _broken(host: str, error: httpx.HTTPError) -> TransientError | InputError:
    if isinstance(error.__cause__, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY" in str(error):
        return InputError(f"the certificate of {host} cannot be verified: {error}")
    if isinstance(error, httpx.DecodingError):
        return InputError(f"what {host} sends is not compressed as it says: {error}")
    return TransientError(f"{host} did not answer to the end: {type(error).__name__}: {error}".rstrip(": "))
