"""Jobs over real HTTP: listing, cancelling, retrying, deleting, and who may."""

from collections.abc import Callable
from typing import Any, Protocol

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ledger import ChunkRef
from pipeline.runner import run_chunk
from pipeline.settings import get_settings
from schemas.enums import Stage, UserRole
from tests.api.client import Answer, Client

CSV = "id,prompt\n" + "".join(f"{number},write the story number {number}\n" for number in range(30))

pytestmark = pytest.mark.usefixtures("small_chunks")


SignIn = Callable[[str, UserRole], Client]


class Site(Protocol):
    def give(self, path: str, body: bytes) -> str: ...


def submit(client: Client, project_id: str, csv: str = CSV) -> Answer:
    body = {"projectId": project_id, "type": "TASK", "csvData": csv, "generateEmbeddings": False}
    return client.post("/api/ingest/csv", body)


def load(job_id: str, numbers: range = range(4)) -> None:
    for number in numbers:
        run_chunk(ChunkRef(job_id, Stage.LOAD, number))


@pytest.fixture
def job_id(admin: Client, project_id: str) -> str:
    return str(submit(admin, project_id).body["jobId"])


def count(session: Session, table: str) -> int:
    return int(session.scalar(text(f"SELECT count(*) FROM {table}")) or 0)  # noqa: S608 - a name of ours


def test_jobs_are_listed_newest_first_and_by_project(admin: Client, project_id: str, job_id: str) -> None:
    second = submit(admin, project_id, CSV + "31,one story more than there was\n").body["jobId"]
    listed = admin.get(f"/api/ingest/jobs?projectId={project_id}").body["jobs"]
    assert [job["id"] for job in listed] == [second, job_id]
    assert listed[0] == admin.get(f"/api/ingest/status?jobId={second}").body
    assert [job["id"] for job in admin.get("/api/ingest/jobs?limit=1").body["jobs"]] == [second]


@pytest.mark.parametrize(
    ("query", "status"), [("projectId=nowhere", 404), ("limit=0", 400), ("limit=many", 400), ("page=2", 400)]
)
def test_a_listing_that_cannot_be_is_told_so(admin: Client, query: str, status: int) -> None:
    assert admin.get(f"/api/ingest/jobs?{query}").status == status


def test_a_job_is_cancelled_once_and_taken_up_again(admin: Client, job_id: str) -> None:
    load(job_id, range(2))
    cancelled = admin.post("/api/ingest/cancel", {"jobId": job_id})
    assert (cancelled.status, cancelled.body) == (200, {"jobId": job_id, "status": "CANCELLED"})
    again = admin.post("/api/ingest/cancel", {"jobId": job_id})
    assert (again.status, again.body["code"]) == (409, "JOB_ALREADY_RUNNING")
    assert again.body["details"] == {"jobId": job_id}
    retried = admin.post("/api/ingest/retry", {"jobId": job_id})
    assert (retried.status, retried.body) == (202, {"jobId": job_id, "status": "PROCESSING"})
    load(job_id)
    assert admin.get(f"/api/ingest/status?jobId={job_id}").body["savedCount"] == 30


def test_a_job_that_completed_is_neither_cancelled_nor_retried(admin: Client, job_id: str) -> None:
    load(job_id)
    for action in ("cancel", "retry"):
        assert admin.post(f"/api/ingest/{action}", {"jobId": job_id}).status == 409


def test_a_job_is_deleted_with_its_records(admin: Client, session: Session, job_id: str) -> None:
    load(job_id)
    answer = admin.delete(f"/api/ingest/jobs/{job_id}")
    assert (answer.status, answer.body) == (
        200,
        {"jobId": job_id, "deletedRecords": 30, "remainingRecords": 0},
    )
    assert [count(session, table) for table in ("data_records", "ingest_jobs", "uploads", "removals")] == [
        0
    ] * 4
    assert admin.get(f"/api/ingest/status?jobId={job_id}").status == 404
    assert admin.delete(f"/api/ingest/jobs/{job_id}").status == 404


def test_a_deletion_that_takes_longer_is_answered_before_its_end_and_may_be_asked_for_again(
    admin: Client, session: Session, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(job_id)
    monkeypatch.setattr("pipeline.removal._BATCH", 20)
    monkeypatch.setattr("api.jobs._REMOVAL_SECONDS", -1.0)
    published: list[list[str]] = []
    monkeypatch.setattr("api.jobs.publish_removals", published.append)
    answer = admin.delete(f"/api/ingest/jobs/{job_id}")
    assert (answer.status, answer.body["deletedRecords"], answer.body["remainingRecords"]) == (202, 20, 10)
    assert published == [[job_id]]
    assert admin.get("/api/ingest/jobs").body["jobs"] == []
    answer = admin.delete(f"/api/ingest/jobs/{job_id}")
    assert (answer.status, answer.body["deletedRecords"], answer.body["remainingRecords"]) == (200, 10, 0)
    assert count(session, "data_records") == 0


def test_the_beginning_of_an_id_names_no_job(admin: Client, job_id: str) -> None:
    assert admin.post("/api/ingest/cancel", {"jobId": job_id[:20]}).status == 404
    assert admin.post("/api/ingest/retry", {"jobId": job_id[:20]}).status == 404
    assert admin.delete(f"/api/ingest/jobs/{job_id[:20]}").status == 404
    assert admin.get(f"/api/ingest/status?jobId={job_id}").body["status"] == "PENDING"


@pytest.mark.parametrize("body", [{}, {"jobId": ""}, {"jobId": 7}, {"jobId": "x", "force": True}])
def test_a_body_that_names_no_job_is_refused(admin: Client, body: dict[str, Any]) -> None:
    answer = admin.post("/api/ingest/cancel", body)
    assert (answer.status, answer.body["code"]) == (400, "INVALID_INPUT")


def test_only_the_owner_and_admins_write_to_a_project(
    sign_in: SignIn, session: Session, admin: Client, project_id: str, job_id: str
) -> None:
    owner, other = sign_in("owner@example.com", UserRole.MANAGER), sign_in("x@example.com", UserRole.MANAGER)
    session.execute(
        text("UPDATE projects SET \"ownerId\" = (SELECT id FROM profiles WHERE email = 'owner@example.com')")
    )
    session.commit()
    refused = [
        submit(other, project_id, CSV + "31,one story more than there was\n"),
        other.post("/api/ingest/cancel", {"jobId": job_id}),
        other.post("/api/ingest/retry", {"jobId": job_id}),
        other.delete(f"/api/ingest/jobs/{job_id}"),
    ]
    assert [(answer.status, answer.body["code"]) for answer in refused] == [
        (403, "INSUFFICIENT_PERMISSIONS")
    ] * 4
    assert other.get(f"/api/ingest/status?jobId={job_id}").body["status"] == "PENDING"
    assert count(session, "uploads") == 1
    assert submit(owner, project_id, CSV + "31,one story more than there was\n").status == 202
    assert owner.post("/api/ingest/cancel", {"jobId": job_id}).status == 200
    assert admin.post("/api/ingest/retry", {"jobId": job_id}).status == 202
    assert owner.delete(f"/api/ingest/jobs/{job_id}").status == 200


def test_what_is_left_of_a_deleted_job_is_still_its_owners(
    sign_in: SignIn, admin: Client, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(job_id)
    monkeypatch.setattr("pipeline.removal._BATCH", 20)
    monkeypatch.setattr("api.jobs._REMOVAL_SECONDS", -1.0)
    assert admin.delete(f"/api/ingest/jobs/{job_id}").status == 202
    other = sign_in("x@example.com", UserRole.MANAGER)
    assert other.delete(f"/api/ingest/jobs/{job_id}").status == 403


@pytest.mark.parametrize("role", [UserRole.PENDING, UserRole.USER])
def test_a_role_below_manager_sees_and_changes_no_jobs(sign_in: SignIn, job_id: str, role: UserRole) -> None:
    client = sign_in("u@example.com", role)
    answers = [
        client.get("/api/ingest/jobs"),
        client.post("/api/ingest/cancel", {"jobId": job_id}),
        client.delete(f"/api/ingest/jobs/{job_id}"),
    ]
    assert [answer.status for answer in answers] == [403] * 3


def test_a_retry_without_its_upload_says_what_to_do(admin: Client, session: Session, job_id: str) -> None:
    admin.post("/api/ingest/cancel", {"jobId": job_id})
    session.execute(text("UPDATE uploads SET removed_at = created_at + interval '31 days'"))
    session.commit()
    answer = admin.post("/api/ingest/retry", {"jobId": job_id})
    assert (answer.status, answer.body["code"]) == (404, "RESOURCE_NOT_FOUND")
    assert "was removed after 31 days: submit the file again" in answer.body["error"]


def test_rejected_rows_are_downloaded_as_csv(admin: Client, project_id: str) -> None:
    job_id = str(
        submit(admin, project_id, "id,prompt\n1,\n2,=a prompt that is long enough,x\n").body["jobId"]
    )
    assert admin.get(f"/api/ingest/jobs/{job_id}/rejects.csv").status == 409
    load(job_id, range(2))

    answer = admin.download(f"/api/ingest/jobs/{job_id}/rejects.csv")

    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert f"rejects-{job_id}.csv" in answer.headers["Content-Disposition"]
    assert answer.data.decode().splitlines() == [
        "opspipe_line,opspipe_reason,id,prompt",
        "2,Empty Content,1,",
        "3,Malformed Row,2,'=a prompt that is long enough,x",
    ]
    assert admin.get("/api/ingest/jobs/nope/rejects.csv").status == 404


def test_a_batch_by_url_is_a_job(
    admin: Client, project_id: str, session: Session, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSPIPE_ALLOW_PRIVATE_URLS", "true")
    get_settings.cache_clear()
    url = site.give("/b.json", b'[{"id": 1, "prompt": "write the story number 1"}]')
    body = {"url": url, "projectId": project_id, "type": "TASK", "generateEmbeddings": False}
    answer = admin.post("/api/ingest/api", body)
    assert (answer.status, answer.body["estimatedRecords"]) == (202, None)
    load(answer.body["jobId"], range(2))

    status = admin.get(f"/api/ingest/status?jobId={answer.body['jobId']}").body
    assert (status["status"], status["savedCount"]) == ("COMPLETED", 1)
    assert session.scalar(text("SELECT source FROM data_records")) == f"api:{url}"


@pytest.mark.parametrize("url", ["ftp://example.com/x", "https://me:secret@example.com/", "", None])
def test_a_url_that_cannot_be_fetched_is_refused(admin: Client, project_id: str, url: str | None) -> None:
    answer = admin.post("/api/ingest/api", {"url": url, "projectId": project_id, "type": "TASK"})

    assert (answer.status, answer.body["code"]) == (400, "INVALID_INPUT")
    assert "secret" not in str(answer.body)


def test_a_batch_by_url_goes_to_ones_own_project_only(sign_in: SignIn, project_id: str) -> None:
    body = {"url": "https://example.com/", "projectId": project_id, "type": "TASK"}

    assert sign_in("someone@example.com", UserRole.MANAGER).post("/api/ingest/api", body).status == 403
