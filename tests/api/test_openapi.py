"""The description of the API, and the page that shows it."""

import urllib.request

from api.access import ACCESS
from tests.api.client import Client


def test_every_route_is_described_with_the_role_that_it_needs(client: Client) -> None:
    described = client.get("/api/openapi.json").body
    assert described["openapi"].startswith("3.1")
    for route, access in ACCESS.items():
        method, path = route.split(" ")
        # What OPTIONS is for says the protocol of uploads itself.
        if method == "OPTIONS" or path.startswith(("/api/docs", "/api/openapi.json")):
            continue
        operation = described["paths"][path.replace("<", "{").replace(">", "}")][method.lower()]
        assert operation["security"] == ([] if access.least is None else [{"token": []}]), route
        if access.least is not None:
            assert f"the role {access.least}" in operation["description"], route
    # The same each time it is asked for.
    assert client.get("/api/openapi.json").body == described


def test_the_page_needs_no_file_from_outside(client: Client) -> None:
    with urllib.request.urlopen(f"{client._base}/api/docs") as answer:
        page, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
    assert "http" not in page
    assert "script-src 'self'" in policy
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "start.js"):
        assert f'"/api/docs/{name}"' in page
        with urllib.request.urlopen(f"{client._base}/api/docs/{name}") as answer:
            assert len(answer.read()) > 0
    assert client.get("/api/docs/url.json").status == 404
