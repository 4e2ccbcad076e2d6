"""Projects, bonus windows, settings, users, tokens, the audit log and metrics over real HTTP."""

import base64
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ledger import ChunkRef
from pipeline.runner import run_chunk
from pipeline.sample import write_guidelines_pdf
from pipeline.settings import get_settings
from schemas.enums import Stage, UserRole
from tests.api.client import Answer, Client

SignIn = Callable[[str, UserRole], Client]
WINDOW = {"startTime": "2026-11-01T00:00:00Z", "endTime": "2026-11-30T23:59:59Z", "targetTaskCount": 10}


def ask(client: Client, method: str, path: str, body: object = None) -> Answer:
    data = None if body is None else json.dumps(body).encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    address = f"{client._base}{path}"
    return client._send(urllib.request.Request(address, data=data, headers=headers, method=method))


@pytest.fixture
def pdf(tmp_path: Path) -> bytes:
    write_guidelines_pdf(tmp_path / "g.pdf")
    return (tmp_path / "g.pdf").read_bytes()


def test_a_project_is_made_with_guidelines_and_belongs_to_who_made_it(sign_in: SignIn, pdf: bytes) -> None:
    ann = sign_in("ann@example.com", UserRole.MANAGER)
    uri = "data:application/pdf;base64," + base64.b64encode(pdf).decode()
    made = ann.post("/api/projects", {"name": "stories", "guidelines": uri, "guidelinesFileName": "a.pdf"})
    assert (made.status, set(made.body)) == (201, {"id", "name"})
    (found,) = ann.get("/api/projects").body["projects"]
    assert (found["name"], found["hasGuidelines"], found["guidelinesFileName"]) == ("stories", True, "a.pdf")
    again = ann.post("/api/projects", {"name": " stories "})
    assert (again.status, again.body["code"]) == (409, "DUPLICATE_ENTRY")
    assert ask(ann, "DELETE", f"/api/projects/{made.body['id']}").status == 200


def test_a_project_whose_guidelines_cannot_be_read_is_not_made(admin: Client) -> None:
    answer = admin.post("/api/projects", {"name": "stories", "guidelines": "bm8gcGRm"})
    assert (answer.status, answer.body["code"]) == (400, "INVALID_INPUT")
    assert admin.get("/api/projects").body["projects"] == []


def test_a_project_is_not_called_like_the_id_of_another_one(admin: Client, project_id: str) -> None:
    assert admin.post("/api/projects", {"name": project_id}).status == 400


def test_guidelines_are_put_as_the_pdf_itself(admin: Client, project_id: str, pdf: bytes) -> None:
    path = f"{admin._base}/api/projects/{project_id}/guidelines?fileName=rules.pdf"
    request = urllib.request.Request(path, data=pdf, method="PUT")
    request.add_header("Content-Type", "application/pdf")
    answer = admin._send(request)
    assert answer.status == 200
    assert answer.body["rules"] > 0
    (found,) = admin.get("/api/projects").body["projects"]
    assert found["guidelinesFileName"] == "rules.pdf"


def load(client: Client, project_id: str) -> None:
    body = {
        "projectId": project_id,
        "type": "TASK",
        "csvData": "id,prompt\n1,the first story of all\n2,the second story of all\n",
        "generateEmbeddings": False,
    }
    job_id = client.post("/api/ingest/csv", body).body["jobId"]
    for number in range(2):
        run_chunk(ChunkRef(job_id, Stage.LOAD, number))


def test_a_deleted_project_takes_its_records_along(admin: Client, project_id: str, session: Session) -> None:
    # What other tests sent lies there too.
    before = set(get_settings().uploads_folder.glob("*"))
    load(admin, project_id)
    assert set(get_settings().uploads_folder.iterdir()) > before
    answer = ask(admin, "DELETE", f"/api/projects/{project_id}")
    assert (answer.status, answer.body) == (200, {"deletedRecords": 2, "deletedJobs": 1})
    for table in ("data_records", "record_identities", "ingest_jobs", "uploads", "projects"):
        assert session.scalar(text(f"SELECT count(*) FROM {table}")) == 0  # noqa: S608 - names of ours
    assert set(get_settings().uploads_folder.iterdir()) == before


def test_a_project_is_cleared_by_who_says_its_name(admin: Client, project_id: str) -> None:
    load(admin, project_id)
    wrong = admin.post("/api/admin/clear", {"projectId": project_id, "confirm": "another"})
    assert wrong.status == 400
    answer = admin.post("/api/admin/clear", {"projectId": project_id, "confirm": "demo"})
    assert (answer.status, answer.body) == (200, {"deletedRecords": 2, "deletedJobs": 1})
    assert [project["id"] for project in admin.get("/api/projects").body["projects"]] == [project_id]
    load(admin, project_id)
    assert len(admin.get("/api/records").body["records"]) == 2


def test_a_bonus_window_is_made_changed_shown_and_deleted(admin: Client) -> None:
    made = admin.post("/api/admin/bonus-windows", WINDOW)
    assert made.status == 201
    window_id = made.body["id"]
    changed = ask(admin, "PATCH", "/api/admin/bonus-windows", {"windowId": window_id, "name": "November"})
    assert (changed.status, changed.body["name"], changed.body["targetTaskCount"]) == (200, "November", 10)
    (listed,) = admin.get("/api/admin/bonus-windows").body["windows"]
    assert listed == changed.body
    standings = admin.get(f"/api/admin/bonus-windows/records?windowId={window_id}")
    assert (standings.status, standings.body["rows"]) == (200, [])
    assert ask(admin, "DELETE", f"/api/admin/bonus-windows?windowId={window_id}").status == 200
    assert admin.get(f"/api/admin/bonus-windows/records?windowId={window_id}").status == 404


@pytest.mark.parametrize(
    "change",
    [
        {"endTime": "2026-10-01T00:00:00Z"},
        {"targetTaskCount": 0},
        {"targetTaskCountTier2": 5},
        {"name": None},
    ],
)
def test_a_window_that_cannot_be_is_refused(admin: Client, change: dict[str, object]) -> None:
    window_id = admin.post("/api/admin/bonus-windows", WINDOW).body["id"]
    answer = ask(admin, "PATCH", "/api/admin/bonus-windows", {"windowId": window_id} | change)
    assert (answer.status, answer.body["code"]) == (400, "INVALID_INPUT")
    if change != {"name": None}:
        assert admin.post("/api/admin/bonus-windows", WINDOW | change).status == 400


def test_of_a_secret_setting_only_that_it_is_set_is_told(admin: Client) -> None:
    answer = admin.post("/api/admin/settings", {"key": "openrouter_key", "value": "sk-secret-123"})
    assert (answer.status, answer.body["settings"]["openrouter_key"]) == (200, "(set)")
    assert "sk-secret-123" not in json.dumps(admin.get("/api/admin/settings").body)
    assert admin.post("/api/admin/settings", {"key": "colour", "value": "red"}).status == 400


def test_a_user_is_made_given_a_role_and_a_token_and_deleted(admin: Client, port: int) -> None:
    made = admin.post("/api/admin/users", {"email": "Bob@Example.com"})
    assert (made.status, made.body["email"], made.body["role"]) == (201, "bob@example.com", "PENDING")
    assert admin.post("/api/admin/users", {"email": "bob@example.com"}).status == 409
    body = {"email": "bob@example.com", "name": "laptop", "expiresInDays": 30}
    token = admin.post("/api/admin/tokens", body)
    assert token.status == 201
    bob = Client(port)
    bob.token = token.body["token"]
    assert bob.get("/api/projects").status == 403
    role = {"userId": made.body["id"], "role": "USER"}
    assert ask(admin, "PATCH", "/api/admin/users", role).body["role"] == "USER"
    assert bob.get("/api/projects").status == 200
    listed = admin.get(f"/api/admin/tokens?userId={made.body['id']}").body["tokens"]
    assert [entry["name"] for entry in listed] == ["laptop"]
    assert bob.token not in json.dumps(listed)
    assert ask(admin, "DELETE", f"/api/admin/tokens?tokenId={token.body['id']}").status == 200
    assert bob.get("/api/projects").status == 401
    assert ask(admin, "DELETE", f"/api/admin/users?userId={made.body['id']}").status == 200


def test_the_last_admin_is_not_deleted(admin: Client) -> None:
    (only,) = admin.get("/api/admin/users").body["users"]
    assert ask(admin, "DELETE", f"/api/admin/users?userId={only['id']}").status == 409
    answer = ask(admin, "PATCH", "/api/admin/users", {"userId": only["id"], "role": "USER"})
    assert answer.status == 409


def test_the_audit_log_says_who_did_it(admin: Client, sign_in: SignIn) -> None:
    ann = sign_in("ann@example.com", UserRole.MANAGER)
    project_id = ann.post("/api/projects", {"name": "stories"}).body["id"]
    load(ann, project_id)
    acts = admin.get(f"/api/admin/audit?projectId={project_id}").body["acts"]
    assert [(act["action"], act["actor"]) for act in acts] == [
        ("job.submit", "ann@example.com"),
        ("project.create", "ann@example.com"),
    ]
    first = admin.get("/api/admin/audit?limit=1").body
    second = admin.get(f"/api/admin/audit?limit=1&cursor={first['nextCursor']}").body
    assert first["acts"][0]["id"] > second["acts"][0]["id"]


def test_a_request_with_a_key_is_answered_as_the_first_one_was(admin: Client, project_id: str) -> None:
    def submit(key: str, prompt: str) -> Answer:
        body = {"projectId": project_id, "type": "TASK", "csvData": f"id,prompt\n1,{prompt}\n"}
        request = urllib.request.Request(
            f"{admin._base}/api/ingest/csv",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Idempotency-Key": key},
        )
        return admin._send(request)

    first = submit("one", "a story of the sea")
    assert submit("one", "a story of the sea") == first
    other = submit("one", "a story of the hills")
    assert (other.status, other.body["code"]) == (409, "DUPLICATE_ENTRY")
    assert submit("two", "a story of the hills").status == 202
    assert len(admin.get("/api/ingest/jobs").body["jobs"]) == 2


def test_metrics_are_told_where_they_are_allowed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get("/metrics").status == 404
    allowed = get_settings().model_copy(update={"metrics": True})
    monkeypatch.setattr("api.metrics.get_settings", lambda: allowed)
    with urllib.request.urlopen(f"{client._base}/metrics") as answer:
        told = answer.read().decode()
    assert "opspipe_ai_servers_paused 0.0" in told
    assert "# TYPE opspipe_jobs gauge" in told
