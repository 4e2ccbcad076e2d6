"""Fetching by URL from real servers: whom it asks, what it takes, and what it says when that fails."""

import datetime as dt
import gzip
import ipaddress
import socket
import ssl
import threading
import time
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline.errors import FatalError, InputError, TransientError
from pipeline.fetch import MAX_REDIRECTS, check_url, is_public, name_of, open_url

Site = Any  # the fixture's class is in the conftest

MB = 1024 * 1024


def fetch(
    url: str,
    *,
    max_bytes: int = MB,
    seconds: float = 30.0,
    private: bool = True,
    tls: ssl.SSLContext | None = None,
) -> bytes:
    with open_url(url, max_bytes=max_bytes, seconds=seconds, allow_private=private, tls=tls) as body:
        return b"".join(iter(lambda: body.read(1000), b""))


def test_a_body_is_read_whole(site: Site) -> None:
    data = bytes(range(256)) * 1000
    assert fetch(site.give("/batch.json?key=1", data)) == data
    assert site.asked == [("/batch.json?key=1", f"127.0.0.1:{site.port}")]


def test_a_compressed_body_is_unpacked(site: Site) -> None:
    url = site.give("/", gzip.compress(b"x" * 5000), headers={"Content-Encoding": "gzip"})
    assert fetch(url) == b"x" * 5000


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("127.8.9.10", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),  # noqa: S104 - an address that is refused
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("192.0.2.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("2002:0a00:0001::", False),
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b::93.184.216.34", True),
        ("2001:db8::1", False),
    ],
)
def test_which_addresses_are_public(address: str, *, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0x7f000001", "2130706433", "127.1"])
def test_private_addresses_are_not_asked_however_they_are_written(site: Site, host: str) -> None:
    with pytest.raises(InputError, match=r"OPSPIPE_ALLOW_PRIVATE_URLS|no host|no URL"):
        fetch(f"http://{host}:{site.port}/", private=False)
    assert site.asked == []


def test_a_name_is_resolved_once_and_asked_where_it_was_checked(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    resolve = socket.getaddrinfo

    def resolved(host: str, port: int, *arguments: Any, **others: Any) -> Any:  # noqa: ANN401 - as the original
        if host == "batches.example":
            asked.append(host)
            # Whoever asks a second time gets another answer, as in DNS rebinding.
            host = "127.0.0.1" if len(asked) == 1 else "192.0.2.1"
        return resolve(host, port, *arguments, **others)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    site.give("/", b"here")
    assert fetch(f"http://batches.example:{site.port}/") == b"here"
    assert len(asked) == 1
    assert site.asked == [("/", f"batches.example:{site.port}")]


def test_a_redirect_is_followed_and_checked_like_the_first(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.give("/end", b"there")
    start = site.give("/start", status=302, headers={"Location": "/end"})
    assert fetch(start) == b"there"
    monkeypatch.setattr("pipeline.fetch.is_public", lambda address: str(address) == "127.0.0.1")
    site.give("/start", status=302, headers={"Location": f"http://127.0.0.2:{site.port}/end"})
    with pytest.raises(InputError, match=r"127\.0\.0\.2, which is no public address"):
        fetch(start, private=False)
    assert [path for path, _ in site.asked] == ["/start", "/end", "/start"]


@pytest.mark.parametrize("location", ["ftp://x/y", "http://user:secret@127.0.0.1/"])
def test_a_redirect_to_what_may_not_be_given_is_refused(site: Site, location: str) -> None:
    with pytest.raises(InputError):
        fetch(site.give("/", status=301, headers={"Location": location}))


def test_redirects_in_a_circle_end(site: Site) -> None:
    with pytest.raises(FatalError, match="redirects more than"):
        fetch(site.give("/", status=307, headers={"Location": "/"}))
    assert len(site.asked) == MAX_REDIRECTS + 1


@pytest.mark.parametrize("url", ["ftp://x/y", "file:///etc/passwd", "//x/y", "nothing", "http://"])
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(InputError):
        check_url(url)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="password") as caught:
        check_url("https://me:topsecret@example.com/")
    assert "topsecret" not in str(caught.value)


def test_a_body_that_is_announced_too_large_is_not_read(site: Site) -> None:
    with pytest.raises(InputError, match="announces 2,000 bytes and 1,999 are allowed"):
        fetch(site.give("/", b"x" * 2000), max_bytes=1999)


def test_a_body_that_turns_out_too_large_is_refused(site: Site) -> None:
    url = site.give("/", gzip.compress(b"x" * 100_000), headers={"Content-Encoding": "gzip"})
    with pytest.raises(InputError, match="more than is allowed"):
        fetch(url, max_bytes=99_999)


def test_a_body_that_is_cut_off_is_asked_for_again(site: Site) -> None:
    with pytest.raises(TransientError, match="did not answer to the end"):
        fetch(site.give("/", b"half", headers={"Content-Length": "8"}))


def test_a_body_that_takes_too_long_is_given_up(site: Site) -> None:
    over = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not over.wait(0.02):
            request.wfile.write(b"x")
            request.wfile.flush()

    site.answers["/"] = drip
    with pytest.raises(FatalError, match="OPSPIPE_FETCH_SECONDS"):
        fetch(site.url + "/", seconds=0.2)
    over.set()


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(site: Site, status: int) -> None:
    with pytest.raises(TransientError, match=str(status)) as caught:
        fetch(site.give("/?token=secret", status=status, headers={"Retry-After": "7"}))
    assert caught.value.retry_after == 7.0
    assert "secret" not in str(caught.value)


def test_when_to_ask_again_may_be_a_date(site: Site) -> None:
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    with pytest.raises(TransientError) as caught:
        fetch(site.give("/", status=503, headers={"Retry-After": format_datetime(moment, usegmt=True)}))
    assert 3000 < (caught.value.retry_after or 0) < 3700


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_server_that_refuses_is_not_asked_again(site: Site, status: int) -> None:
    with pytest.raises(FatalError, match=str(status)):
        fetch(site.give("/", status=status))


def test_a_server_that_is_not_there_is_asked_again(site: Site) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(TransientError, match="ConnectError"):
            fetch(f"http://127.0.0.1:{port}/")
    assert site.asked == []


def test_a_host_that_there_is_none_of_is_refused() -> None:
    with pytest.raises((InputError, TransientError), match=r"nowhere\.invalid"):
        fetch("http://nowhere.invalid/")


@pytest.mark.parametrize(
    ("url", "name"),
    [("https://x.example/a/b.json?k=s", "b.json"), ("https://x.example/", "x.example"), ("http://y", "y")],
)
def test_a_batch_is_named_without_what_may_be_secret(url: str, name: str) -> None:
    assert name_of(url) == name


# --- TLS: the connection goes to an address, the certificate is the name's ---


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, secret = folder / "certificate.pem", folder / "key.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return chain, secret


def test_the_certificate_must_be_that_of_the_name(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, secret = make_certificate(tmp_path, "batches.example")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain, secret)
    site.server.socket = server.wrap_socket(site.server.socket, server_side=True)
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _host, *arguments, **others: resolve("127.0.0.1", *arguments, **others)
    )
    site.give("/", b"safe")
    trusting = ssl.create_default_context(cafile=chain)

    assert fetch(f"https://batches.example:{site.port}/", tls=trusting) == b"safe"
    with pytest.raises(InputError, match="certificate of others"):
        fetch(f"https://others.example:{site.port}/", tls=trusting)
    with pytest.raises(InputError, match="certificate of batches"):
        fetch(f"https://batches.example:{site.port}/")


def test_a_redirect_from_https_to_http_is_refused() -> None:
    from pipeline.fetch import _follow  # noqa: PLC0415 - its server would need TLS

    response = httpx.Response(302, headers={"Location": "http://example.com/"})
    with pytest.raises(FatalError, match="https to http"):
        _follow(httpx.URL("https://example.com/"), response)


def test_time_is_counted_from_the_first_request(site: Site) -> None:
    url = site.give("/", b"x")
    with open_url(url, max_bytes=9, seconds=0.01, allow_private=True) as body:
        time.sleep(0.02)
        with pytest.raises(FatalError):
            body.read(1)
