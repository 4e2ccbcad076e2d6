"""Every route, every role, and whose project it is: the table of roles holds, and is whole."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.orm import Session

from api import create_app
from api.access import ACCESS, Access
from pipeline.ids import new_cuid
from pipeline.projects import create_project
from pipeline.settings import get_settings
from pipeline.tokens import create_token
from pipeline.users import create_user
from schemas.enums import UserRole

ORDER = (UserRole.PENDING, UserRole.USER, UserRole.MANAGER, UserRole.ADMIN)
# What a request is answered that was let in, whatever becomes of it.
LET_IN_EVEN_IF_WRONG = frozenset({200, 201, 202, 204, 400, 404, 405, 409, 412, 415, 502})
TUS = {"Tus-Resumable": "1.0.0"}


class Project(NamedTuple):
    id: str
    job_id: str


Body = dict[str, Any] | None


def body_of(route: str, project: Project) -> Body:
    """Give what a route that changes a project takes."""
    of_project = {"projectId": project.id}
    return {
        "POST /api/ingest/csv": of_project | {"type": "TASK", "csvData": "id,prompt\n1,a story of a cat\n"},
        "POST /api/ingest/api": of_project | {"type": "TASK", "url": "https://example.com/tasks.json"},
        "POST /api/ingest/retroactive-vectorization": of_project,
        "POST /api/ingest/cancel": {"jobId": project.job_id},
        "POST /api/ingest/retry": {"jobId": project.job_id},
        "POST /api/admin/bulk-align": of_project | {"dryRun": True},
        "POST /api/admin/bulk-align/cancel": {"jobId": project.job_id},
        "POST /api/admin/bulk-align/retry": {"jobId": project.job_id},
        "POST /api/analytics/trends": of_project | {"type": "TASK"},
        "DELETE /api/ingest/jobs/<job_id>": None,
        "PUT /api/projects/<project_id>/guidelines": None,
        "DELETE /api/projects/<project_id>": None,
    }[route]


@pytest.fixture(scope="module", autouse=True)
def any_rate() -> Iterator[None]:
    """As many requests as there are routes and roles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSPIPE_RATE_LIMIT", "")
        get_settings.cache_clear()
        yield
    get_settings.cache_clear()


@pytest.fixture
def call(port: int) -> Callable[..., int]:
    def _call(route: str, token: str | None, project: Project, body: Body = None) -> int:
        method, path = route.split(" ")
        path = path.replace("<project_id>", project.id).replace("<job_id>", project.job_id)
        path = path.replace("<upload_id>", "x").replace("<path:name>", "start.js")
        headers = {"Content-Type": "application/json"} | TUS
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request(method, path, json.dumps(body if body is not None else {}), headers)
            return connection.getresponse().status
        finally:
            connection.close()

    return _call


@pytest.fixture
def tokens(session: Session) -> dict[UserRole, str]:
    made = {}
    for role in ORDER:
        create_user(session, f"{role.lower()}@example.com", role)
        made[role] = create_token(session, email=f"{role.lower()}@example.com", name="t")
    session.commit()
    return made


@contextmanager
def project_of(session: Session, owner: str, table: str) -> Iterator[Project]:
    """Make a project with a cancelled job in one of the two tables."""
    owner_id = session.scalar(text("SELECT id FROM profiles WHERE email = :email"), {"email": owner})
    project = create_project(session, f"project {uuid4()}", owner_id=owner_id)
    job_id = new_cuid()
    columns = '"projectId", status, type' if table == "ingest_jobs" else '"projectId", status'
    values = ":project, 'CANCELLED', 'TASK'" if table == "ingest_jobs" else ":project, 'CANCELLED'"
    session.execute(
        text(f"INSERT INTO {table} (id, {columns}) VALUES (:id, {values})"),  # noqa: S608 - our own texts
        {"id": job_id, "project": project.id},
    )
    session.commit()
    yield Project(project.id, job_id)


def table_of(route: str) -> str:
    return "analytics_jobs" if "bulk-align" in route else "ingest_jobs"


@pytest.fixture(scope="module")
def app(servers: None, any_rate: None) -> Flask:  # noqa: ARG001 - they must run
    return create_app()


def test_every_route_is_in_the_table_and_no_other(app: Flask) -> None:
    routes = set()
    for rule in app.url_map.iter_rules():
        methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint.startswith("tus."):
            methods = (
                (rule.methods or set()) if rule.methods in ({"OPTIONS"}, {"HEAD", "OPTIONS"}) else methods
            )
        routes |= {f"{method} {rule.rule}" for method in methods}
    known = {route for route in ACCESS if not route.startswith(("OPTIONS ", "HEAD "))}
    assert {route for route in routes if not route.startswith(("OPTIONS ", "HEAD "))} == known


@pytest.mark.parametrize("route", ACCESS)
def test_a_route_lets_in_its_roles_and_nobody_else(
    route: str, call: Callable[..., int], tokens: dict[UserRole, str]
) -> None:
    access, nothing = ACCESS[route], Project("nowhere", "nowhere")
    if access.least is None:
        assert call(route, None, nothing) not in {401, 403}
        return
    assert call(route, None, nothing) == 401
    assert call(route, "otk_" + "0" * 64, nothing) == 401
    for role, token in tokens.items():
        status = call(route, token, nothing)
        if ORDER.index(role) < ORDER.index(access.least):
            assert status == 403, role
        else:
            assert status in LET_IN_EVEN_IF_WRONG, (role, status)


OWNERS = [route for route, access in ACCESS.items() if access.is_for_owners]


@pytest.mark.parametrize("route", OWNERS)
def test_a_project_is_changed_by_its_owner_and_by_an_admin(
    route: str, call: Callable[..., int], tokens: dict[UserRole, str], session: Session
) -> None:
    manager, admin = tokens[UserRole.MANAGER], tokens[UserRole.ADMIN]
    with project_of(session, "admin@example.com", table_of(route)) as others:
        assert call(route, manager, others, body_of(route, others)) == 403
        assert call(route, admin, others, body_of(route, others)) != 403
    with project_of(session, "manager@example.com", table_of(route)) as own:
        assert call(route, manager, own, body_of(route, own)) not in {401, 403, 404}
    missing = Project(new_cuid(), new_cuid())
    assert call(route, manager, missing, body_of(route, missing)) == 404


def test_a_route_without_a_place_in_the_table_is_closed(monkeypatch: pytest.MonkeyPatch, app: Flask) -> None:
    monkeypatch.setattr("api.access.ACCESS", dict[str, Access]())
    assert app.test_client().get("/api/status").status_code == 403
