"""Fetching by URL from real servers: whom it connects to, what it takes, and what it says when that fails."""

import gzip
import ipaddress
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.errors import FatalError, InputError, TransientError
from pipeline.fetch import MAX_REDIRECTS, check_url, is_public, open_url, safe_name
from pipeline.settings import Settings
from pipeline.storage import FileStorage
from tests.certificates import Authority

MB = 1024 * 1024
Answer = Callable[[BaseHTTPRequestHandler], None]


class Site(ThreadingHTTPServer):
    """A server whose answers are functions, by path; it notes what it was asked."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.stopped = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what some tests are about."""

    def url(self, path: str = "/", *, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.server_port}{path}"

    def give(
        self, path: str, body: bytes = b"", *, status: int = 200, length: int | None = None, **headers: str
    ) -> str:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            if length is None or length >= 0:
                handler.send_header("Content-Length", str(len(body) if length is None else length))
            handler.end_headers()
            handler.wfile.write(body)

        self.answers[path] = answer
        return self.url(path)

    def redirect(self, path: str, to: str, **headers: str) -> str:
        return self.give(path, status=302, Location=to, **headers)


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Host"], self.headers["Cookie"]))
        self.server.answers[self.path](self)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def make_site() -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def make(tls: ssl.SSLContext | None = None) -> Site:
        sites.append(Site(tls))
        return sites[-1]

    yield make
    for site in sites:
        site.stopped.set()
        site.shutdown()
        site.server_close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Hosts that resolve to what a test says: each time to the next addresses, at last to the same ones."""
    known: dict[str, list[str]] = {}
    resolve = socket.getaddrinfo

    def lookup(host: bytes | str, port: int, *rest: int, **options: int) -> list[tuple[object, ...]]:
        name = host.decode() if isinstance(host, bytes) else host
        addresses = known.get(name)
        if not addresses:
            return resolve(host, port, *rest, **options)
        answer = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return [found for part in answer.split() for found in resolve(part, port, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return known


def fetch(
    url: str,
    *,
    max_bytes: int = MB,
    seconds: float = 60.0,
    private: bool = True,
    tls: ssl.SSLContext | None = None,
    size: int = 1000,
) -> bytes:
    with open_url(url, max_bytes=max_bytes, seconds=seconds, allow_private=private, tls=tls) as body:
        return b"".join(iter(lambda: body.read(size), b""))


def test_a_body_is_read_whole_and_goes_into_storage(site: Site, tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    url = site.give("/batch.json?key=1", data)

    assert fetch(url, size=7777) == data
    with open_url(url, max_bytes=MB, seconds=60, allow_private=True) as body:
        stored = FileStorage(tmp_path).put("batch", body)
    assert stored.size_bytes == len(data)
    assert [asked[:2] for asked in site.asked] == [("/batch.json?key=1", f"127.0.0.1:{site.server_port}")] * 2


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/x",
        "file:///etc/passwd",
        "example.org/x",
        "//example.org",
        "http://",
        "http://a b/",
        "http://[::1/",
        "gopher://127.0.0.1/",
        "HTTP+UNIX://x/y",
        "http://h:99999999/",
        "",
    ],
)
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(InputError):
        fetch(url)


@pytest.mark.parametrize("url", ["https://me:pass@example.org/", "http://token@example.org/"])
def test_a_url_with_credentials_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="user name or password") as refused:
        check_url(url)
    assert "pass@" not in str(refused.value)
    assert "token" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::5db8:d822", True),
        ("127.0.0.1", False),
        ("127.255.0.9", False),
        ("0.0.0.0", False),  # noqa: S104 - an address to refuse
        ("0.1.2.3", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("172.31.255.255", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("224.0.1.1", False),
        ("239.255.255.250", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::7f00:1", False),
        ("::ffff:0:7f00:1", False),
        ("fc00::1", False),
        ("fd12:3456::1", False),
        ("fe80::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("ff0e::1", False),
        ("2001:db8::1", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("2002:a00:1::1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b:1::5db8:d822", False),
    ],
)
def test_which_addresses_are_public(address: str, *, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


# Networks none of whose addresses is anybody's server on the internet, and those right before and after each
# that may be one.
NETWORKS_V4 = {
    "0.0.0.0/8": ["1.0.0.0"],
    "10.0.0.0/8": ["9.255.255.255", "11.0.0.0"],
    "100.64.0.0/10": ["100.63.255.255", "100.128.0.0"],
    "127.0.0.0/8": ["126.255.255.255", "128.0.0.0"],
    "168.63.129.16/32": ["168.63.129.15", "168.63.129.17"],
    "169.254.0.0/16": ["169.253.255.255", "169.255.0.0"],
    "172.16.0.0/12": ["172.15.255.255", "172.32.0.0"],
    "192.0.0.0/24": ["191.255.255.255", "192.0.1.0"],
    "192.0.2.0/24": ["192.0.1.255", "192.0.3.0"],
    "192.88.99.0/24": ["192.88.98.255", "192.88.100.0"],
    "192.168.0.0/16": ["192.167.255.255", "192.169.0.0"],
    "198.18.0.0/15": ["198.17.255.255", "198.20.0.0"],
    "198.51.100.0/24": ["198.51.99.255", "198.51.101.0"],
    "203.0.113.0/24": ["203.0.112.255", "203.0.114.0"],
    "224.0.0.0/4": ["223.255.255.255"],
    "240.0.0.0/4": [],
}
NETWORKS_V6 = {
    "::/96": [],
    "::ffff:0:0:0/96": [],
    "64:ff9b:1::/48": [],
    "100::/64": [],
    "2001::/23": ["2001:200::"],
    "2001:db8::/32": ["2001:db7:ffff::", "2001:db9::"],
    "3fff::/20": ["3fff:1000::"],
    "fc00::/7": [],
    "fe80::/10": [],
    "fec0::/10": [],
    "ff00::/8": [],
}


def forms(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[str]:
    """Give an address as it is, and an IPv4 address as IPv6 has it: mapped, of 6to4, of NAT64."""
    if isinstance(address, ipaddress.IPv6Address):
        return [str(address)]
    high, low = divmod(int(address), 0x10000)
    prefixes = ("::ffff:", "64:ff9b::")
    embedded = [f"{prefix}{high:x}:{low:x}" for prefix in prefixes]
    return [str(address), *embedded, f"2002:{high:x}:{low:x}::1"]


def test_no_address_of_a_special_network_is_public_and_those_beside_it_are() -> None:
    refused, taken = [], []
    for name, beside in (NETWORKS_V4 | NETWORKS_V6).items():
        network = ipaddress.ip_network(name)
        places = {0, network.num_addresses // 3, network.num_addresses // 2, network.num_addresses - 1}
        refused += [form for place in places for form in forms(network[place])]
        taken += [form for address in beside for form in forms(ipaddress.ip_address(address))]
    assert [form for form in refused if is_public(ipaddress.ip_address(form))] == []
    assert [form for form in taken if not is_public(ipaddress.ip_address(form))] == []
    assert (len(refused), len(taken)) == (288, 116)


# A host that leads to this machine or the network, as it may be written; of some, getaddrinfo knows nothing.
PRIVATE_HOSTS = [
    "127.0.0.1",
    "localhost",
    "LOCALHOST",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0X7F000001",
    "0x7f.1",
    "0x7f.0x0.0x0.0x1",
    "127.1",
    "127.0.1",
    "0",
    "0.0.0.0",  # noqa: S104 - an address to refuse
    "127\N{IDEOGRAPHIC FULL STOP}0\N{IDEOGRAPHIC FULL STOP}0\N{IDEOGRAPHIC FULL STOP}1",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]",
    "[fe80::1%lo]",
    "@127.0.0.1",
]
STRANGE_HOSTS = [
    "127.0.0.1.",
    "localhost.",
    "0177.0.0.1",
    "127.0.0.01",
    "4294967297",
    "127.0.0.256",
    "[fe80::1%25lo]",
    "[::1%25lo]",
    "[::1",
    "%31%32%37.0.0.1",
    "%6cocalhost",
    "127.0.0.1%00.example.org",
    "\N{CIRCLED DIGIT ONE}27.0.0.1",
    "127.0.0.1\t",
    "127.0.0.1 ",
    "127.0.0.1%20",
    "example.org@127.0.0.1",
    ":@127.0.0.1",
    ":x@127.0.0.1",
    "example.org\\@127.0.0.1",
    "127.0.0.1\\@example.org",
    "example.org%40127.0.0.1",
    "127.0.0.1:80",
]


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_a_private_address_is_refused_however_it_is_written(site: Site, host: str) -> None:
    with pytest.raises(InputError, match="no public address: set OPSPIPE_ALLOW_PRIVATE_URLS") as refused:
        fetch(site.url("/?secret=1", host=host), private=False)
    assert "secret" not in str(refused.value)
    assert site.asked == []


@pytest.mark.parametrize("host", STRANGE_HOSTS)
def test_a_host_that_programs_read_in_different_ways_leads_nowhere(site: Site, host: str) -> None:
    with pytest.raises(InputError):
        fetch(site.url(host=host), private=False)
    assert site.asked == []


@pytest.mark.parametrize(
    "found",
    ["93.184.216.34 10.0.0.7", "10.0.0.7 93.184.216.34", "93.184.216.34 2606:4700::1 ::ffff:10.0.0.7"],
)
@pytest.mark.parametrize("host", ["two.test", "two.test."])
def test_one_private_address_of_several_is_enough_wherever_it_stands(
    names: dict[str, list[str]], found: str, host: str
) -> None:
    names[host] = [found]

    with pytest.raises(InputError, match="no public address"):
        fetch(f"http://{host}/", private=False)


@pytest.fixture
def _loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take one address for public, as no public server is asked here; every other one is as it is."""
    monkeypatch.setattr(
        "pipeline.fetch.is_public", lambda address: str(address) == "127.0.0.1" or is_public(address)
    )


@pytest.mark.usefixtures("_loopback_is_public")
@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "224.0.0.1",
        "0.0.0.0",  # noqa: S104 - an address to refuse
        "2130706434",
        "0x7f000002",
        "017700000002",
        "127.2",
        "[::1]",
        "[::ffff:127.0.0.2]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
        "[fd00:ec2::254]",
        "[fe80::1%lo]",
        "[ff02::1]",
    ],
)
def test_a_redirect_to_an_address_of_the_network_is_refused_however_it_is_written(
    site: Site, host: str
) -> None:
    site.redirect("/", f"http://{host}:{site.server_port}/there")

    with pytest.raises(InputError, match="no public address"):
        fetch(site.url(), private=False)
    assert len(site.asked) == 1


@pytest.mark.usefixtures("_loopback_is_public")
def test_an_answer_that_changes_after_the_check_does_not_matter(
    site: Site, names: dict[str, list[str]]
) -> None:
    site.give("/", b"[]")
    names["rebinding.test"] = ["127.0.0.1", "10.0.0.1"]

    assert fetch(site.url(host="rebinding.test"), private=False) == b"[]"
    assert names["rebinding.test"] == ["10.0.0.1"]


@pytest.mark.usefixtures("_loopback_is_public")
def test_a_name_is_checked_anew_at_a_redirect_to_itself(site: Site, names: dict[str, list[str]]) -> None:
    site.redirect("/", "/there")
    names["rebinding.test"] = ["127.0.0.1", "10.0.0.1"]

    with pytest.raises(InputError, match=r"rebinding\.test is at 10\.0\.0\.1"):
        fetch(site.url(host="rebinding.test"), private=False)
    assert [path for path, *_ in site.asked] == ["/"]


def test_a_host_with_one_private_address_of_several_is_refused(names: dict[str, list[str]]) -> None:
    names["two.test"] = ["93.184.216.34 10.0.0.7"]

    with pytest.raises(InputError, match=r"two\.test is at 10\.0\.0\.7"):
        fetch("http://two.test/", private=False)


def test_the_connection_goes_to_the_address_that_was_checked(site: Site, names: dict[str, list[str]]) -> None:
    site.give("/", b"[]")
    # A second resolution would lead to where nobody listens.
    names["rebinding.test"] = ["127.0.0.1", "127.0.0.2"]

    assert fetch(site.url(host="rebinding.test")) == b"[]"
    assert site.asked[0][1] == f"rebinding.test:{site.server_port}"
    assert names["rebinding.test"] == ["127.0.0.2"]


def test_the_next_address_is_tried_where_nobody_listens(site: Site, names: dict[str, list[str]]) -> None:
    site.give("/", b"[]")
    names["several.test"] = ["127.0.0.2 127.0.0.1"]

    assert fetch(site.url(host="several.test")) == b"[]"


def test_a_host_that_does_not_exist_is_an_input_error() -> None:
    with pytest.raises(InputError, match="there is no host"):
        fetch("http://a..b/")


def test_the_environments_proxy_is_not_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    assert fetch(site.give("/", b"[]")) == b"[]"


def test_redirects_are_followed(site: Site) -> None:
    for number in range(MAX_REDIRECTS):
        site.redirect(f"/{number}", f"{number + 1}", Set_Cookie="session=1")
    site.give(f"/{MAX_REDIRECTS}", b"{}")

    assert fetch(site.url("/0")) == b"{}"
    assert len(site.asked) == MAX_REDIRECTS + 1
    assert all(cookie is None for _, _, cookie in site.asked)


def test_a_redirect_loop_ends(site: Site) -> None:
    with pytest.raises(FatalError, match=f"redirects more than {MAX_REDIRECTS} times"):
        fetch(site.redirect("/loop", "/loop"))
    assert len(site.asked) == MAX_REDIRECTS + 1


def test_a_redirect_to_a_private_address_is_refused(
    site: Site, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.redirect("/", "http://inside.test/")
    names["outside.test"], names["inside.test"] = ["127.0.0.1"], ["127.0.0.3"]
    # The one address that the test calls public, as no public server is asked here.
    monkeypatch.setattr("pipeline.fetch.is_public", lambda address: str(address) == "127.0.0.1")

    with pytest.raises(InputError, match=r"inside\.test is at 127\.0\.0\.3, which is no public address"):
        fetch(site.url(host="outside.test"), private=False)


@pytest.mark.parametrize("to", ["ftp://example.org/x", "file:///etc/passwd", "http://u:p@example.org/"])
def test_a_redirect_to_what_is_not_fetched_is_refused(site: Site, to: str) -> None:
    with pytest.raises(FatalError, match="redirects to where nothing is fetched from"):
        fetch(site.redirect("/", to))


def test_a_body_larger_than_allowed_is_refused_before_it_is_read(site: Site) -> None:
    url = site.give("/", b"", length=1001)

    with (
        pytest.raises(InputError, match="larger than 1,000 bytes"),
        open_url(url, max_bytes=1000, seconds=60, allow_private=True),
    ):
        pytest.fail("it was opened")


@pytest.mark.parametrize("size", [999, 1000])
def test_a_body_as_large_as_allowed_is_taken(site: Site, size: int) -> None:
    assert len(fetch(site.give("/", b"x" * size, length=-1), max_bytes=1000)) == size


def test_a_body_of_no_stated_length_is_refused_when_it_is_too_large(site: Site) -> None:
    with pytest.raises(InputError, match="larger than 1,000 bytes"):
        fetch(site.give("/", b"x" * 1001, length=-1), max_bytes=1000)


def test_a_compressed_body_is_unpacked(site: Site) -> None:
    data = b"[1, 2]" * 100_000

    assert fetch(site.give("/gzip", gzip.compress(data), Content_Encoding="gzip")) == data
    assert fetch(site.give("/deflate", zlib.compress(data), Content_Encoding="deflate")) == data
    assert fetch(site.give("/empty", b"", Content_Encoding="gzip")) == b""


def test_all_members_of_a_compressed_body_are_read(site: Site) -> None:
    members = gzip.compress(b"[1,") + gzip.compress(b"") + gzip.compress(b"2]")

    assert fetch(site.give("/", members, Content_Encoding="gzip")) == b"[1,2]"


@pytest.mark.parametrize("cut", [1, 8, 9, 300])
def test_a_compressed_body_that_breaks_off_is_not_taken_for_whole(site: Site, cut: int) -> None:
    data = gzip.compress(bytes(range(256)) * 40 + b"".join(map(str.encode, map(str, range(900)))))

    with pytest.raises(TransientError, match="breaks off"):
        fetch(site.give("/", data[:-cut], Content_Encoding="gzip"))


def test_a_body_is_measured_unpacked_and_unpacked_in_steps(site: Site) -> None:
    bomb = gzip.compress(b"\0" * (64 * MB))
    url = site.give("/", bomb, Content_Encoding="gzip")

    with open_url(url, max_bytes=MB, seconds=60, allow_private=True) as body:
        assert [len(body.read(64 * MB)) for _ in range(4)] == [MB // 4] * 4
        with pytest.raises(InputError, match="larger than 1,048,576 bytes"):
            body.read(1)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "nonsense"])
def test_an_encoding_that_was_not_asked_for_is_refused(site: Site, encoding: str) -> None:
    with pytest.raises(InputError, match="content encoding"):
        fetch(site.give("/", b"x", Content_Encoding=encoding))


def test_what_is_not_compressed_as_it_says_is_refused(site: Site) -> None:
    with pytest.raises(InputError, match="not compressed as it says"):
        fetch(site.give("/", b"[1, 2, 3]", Content_Encoding="gzip"))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 304, 300])
def test_a_refusal_stops_the_job_and_names_status_and_host_only(site: Site, status: int) -> None:
    url = site.give("/path?token=secret", status=status)

    with pytest.raises(FatalError, match=f"127.0.0.1 answers with status {status}") as refused:
        fetch(url)
    assert "secret" not in str(refused.value)
    assert "path" not in str(refused.value)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_server_that_is_busy_is_asked_again_when_it_says(site: Site, status: int) -> None:
    with pytest.raises(TransientError, match=f"status {status}") as busy:
        fetch(site.give("/", status=status, Retry_After="120"))
    assert busy.value.retry_after == 120


def test_a_date_to_retry_after_is_understood(site: Site) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    with pytest.raises(TransientError) as busy:
        fetch(site.give("/", status=503, Retry_After=when))
    assert busy.value.retry_after is not None
    assert 0 < busy.value.retry_after <= 3600


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", None),
        ("soon", None),
        ("-5", None),
        ("\xb2", None),
        ("0", 0),
        ("9" * 400, 86400),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0),
        ("Wed, 21 Oct 9000 07:28:00 GMT", 86400),
        ("Wed, 21 Oct 2015 07:28:00 +99999999999999", None),
    ],
)
def test_no_other_time_to_retry_after_is_believed(site: Site, value: str, seconds: float | None) -> None:
    with pytest.raises(TransientError) as busy:
        fetch(site.give("/", status=503, Retry_After=value))
    assert busy.value.retry_after == seconds


def test_a_body_that_breaks_off_is_a_transient_error_of_reading(site: Site) -> None:
    url = site.give("/", b"x" * 5000, length=9000)

    with open_url(url, max_bytes=MB, seconds=60, allow_private=True) as body:
        assert body.read(5000)
        with pytest.raises(TransientError, match="did not answer to the end"):
            list(iter(lambda: body.read(1000), b""))


def test_a_refused_connection_is_a_transient_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(TransientError):
            fetch(f"http://127.0.0.1:{taken.getsockname()[1]}/")


def test_a_server_that_says_nothing_is_a_transient_error(site: Site) -> None:
    site.answers["/"] = lambda handler: handler.connection.shutdown(socket.SHUT_RDWR)

    with pytest.raises(TransientError):
        fetch(site.url("/"))


def drip(start: bytes, piece: bytes) -> Answer:
    """Send `piece` again and again, so that no single read takes long and the answer never ends."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        while not handler.server.stopped.wait(0.02):  # type: ignore[attr-defined]  # the server is a Site
            handler.wfile.write(piece)

    return answer


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        pytest.param(OK + b"Content-Length: 900000\r\n\r\n", b"x", id="body of a stated length"),
        pytest.param(OK + b"Connection: close\r\n\r\n", b"x", id="body that ends with the connection"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", id="chunks"),
        pytest.param(OK + b"X-Long: ", b"x", id="header"),
        pytest.param(b"", b"", id="nothing"),
    ],
)
def test_a_server_that_never_ends_is_left_when_time_is_over(site: Site, start: bytes, piece: bytes) -> None:
    site.answers["/"] = drip(start, piece)

    with pytest.raises(TransientError, match=r"within 0\.5 s: raise OPSPIPE_FETCH_SECONDS"):
        fetch(site.url("/"), seconds=0.5)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_the_certificate_is_verified_by_name_although_the_connection_goes_to_an_address(
    make_site: Callable[..., Site], names: dict[str, list[str]], authority: Authority
) -> None:
    context, indicated = authority.serve_as("batches.test"), list[str | None]()
    context.sni_callback = lambda _socket, name, _context: indicated.append(name)
    site = make_site(context)
    site.give("/", b"[]")
    names["batches.test"] = names["other.test"] = ["127.0.0.1"]

    assert fetch(site.url(host="batches.test", scheme="https"), tls=authority.trust()) == b"[]"
    assert indicated == ["batches.test"]
    assert site.asked[0][1] == f"batches.test:{site.server_port}"
    for wrong in ("other.test", "127.0.0.1"):
        with pytest.raises(InputError, match=rf"the certificate of {wrong} is not valid"):
            fetch(site.url(host=wrong, scheme="https"), tls=authority.trust())


def test_a_certificate_of_an_unknown_authority_is_refused(
    make_site: Callable[..., Site], authority: Authority
) -> None:
    site = make_site(authority.serve_as("127.0.0.1"))
    site.give("/", b"[]")

    assert fetch(site.url(scheme="https"), tls=authority.trust()) == b"[]"
    with pytest.raises(InputError, match=r"the certificate of 127\.0\.0\.1 is not valid"):
        fetch(site.url(scheme="https"))


def test_a_redirect_from_https_to_http_is_refused(
    make_site: Callable[..., Site], authority: Authority
) -> None:
    site, plain = make_site(authority.serve_as("127.0.0.1")), make_site()
    site.redirect("/", plain.give("/plain", b"[]"))

    with pytest.raises(FatalError, match="from https to http"):
        fetch(site.url(scheme="https"), tls=authority.trust())
    assert plain.asked == []


def test_a_redirect_to_another_name_at_the_same_address_is_verified_anew(
    make_site: Callable[..., Site], names: dict[str, list[str]], authority: Authority
) -> None:
    site = make_site(authority.serve_as("batches.test"))
    names["batches.test"] = names["other.test"] = ["127.0.0.1"]
    site.redirect("/", site.url("/there", host="other.test", scheme="https"))

    with pytest.raises(InputError, match=r"the certificate of other\.test"):
        fetch(site.url(host="batches.test", scheme="https"), tls=authority.trust())


def test_a_tls_server_that_never_ends_is_left_when_time_is_over(
    make_site: Callable[..., Site], authority: Authority
) -> None:
    site = make_site(authority.serve_as("127.0.0.1"))
    site.answers["/"] = drip(OK + b"X-Long: ", b"x")

    with pytest.raises(TransientError, match="OPSPIPE_FETCH_SECONDS"):
        fetch(site.url(scheme="https"), tls=authority.trust(), seconds=0.5)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.org/data/batch.json?token=1#part", "batch.json"),
        ("https://example.org/data/", "data"),
        ("https://example.org", "example.org"),
        ("https://example.org/?file=x", "example.org"),
        ("https://example.org/a%20b%0A%E2%80%AEc.json", "a bc.json"),
        ("https://example.org/..%2F..%2Fetc%2Fpasswd", "passwd"),
        (f"https://example.org/{'x' * 500}", "x" * 200),
    ],
)
def test_what_a_batch_is_called(url: str, name: str) -> None:
    assert safe_name(url) == name


def test_private_addresses_are_not_allowed_by_default() -> None:
    assert Settings().allow_private_urls is False
    assert Settings().fetch_seconds == 1800
