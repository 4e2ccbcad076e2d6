"""What no client sends by accident: other people's projects, paths, injections, odd bodies and requests."""

import base64
import csv
import gzip
import io
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import quote

import pytest

from schemas.enums import UserRole
from tests.security.raw import Raw, connect, request, send
from tests.security.world import FORMULAS, World

JSON = "Content-Type: application/json"
FORM = "Content-Type: multipart/form-data; boundary=edge"
TUS = "Tus-Resumable: 1.0.0"


def owner(world: World) -> str:
    return world.tokens[UserRole.MANAGER]


def admin(world: World) -> str:
    return world.tokens[UserRole.ADMIN]


def post(world: World, path: str, body: object, token: str | None = None, *headers: str) -> Raw:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return send(world.port, request("POST", path, JSON, *headers, token=token or owner(world), body=data))


def refused(answer: Raw, *statuses: int) -> None:
    """See that an answer is an error of the envelope, with one of the statuses."""
    assert answer.status in (statuses or (400,)), answer
    assert set(json.loads(answer.body)) == {"error", "code", "details"}


WRITES = [
    ("DELETE", "/api/projects/{project_id}", None),
    ("PUT", "/api/projects/{project_id}/guidelines", b"%PDF-1.4"),
    ("POST", "/api/ingest/csv", {"projectId": "{project_id}", "type": "TASK", "csvData": "id,prompt\n1,a\n"}),
    ("POST", "/api/ingest/api", {"projectId": "{project_id}", "type": "TASK", "url": "https://example.org/"}),
    ("POST", "/api/ingest/retroactive-vectorization", {"projectId": "{project_id}"}),
    ("POST", "/api/ingest/cancel", {"jobId": "{job_id}"}),
    ("POST", "/api/ingest/retry", {"jobId": "{job_id}"}),
    ("DELETE", "/api/ingest/jobs/{job_id}", None),
    ("POST", "/api/admin/bulk-align", {"projectId": "{project_id}"}),
    ("POST", "/api/admin/bulk-align", {"projectId": "{project_id}", "dryRun": True}),
    ("POST", "/api/analytics/trends", {"projectId": "{project_id}", "type": "TASK"}),
    ("POST", "/api/admin/clear", {"projectId": "{project_id}", "confirm": "x"}),
]


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
def test_a_stranger_writes_to_no_project(world: World, method: str, path: str, body: object) -> None:
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    for name, value in world.known().items():
        path, data = path.replace(f"{{{name}}}", value), data.replace(f"{{{name}}}".encode(), value.encode())
    sent = request(method, path, *([JSON] if data else []), token=world.stranger, body=data)
    refused(send(world.port, sent), 403)


def test_a_stranger_finds_no_upload_of_somebody_else(world: World) -> None:
    made = send(
        world.port, request("POST", "/api/uploads", TUS, "Upload-Length: 4", token=owner(world), body=b"")
    )
    path = made.header("Location") or ""
    assert made.status == 201
    for method in ("HEAD", "PATCH", "DELETE"):
        piece = ["Content-Type: application/offset+octet-stream", "Upload-Offset: 0"]
        sent = request(
            method, path, TUS, *piece, token=world.stranger, body=b"" if method == "HEAD" else b"a"
        )
        assert send(world.port, sent).status == 404
    taken = {"projectId": world.project_id, "type": "TASK", "uploadId": path.rsplit("/", 1)[-1]}
    refused(post(world, "/api/ingest/csv", taken, admin(world)), 404)


NAMES = [
    *(
        "../x.csv",
        "..",
        "/etc/passwd",
        "..\\x.csv",
        "C:\\x.csv",
        "a/../b.csv",
        "a\0.csv",
        "a\r\nX-Evil: 1.csv",
    ),
    *("", " ", "x" * 300, "a\u202e.csv", "\x1b[31m.csv", "a\n.csv", "\u2028.csv", "./.", "//x", "a/"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_name_that_is_no_name_is_refused_wherever_it_stands(world: World, name: str) -> None:
    known = {"projectId": world.project_id, "type": "TASK", "csvData": "id,prompt\n1,a\n"}
    refused(post(world, "/api/ingest/csv", known | {"fileName": name}))
    if name:
        metadata = f"Upload-Metadata: filename {base64.b64encode(name.encode()).decode()}"
        begun = request("POST", "/api/uploads", TUS, "Upload-Length: 1", metadata, token=owner(world))
        refused(send(world.port, begun))
    path = f"/api/projects/{world.project_id}/guidelines?fileName={quote(name, safe='')}"
    refused(send(world.port, request("PUT", path, token=owner(world), body=b"%PDF-1.4")))


PATHS = [
    *("/api/docs/../../etc/passwd", "/api/docs/%2e%2e/%2e%2e/etc/passwd", "/api/docs/..%2f..%2fetc/passwd"),
    *("/api/docs/....//....//etc/passwd", "/api/docs/%00", "/api/docs//etc/passwd", "/api/docs/swagger.html"),
    *(
        "/api/docs/..%5c..%5cetc",
        "/api/docs/%c0%ae%c0%ae/x",
        "//etc/passwd",
        "/static/x",
        "/.git/config",
        "/.env",
    ),
    *(
        "/api/projects/..%2f..%2f/guidelines",
        "/api/ingest/jobs/%2e%2e/rejects.csv",
        "/api;/projects",
        "/API/status",
    ),
    *("/api/ingest/jobs/%00/rejects.csv", "/api/ingest/jobs/a%0d%0aX-Evil:%201/rejects.csv", "/api/%ff%fe"),
    *(
        "/api/uploads/..%2f..%2fetc%2fpasswd",
        "/api/uploads/.resumable-x",
        "/api/jobs/'%20OR%201=1--/failures",
    ),
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_leads_nowhere_but_to_routes(world: World, path: str) -> None:
    answer = send(world.port, request("GET", path, TUS, token=admin(world)))
    assert answer.status in {400, 404, 405, 308}, answer
    assert answer.header("X-Evil") is None
    assert b"root:" not in answer.body


INJECTIONS = [
    *(
        "'",
        "' OR '1'='1",
        "'; DROP TABLE profiles; --",
        '"',
        "\\",
        "%",
        "_",
        "%%%",
        "$1",
        "${7*7}",
        "{{7*7}}",
    ),
    *("1; select pg_sleep(9)", "' union select 1 --", '{"$gt": ""}', "[]", "null", "-1"),
    *(
        "\u0000",
        "\ud7ff\U0010ffff",
        "9" * 400,
        "1e999",
        "NaN",
        "Infinity",
        "٣",
        "2024-01-01' ::date",
        "x" * 900,
    ),
    *("eyJhIjoxfQ==", "W10=", "W251bGwsbnVsbCxudWxsLG51bGxd", "<script>alert(1)</script>", "../../x"),
]
FILTERS = [
    *(f"/api/records?{name}={{}}" for name in ("projectId", "type", "category", "search", "ingestJobId")),
    *(
        f"/api/records?{name}={{}}"
        for name in ("hasAlignment", "sortBy", "order", "limit", "cursor", "include")
    ),
    *(
        "/api/records?sortBy=alignmentScore&cursor={}",
        "/api/ingest/status?jobId={}",
        "/api/ingest/jobs?limit={}",
    ),
    *("/api/ingest/jobs?projectId={}", "/api/ingest/jobs/{}/rejects.csv", "/api/ingest/jobs/{}/events"),
    *(
        "/api/jobs/{}/failures",
        "/api/jobs/{job_id}/failures?cursor={}",
        "/api/jobs/{job_id}/failures?limit={}",
    ),
    *(
        "/api/admin/bulk-align?projectId={}",
        "/api/admin/bulk-align?jobId={}",
        "/api/similarity-flags?projectId={}",
    ),
    *(
        "/api/admin/bonus-windows/records?windowId={}",
        "/api/admin/tokens?userId={}",
        "/api/admin/audit?cursor={}",
    ),
    *(f"/api/admin/audit?{name}={{}}" for name in ("actor", "projectId", "thingId", "action", "limit")),
]


@pytest.mark.parametrize("path", FILTERS)
def test_what_is_injected_is_a_value_and_no_more(world: World, path: str) -> None:
    for value in INJECTIONS:
        asked = path.replace("{job_id}", world.job_id).replace("{}", quote(value, safe=""))
        answer = send(world.port, request("GET", asked, token=admin(world)))
        assert answer.status in {200, 400, 404}, (asked, answer)
        if answer.status == 200 and "search" not in path:
            assert world.record_id.encode() not in answer.body or value in {"", "null"}, asked


BODIES = {
    "deep lists": (b"[" * 100_000 + b"]" * 100_000, 400),
    "deep objects": (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400),
    "never closed": (b"[" * 1_000_000, 400),
    "NaN": (b'{"projectId": "x", "budgetUsd": NaN}', 400),
    "infinity": (b'{"projectId": "x", "budgetUsd": 1e999}', 400),
    "a huge integer": (b'{"projectId": "x", "budgetUsd": -' + b"9" * 5000 + b"}", 400),
    "a half character": (b'{"projectId": "\\ud800"}', 400),
    "a NUL": (b'{"projectId": "a\\u0000b"}', 400),
    "no UTF-8": (b'{"projectId": "\xff"}', 400),
    "UTF-16": ('{"projectId": "x"}'.encode("utf-16"), 400),
    "a byte order mark": (b'\xef\xbb\xbf{"projectId": "x"}', 400),
    "a key twice": (b'{"projectId": "x", "projectId": "y"}', 404),
    "a prototype": (b'{"projectId": "x", "__proto__": {"role": "ADMIN"}}', 400),
    "a list": (b'["projectId"]', 400),
    "a number": (b"1", 400),
    "null": (b"null", 400),
    "nothing": (b"", 400),
    "an object for a text": (b'{"projectId": {"$ne": null}}', 400),
    "a number for a text": (b'{"projectId": 1}', 400),
    "a hundred thousand keys": (b"{" + b",".join(b'"%d":1' % n for n in range(100_000)) + b"}", 400),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_none_is_refused(world: World, name: str) -> None:
    body, status = BODIES[name]
    refused(post(world, "/api/admin/bulk-align", body), status)


def test_a_body_of_json_may_not_be_huge(world: World) -> None:
    told = request("POST", "/api/projects", JSON, f"Content-Length: {10**9}", token=owner(world))
    refused(send(world.port, told), 413)
    streamed = request("POST", "/api/projects", JSON, "Transfer-Encoding: chunked", token=owner(world))
    block = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    # Who goes on sending meanwhile may lose the answer.
    assert send(world.port, streamed + 40 * block + b"0\r\n\r\n").status in {0, 413}


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity, gzip", "GZIP"])
def test_a_packed_body_is_not_unpacked(world: World, coding: str) -> None:
    bomb = gzip.compress(b" " * 50_000_000 + b"{}")
    for kind in (JSON, FORM):
        sent = request(
            "POST",
            "/api/ingest/csv",
            kind,
            f"Content-Encoding: {coding}",
            token=owner(world),
            body=bomb,
        )
        answer = send(world.port, sent)
        refused(answer)
        assert b"Content-Encoding" in answer.body


@pytest.mark.parametrize(
    "kind",
    [
        *(
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/mixed; boundary=edge",
            "text/csv",
        ),
        *(
            "application/x-www-form-urlencoded",
            "application/xml",
            "*/*",
            ";",
            "a" * 3000,
            "application/json\xff",
        ),
    ],
)
def test_a_body_of_another_kind_is_refused_by_every_route_of_json(world: World, kind: str) -> None:
    for path in ("/api/projects", "/api/ingest/csv", "/api/ingest/cancel", "/api/records/similar"):
        for token in (owner(world), admin(world)):
            sent = request("POST", path, f"Content-Type: {kind}", token=token, body=b'{"name": "x"}')
            refused(send(world.port, sent))


@pytest.mark.parametrize("key", ["", "x" * 300, "a\tb", "\x01", "a\xa0b\x85"])
def test_a_key_that_is_none_is_refused(world: World, key: str) -> None:
    body = {"projectId": world.project_id, "type": "TASK", "csvData": "id,prompt\n1,a\n"}
    assert post(world, "/api/ingest/csv", body, None, f"Idempotency-Key: {key}").status == 400


def test_rejected_rows_hold_no_formula(world: World) -> None:
    path = f"/api/ingest/jobs/{world.job_id}/rejects.csv"
    answer = send(world.port, request("GET", path, token=owner(world)).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert answer.status == 200
    cells = [cell for row in csv.reader(io.StringIO(answer.body.decode(), newline="")) for cell in row]
    assert {f"'{formula}" for formula in FORMULAS} <= set(cells)
    assert not [cell for cell in cells if cell[:1] in {*"=+-@\t\r"}]


LINES = {
    "TRACE": (request("TRACE", "/api/status"), {405}),
    "CONNECT": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404, 405}),
    "a method of nobody": (request("FOO", "/api/status"), {400, 405}),
    "a method in small letters": (request("get", "/api/status"), {400, 405}),
    "override by header": (request("GET", "/api/status", "X-HTTP-Method-Override: DELETE"), {200}),
    "override by query": (request("GET", "/api/status?_method=DELETE"), {200}),
    "absolute form": (request("GET", "http://evil.example/api/projects"), {401}),
    "absolute form of a path": (request("GET", "http://evil.example/api/status"), {200}),
    "an asterisk": (request("OPTIONS", "*"), {200, 400, 404}),
    "no path": (b"GET HTTP/1.1\r\nHost: x\r\n\r\n", {0, 400}),
    "a space in the path": (b"GET /api/ status HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "another protocol": (b"GET /api/status FTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "a later version": (b"GET /api/status HTTP/9.9\r\nHost: x\r\n\r\n", {400, 505}),
    "no headers": (b"GET /api/projects HTTP/1.0\r\n\r\n", {401}),
    "two hosts": (request("GET", "/api/projects", "Host: y"), {400, 401}),
    "an odd host": (request("GET", "/api/projects", host="x/../y@z"), {400, 401}),
    "a long path": (request("GET", "/" + "a" * 9000), {400, 414}),
    "a long query": (request("GET", "/api/projects?" + "a" * 9000), {400, 414}),
    "a long header": (request("GET", "/api/projects", "X-A: " + "a" * 20_000), {400, 431}),
    "many headers": (request("GET", "/api/projects", *(f"X-{n}: 1" for n in range(300))), {400, 431}),
    "a folded header": (request("GET", "/api/projects", "X-A: 1\r\n 2"), {400}),
    "a header without a colon": (request("GET", "/api/projects", "X-A"), {400}),
    "a NUL in a header": (request("GET", "/api/projects", "X-A: \0"), {400}),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n", {0, 400}),
}


@pytest.mark.parametrize("name", LINES)
def test_an_odd_request_is_refused_or_answered_as_any_other(world: World, name: str) -> None:
    sent, statuses = LINES[name]
    answer = send(world.port, sent)
    assert answer.status in statuses, answer
    assert b"evil.example" not in answer.body


INSIDE = b"GET /api/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
SMUGGLED = {
    "both lengths": ["Content-Length: 4", "Transfer-Encoding: chunked"],
    "two lengths": ["Content-Length: 4", "Content-Length: 90"],
    "a list of lengths": ["Content-Length: 4, 90"],
    "a length with a sign": ["Content-Length: +4"],
    "a negative length": ["Content-Length: -4"],
    "a length of another script": ["Content-Length: \xb2"],
    "a length in hex": ["Content-Length: 0x4"],
    "an unknown coding": ["Transfer-Encoding: xchunked"],
    "a coding twice": ["Transfer-Encoding: chunked, chunked"],
    "chunked first": ["Transfer-Encoding: chunked, gzip"],
    "a space before the colon": ["Transfer-Encoding : chunked", "Content-Length: 4"],
    "a vertical tab": ["Transfer-Encoding: \x0bchunked"],
    "an underscore": ["Content_Length: 90", "Content-Length: +4"],
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_no_request_is_smuggled_behind_another(world: World, name: str) -> None:
    head = request("POST", "/api/projects", JSON, *SMUGGLED[name]).replace(b"Connection: close\r\n", b"")
    answer = send(world.port, head + b"0\r\n\r\n" + INSIDE)
    assert answer.status in {400, 401, 501}, answer
    assert b'"openapi"' not in answer.body
    assert answer.body.count(b"HTTP/1.1") == 0


HEADERS = ("X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Cache-Control")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/api/status", 200), ("/api/projects", 200), ("/api/docs", 200), ("/api/openapi.json", 200)),
        *(("/metrics", 200), ("/api/nowhere", 404), ("/api/ingest/csv", 405), ("/api/records?limit=x", 400)),
        *(("/api/uploads/x", 405), ("/api/ingest/jobs/{job_id}/events", 200), ("/api/docs/start.js", 200)),
        ("/api/ingest/jobs/{job_id}/rejects.csv", 200),
    ],
)
def test_every_answer_has_its_security_headers_and_is_for_no_other_site(
    world: World, path: str, status: int
) -> None:
    path = path.replace("{job_id}", world.job_id)
    for method in ("GET", "OPTIONS"):
        asked = ("Origin: https://evil.example", "Access-Control-Request-Method: POST")
        answer = send(world.port, request(method, path, *asked, token=admin(world)))
        assert method == "OPTIONS" or answer.status == status
        assert all(answer.header(name) for name in HEADERS), answer
        assert "default-src 'none'" in (answer.header("Content-Security-Policy") or "")
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-control-")]


@contextmanager
def held(port: int, count: int, sent: bytes) -> Iterator[None]:
    """Keep connections open on which a request has begun and does not go on."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(connect(port)).sendall(sent)
        yield


@pytest.mark.parametrize("kind", ["headers", "json", "form", "listeners"])
def test_others_are_answered_while_some_are_slow(world: World, kind: str) -> None:
    job_id = ""
    if kind == "listeners":
        # No worker is there, so that it does not end.
        body = {"projectId": world.project_id, "type": "TASK", "csvData": "id,prompt\n7,a\n", "force": True}
        job_id = json.loads(post(world, "/api/ingest/csv", body).body)["jobId"]
    form = request("POST", "/api/ingest/csv", FORM, "Content-Length: 99", token=owner(world))
    begun = {
        "headers": b"GET /api/status HTTP/1.1\r\nHost: x\r\nX-A: ",
        "json": request("POST", "/api/projects", JSON, "Content-Length: 99", token=owner(world)) + b"{",
        "form": form + b"--edge",
        "listeners": request("GET", f"/api/ingest/jobs/{job_id}/events", token=owner(world)),
    }[kind]
    with held(world.port, 100, begun):
        for _ in range(5):
            asked = request("GET", "/api/projects", token=owner(world))
            assert send(world.port, asked, seconds=5).status == 200


def test_others_are_answered_while_some_do_not_hang_up(world: World) -> None:
    # They were answered before they had sent everything, and go on as if they had not.
    unread = request("POST", "/api/projects", JSON, "Content-Length: 99")
    with held(world.port, 5, unread):
        asked = request("GET", "/api/projects", token=owner(world))
        began = time.monotonic()
        assert send(world.port, asked, seconds=5).status == 200
        assert time.monotonic() - began < 2


def test_a_head_that_does_not_end_is_cut_off(world: World) -> None:
    with socket.create_connection(("127.0.0.1", world.port), timeout=30) as line:
        line.sendall(b"GET /api/status HTTP/1.1\r\nHost: x\r\nX-A: ")
        assert line.recv(1) == b""
