"""A job's failed records over HTTP: page by page, for jobs of either kind, and for programs."""

import pytest
from sqlalchemy.orm import Session

from pipeline.ledger import ChunkRef
from pipeline.runner import run_chunk
from schemas.enums import Stage
from tests.ai_server import AiServer
from tests.api.client import Client


@pytest.fixture
def job_id(admin: Client, project_id: str, use_ai_server: AiServer) -> str:
    """A job that has loaded five records, and could not embed three of them."""
    use_ai_server.behaviour.poison = {"dragon": 422}
    pets = ("dragon one", "dragon two", "dragon three", "cat", "bird")
    body = {"projectId": project_id, "type": "TASK", "csvData": "prompt\n" + "\n".join(pets) + "\n"}
    job_id: str = admin.post("/api/ingest/csv", body).body["jobId"]
    refs = [ChunkRef(job_id, Stage.LOAD, 0)]
    while refs:
        refs.extend(run_chunk(refs.pop(0)))
    return job_id


def test_failed_records_are_counted_and_listed_page_by_page(admin: Client, job_id: str) -> None:
    status = admin.get(f"/api/ingest/status?jobId={job_id}").body
    assert (status["status"], status["savedCount"], status["failedCount"]) == ("COMPLETED", 5, 3)
    assert status["waitingFor"] is None
    first = admin.get(f"/api/jobs/{job_id}/failures?limit=2").body
    rest = admin.get(f"/api/jobs/{job_id}/failures?limit=2&cursor={first['nextCursor']}").body
    found = first["failures"] + rest["failures"]
    assert {entry["content"] for entry in found} == {"dragon one", "dragon two", "dragon three"}
    assert {(entry["stage"], entry["code"]) for entry in found} == {("vectorize", "HTTP_422")}
    assert all("cannot take dragon" in entry["message"] for entry in found)
    assert rest["nextCursor"] is None


def test_a_job_is_named_by_its_whole_id_and_a_page_by_its_cursor(admin: Client, job_id: str) -> None:
    assert admin.get(f"/api/jobs/{job_id[:-1]}/failures").status == 404
    refused = admin.get(f"/api/jobs/{job_id}/failures?cursor=nowhere")
    assert (refused.status, refused.body["code"]) == (400, "INVALID_INPUT")


def test_what_a_job_waits_for_is_told(
    admin: Client, session: Session, project_id: str, use_ai_server: AiServer
) -> None:
    assert session
    body = {"projectId": project_id, "type": "TASK", "csvData": "prompt\ncat\n"}
    job_id = admin.post("/api/ingest/csv", body).body["jobId"]
    use_ai_server.behaviour.fail_next, use_ai_server.behaviour.retry_after = 1, "600"
    refs = [ChunkRef(job_id, Stage.LOAD, 0)]
    while refs:
        refs.extend(run_chunk(refs.pop(0)))
    status = admin.get(f"/api/ingest/status?jobId={job_id}").body
    assert status["status"] == "VECTORIZING"
    assert "answered 503: out of order" in status["waitingFor"]
