"""The HTTP door over real HTTP: who is let in, what is answered, what a wrong call is told."""

import json
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import transaction
from pipeline.ledger import ChunkRef
from pipeline.runner import run_chunk
from pipeline.tokens import FIRST_ADMIN, create_token, ensure_first_token, list_tokens, revoke_token
from pipeline.users import create_user
from schemas.enums import Stage, UserRole
from tests.api.client import Answer, Client

CSV = "id,prompt\n1,the first task of all\n2,the second task of all\n"


def submit(client: Client, project_id: str, **fields: str) -> Answer:
    known = {"projectId": project_id, "type": "TASK", "generateEmbeddings": "false"}
    return client.upload("/api/ingest/csv", known | fields, CSV.encode())


def test_the_status_is_open_and_says_how_the_parts_are(client: Client) -> None:
    answer = client.get("/api/status")
    assert answer.status == 200
    assert set(answer.body) == {"status", "database", "broker", "workers", "timestamp"}
    assert (answer.body["database"], answer.body["broker"]) == ("ok", "ok")


def test_the_status_is_503_without_a_database(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.status._database_answers", lambda: False)
    answer = client.get("/api/status")
    assert (answer.status, answer.body["status"], answer.body["database"]) == (503, "down", "down")


def test_a_file_becomes_a_job_whose_counts_can_be_asked_for(admin: Client, project_id: str) -> None:
    answer = submit(admin, project_id)
    assert answer.status == 202
    assert set(answer.body) == {"jobId", "message", "estimatedRecords"}
    assert answer.body["estimatedRecords"] == 2
    job_id = answer.body["jobId"]
    for number in range(2):
        run_chunk(ChunkRef(job_id, Stage.LOAD, number))
    status = admin.get(f"/api/ingest/status?jobId={job_id}")
    assert (status.body["status"], status.body["savedCount"], status.body["totalRecords"]) == (
        "COMPLETED",
        2,
        2,
    )
    assert (
        status.body["progress"] | {"stage": "load", "done": 2, "total": 2, "failed": 0}
        == status.body["progress"]
    )


def test_the_beginning_of_an_id_is_no_id(admin: Client, project_id: str) -> None:
    job_id = submit(admin, project_id).body["jobId"]
    assert admin.get(f"/api/ingest/status?jobId={job_id}").status == 200
    assert admin.get(f"/api/ingest/status?jobId={job_id[:20]}").status == 404


def test_csv_as_json_is_taken_too(admin: Client, project_id: str) -> None:
    body = {"projectId": project_id, "type": "TASK", "csvData": CSV}
    assert admin.post("/api/ingest/csv", body).status == 202


def test_the_same_bytes_again_are_a_conflict_that_names_the_job(admin: Client, project_id: str) -> None:
    first = submit(admin, project_id)
    second = submit(admin, project_id)
    assert (second.status, second.body["code"]) == (409, "DUPLICATE_ENTRY")
    assert second.body["details"]["jobId"] == first.body["jobId"]
    assert submit(admin, project_id, force="true").status == 202


@pytest.mark.parametrize(
    ("fields", "file", "told"),
    [
        ({}, CSV, ("INVALID_INPUT", "projectId")),
        ({"projectId": "PROJECT"}, CSV, ("INVALID_INPUT", "type")),
        ({"projectId": "PROJECT", "type": "NOVEL"}, CSV, ("INVALID_INPUT", "type")),
        ({"projectId": "PROJECT", "type": "TASK"}, None, ("INVALID_INPUT", "file")),
        ({"projectId": "PROJECT", "type": "TASK", "columnMapping": "{"}, CSV, ("INVALID_INPUT", "JSON")),
        (
            {"projectId": "PROJECT", "type": "TASK", "columnMapping": '{"x": "id"}'},
            CSV,
            ("INVALID_INPUT", "x"),
        ),
        ({"projectId": "PROJECT", "type": "TASK", "filterKeywords": "[1"}, CSV, ("INVALID_INPUT", "JSON")),
        ({"projectId": "PROJECT", "type": "TASK", "analyze": "true"}, CSV, ("INVALID_INPUT", "guidelines")),
        ({"projectId": "PROJECT", "type": "TASK"}, "id,prompt\n", ("EMPTY_FILE", "no data record")),
        ({"projectId": "nowhere", "type": "TASK"}, CSV, ("RESOURCE_NOT_FOUND", "nowhere")),
    ],
)
def test_a_wrong_submission_is_told_what_is_wrong(
    admin: Client, project_id: str, fields: dict[str, str], file: str | None, told: tuple[str, str]
) -> None:
    code, word = told
    fields = {name: project_id if value == "PROJECT" else value for name, value in fields.items()}
    answer = admin.upload("/api/ingest/csv", fields, None if file is None else file.encode())
    assert answer.status == (404 if code == "RESOURCE_NOT_FOUND" else 400)
    assert (answer.body["code"], set(answer.body)) == (code, {"error", "code", "details"})
    assert word in answer.body["error"]


def test_a_refused_submission_stores_nothing(admin: Client, project_id: str, session: Session) -> None:
    admin.upload("/api/ingest/csv", {"projectId": project_id, "type": "TASK"}, b"id,prompt\n")
    assert session.scalar(text("SELECT count(*) FROM ingest_jobs")) == 0


@pytest.mark.parametrize("path", ["/api/ingest/status", "/api/ingest/status?jobId=none"])
def test_a_job_that_is_not_named_or_not_there_is_an_error(admin: Client, path: str) -> None:
    assert admin.get(path).status in {400, 404}


def test_without_a_token_nothing_but_the_status_is_open(client: Client) -> None:
    answer = client.get("/api/ingest/status?jobId=x")
    assert (answer.status, answer.body["code"]) == (401, "AUTH_REQUIRED")
    client.token = "otk_" + "0" * 64
    assert client.get("/api/ingest/status?jobId=x").status == 401


@pytest.mark.parametrize(
    ("role", "status"),
    [(UserRole.PENDING, 403), (UserRole.USER, 403), (UserRole.MANAGER, 404), (UserRole.ADMIN, 404)],
)
def test_a_role_below_manager_may_not_see_jobs(
    client: Client, session: Session, role: UserRole, status: int
) -> None:
    create_user(session, "a@example.com", role)
    client.token = create_token(session, email="a@example.com", name="t")
    session.commit()
    assert client.get("/api/ingest/status?jobId=x").status == status


def test_a_revoked_token_is_refused_at_once(admin: Client) -> None:
    assert admin.get("/api/ingest/status?jobId=x").status == 404
    with transaction() as session:
        revoke_token(session, list_tokens(session)[0].id)
    assert admin.get("/api/ingest/status?jobId=x").status == 401


def test_the_first_token_is_made_once_and_stored_as_a_hash(admin: Client, session: Session) -> None:
    assert ensure_first_token(session) is None
    assert [view.email for view in list_tokens(session)] == [FIRST_ADMIN]
    stored = str(session.execute(text("SELECT * FROM api_tokens")).mappings().one())
    assert str(admin.token) not in stored


def test_an_unknown_address_has_the_same_envelope(admin: Client) -> None:
    answer = admin.get("/api/nowhere")
    assert (answer.status, answer.body["code"]) == (404, "RESOURCE_NOT_FOUND")


def test_nothing_of_the_inside_is_told_when_something_breaks(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def _broken(*_: object, **__: object) -> Callable[[], None]:
        raise RuntimeError("SELECT secret FROM inside")

    monkeypatch.setattr("api.jobs.view_jobs", _broken)
    answer = admin.get("/api/ingest/status?jobId=x")
    assert (answer.status, answer.body["code"]) == (500, "INTERNAL_ERROR")
    assert "secret" not in json.dumps(answer.body)
