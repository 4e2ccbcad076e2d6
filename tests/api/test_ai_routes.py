"""Models over HTTP: vectorizing, analyzing, trends, similar records, and how the models do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ledger import ChunkRef
from pipeline.projects import ensure_project, set_guidelines
from pipeline.runner import publish_next, run_chunk
from pipeline.sample import write_guidelines_pdf
from pipeline.system_settings import write_setting
from schemas.enums import Stage, UserRole
from tests.ai_server import AiServer
from tests.api.client import Client

TASKS = "id,prompt,rating,created_by_email\n" + "".join(
    f"{number},feed the {'grey' if number % 2 else 'white'} cat of house {number // 2},"
    f"{5 if number % 2 else 1},ann@x.org\n"
    for number in range(12)
)


def run(job_id: str, stage: Stage) -> None:
    refs = [ChunkRef(job_id, stage, 0)]
    while refs:
        refs.extend(run_chunk(refs.pop(0)))


@pytest.fixture
def ready(admin: Client, session: Session, project_id: str, tmp_path: Path) -> str:
    """A project with guidelines and twelve tasks, not embedded yet; gives its id."""
    write_guidelines_pdf(tmp_path / "g.pdf")
    set_guidelines(session, project_id, (tmp_path / "g.pdf").read_bytes(), file_name="g.pdf")
    session.commit()
    body = {"projectId": project_id, "type": "TASK", "csvData": TASKS, "generateEmbeddings": False}
    run(admin.post("/api/ingest/csv", body).body["jobId"], Stage.LOAD)
    return project_id


def records(session: Session) -> list[str]:
    session.commit()
    return list(session.scalars(text("SELECT id FROM data_records ORDER BY content")))


@pytest.mark.usefixtures("use_ai_server")
def test_a_project_is_embedded_and_asked_for_similar_records(
    admin: Client, session: Session, ready: str
) -> None:
    answer = admin.post("/api/ingest/retroactive-vectorization", {"projectId": ready})
    assert (answer.status, answer.body["status"]) == (202, "QUEUED_FOR_VEC")
    again = admin.post("/api/ingest/retroactive-vectorization", {"projectId": ready})
    assert (again.status, again.body["code"]) == (409, "JOB_ALREADY_RUNNING")
    assert again.body["details"] == {"jobId": answer.body["jobId"]}
    run(answer.body["jobId"], Stage.VECTORIZE)
    status = admin.get(f"/api/ingest/status?jobId={answer.body['jobId']}").body
    assert (status["status"], status["spent"]["calls"]) == ("COMPLETED", 1)

    (first, *_) = records(session)
    found = admin.post("/api/records/similar", {"recordId": first, "limit": 3}).body["records"]
    assert len(found) == 3
    assert first not in {record["id"] for record in found}
    assert found[0]["similarity"] >= found[1]["similarity"] >= found[2]["similarity"]
    by_text = {"text": "feed the grey cat of house 3", "projectId": ready, "limit": 1}
    (nearest,) = admin.post("/api/records/similar", by_text).body["records"]
    assert nearest["content"] == "feed the grey cat of house 3"
    assert nearest["similarity"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({}, 400, "either recordId, or text and projectId"),
        ({"recordId": "r", "text": "t"}, 400, "either recordId"),
        ({"text": "a cat"}, 400, "projectId is missing"),
        ({"recordId": "nobody"}, 404, "there is no record"),
        ({"text": "a cat", "projectId": "demo"}, 400, "has no embeddings"),
        ({"text": "a cat", "projectId": "demo", "limit": 0}, 400, "limit"),
    ],
)
@pytest.mark.usefixtures("project_id")
def test_a_question_for_similar_records_that_cannot_be_answered_says_why(
    admin: Client, body: dict[str, Any], status: int, reason: str
) -> None:
    answer = admin.post("/api/records/similar", body)
    assert answer.status == status
    assert reason in answer.body["error"]


@pytest.mark.usefixtures("use_ai_server")
def test_a_record_of_another_project_is_not_found_in_this_one(
    admin: Client, session: Session, ready: str
) -> None:
    other = ensure_project(session, "other").id
    (first, *_) = records(session)
    assert admin.post("/api/records/similar", {"recordId": first, "projectId": other}).status == 404
    assert ready


@pytest.mark.usefixtures("use_ai_server")
def test_near_duplicates_are_listed(admin: Client, session: Session, ready: str) -> None:
    write_setting(session, "similarity_threshold", "0.7")
    session.commit()
    assert admin.get(f"/api/similarity-flags?projectId={ready}").body == {"flags": []}
    job = admin.post("/api/ingest/retroactive-vectorization", {"projectId": ready}).body["jobId"]
    run(job, Stage.VECTORIZE)
    flags = admin.get(f"/api/similarity-flags?projectId={ready}&limit=5").body["flags"]
    assert len(flags) == 5
    assert flags[0]["createdBy"] == "ann@x.org"
    assert all(0.7 <= flag["similarity"] <= 1 for flag in flags)


@pytest.mark.usefixtures("use_ai_server")
def test_an_analysis_is_estimated_started_watched_and_cancelled(admin: Client, ready: str) -> None:
    estimate = admin.post("/api/admin/bulk-align", {"projectId": ready, "dryRun": True})
    assert estimate.status == 200
    assert (estimate.body["totalRecords"], estimate.body["calls"], estimate.body["costUsd"]) == (12, 12, None)
    assert estimate.body["inputTokens"] > 12 * 100
    assert admin.get(f"/api/admin/bulk-align?projectId={ready}").body == {"jobs": []}

    started = admin.post("/api/admin/bulk-align", {"projectId": ready, "likert": True})
    assert (started.status, started.body["totalRecords"]) == (202, 12)
    job_id = started.body["jobId"]
    again = admin.post("/api/admin/bulk-align", {"projectId": ready})
    assert (again.status, again.body["code"]) == (409, "JOB_ALREADY_RUNNING")
    assert again.body["details"] == {"jobId": job_id}
    cancelled = admin.post("/api/admin/bulk-align/cancel", {"jobId": job_id})
    assert cancelled.body == {"jobId": job_id, "status": "CANCELLED"}
    assert admin.post("/api/admin/bulk-align/cancel", {"jobId": job_id}).status == 409
    assert admin.post("/api/admin/bulk-align/retry", {"jobId": job_id}).status == 202
    run(job_id, Stage.ANALYZE)
    (job,) = admin.get(f"/api/admin/bulk-align?jobId={job_id}").body["jobs"]
    assert (job["status"], job["processedCount"], job["totalRecords"]) == ("COMPLETED", 12, 12)
    assert job["spent"]["calls"] == 24
    assert job["progress"]["done"] == 12


def test_a_spent_budget_is_a_state_that_a_larger_one_resumes(
    admin: Client, session: Session, ready: str, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.cost = 1.0
    use_ai_server.behaviour.prices = {"chatter": (1e-6, 1e-6)}
    body = {"projectId": ready, "budgetUsd": 3}
    job_id = admin.post("/api/admin/bulk-align", body).body["jobId"]
    run(job_id, Stage.ANALYZE)
    (job,) = admin.get(f"/api/admin/bulk-align?jobId={job_id}").body["jobs"]
    assert job["status"] == "FAILED"
    assert "the budget of 3 USD is spent" in job["error"]
    # One round of eight calls was let in before the first was paid for.
    assert 3 <= job["spent"]["costUsd"] <= 3 + 8
    assert job["processedCount"] == job["spent"]["calls"]
    refused = admin.post("/api/admin/bulk-align/retry", {"jobId": job_id})
    assert (refused.status, refused.body["details"]) == (409, {"jobId": job_id})
    assert "give a larger one" in refused.body["error"]
    assert admin.post("/api/admin/bulk-align/retry", {"jobId": job_id, "budgetUsd": 100}).status == 202
    refs = publish_next(job_id, 16)
    assert refs == []  # the request has published them
    for number in session.scalars(text("SELECT number FROM work_chunks WHERE job_id = :id"), {"id": job_id}):
        run_chunk(ChunkRef(job_id, Stage.ANALYZE, number))
    (job,) = admin.get(f"/api/admin/bulk-align?projectId={ready}").body["jobs"]
    assert (job["status"], job["processedCount"], job["spent"]["calls"]) == ("COMPLETED", 12, 12)


def test_one_record_is_compared_once_and_again_only_if_that_is_asked_for(
    admin: Client, session: Session, ready: str, use_ai_server: AiServer
) -> None:
    (first, *_) = records(session)
    assert ready
    made = admin.post("/api/analytics/compare", {"recordId": first}).body
    assert (made["recordId"], made["cached"], made["llmModel"]) == (first, False, "chatter")
    assert made["analysis"].startswith(f"**Alignment score: {made['score']}/100**")
    kept = admin.post("/api/analytics/compare", {"recordId": first}).body
    assert kept == made | {"cached": True}
    assert use_ai_server.seen.chats == 1
    anew = admin.post("/api/analytics/compare", {"recordId": first, "forceRegenerate": True}).body
    assert (anew["cached"], use_ai_server.seen.chats) == (False, 2)
    assert admin.post("/api/analytics/compare", {"recordId": "nobody"}).status == 404


def test_a_model_that_fails_is_a_bad_gateway_and_keeps_its_key(
    admin: Client, session: Session, ready: str, use_ai_server: AiServer
) -> None:
    (first, *_) = records(session)
    assert ready
    write_setting(session, "ai_key", "sk-very-secret")
    session.commit()
    use_ai_server.behaviour.key = "sk-another"
    answer = admin.post("/api/analytics/compare", {"recordId": first})
    assert (answer.status, answer.body["code"]) == (502, "AI_SERVICE_ERROR")
    assert "set ai_key" in answer.body["error"]
    assert "sk-very-secret" not in str(answer.body)
    use_ai_server.behaviour.key = ""
    use_ai_server.behaviour.refusal = "I would rather not"
    answer = admin.post("/api/analytics/compare", {"recordId": first})
    assert (answer.status, answer.body["details"]) == (502, {"reason": "REFUSED"})


def test_trends_are_told_and_kept(
    admin: Client, session: Session, ready: str, use_ai_server: AiServer
) -> None:
    answer = admin.post("/api/analytics/trends", {"projectId": ready, "type": "TASK"})
    assert answer.status == 200
    assert answer.body["summary"] == "As asked."
    assert use_ai_server.seen.chats == 1
    session.commit()
    assert session.scalar(text('SELECT "lastTaskAnalysis" FROM projects')) == answer.body["analysis"]
    missing = admin.post("/api/analytics/trends", {"projectId": ready, "type": "FEEDBACK"})
    assert missing.status == 400
    assert "no FEEDBACK records of the category TOP_10" in missing.body["error"]


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/api/admin/bulk-align", {"dryRun": True}),
        ("/api/analytics/compare", {}),
        ("/api/analytics/trends", {"type": "TASK"}),
    ],
)
def test_no_transaction_is_open_while_a_server_is_asked(
    *,
    admin: Client,
    session: Session,
    ready: str,
    use_ai_server: AiServer,
    open_transactions: Callable[[], int],
    path: str,
    more: dict[str, Any],
) -> None:
    seen: list[int] = []
    use_ai_server.behaviour.on_list = lambda: seen.append(open_transactions())
    (first, *_) = records(session)
    session.commit()
    body = {"recordId": first} if path.endswith("compare") else {"projectId": ready}
    assert admin.post(path, body | more).status == 200
    assert seen == [0]


def test_the_models_are_called_when_their_status_is_asked_for(admin: Client, use_ai_server: AiServer) -> None:
    answer = admin.get("/api/ai/status").body
    assert (answer["provider"], answer["status"]) == ("lmstudio", "ok")
    assert [model["answers"] for model in answer["models"]] == [True, True]
    assert (use_ai_server.seen.calls, use_ai_server.seen.chats) == (2, 1)
    use_ai_server.behaviour.models = ("embedder",)
    answer = admin.get("/api/ai/status").body
    assert (answer["status"], answer["models"][1]["answers"]) == ("down", False)
    assert "chatter" in answer["models"][1]["error"]


def test_what_is_left_of_an_account_is_told_and_no_limit_is_not_zero(
    admin: Client, session: Session, use_ai_server: AiServer
) -> None:
    own = admin.get("/api/ai/balance").body
    assert own == {"provider": "lmstudio", "isPrepaid": False, "spentUsd": None, "remainingUsd": None}
    for key, value in {
        "ai_provider": "openrouter",
        "openrouter_host": use_ai_server.url,
        "openrouter_key": "k",
    }.items():
        write_setting(session, key, value)
    session.commit()
    use_ai_server.behaviour.key_usage = 2.5
    free = admin.get("/api/ai/balance").body
    assert free == {"provider": "openrouter", "isPrepaid": True, "spentUsd": 2.5, "remainingUsd": None}
    use_ai_server.behaviour.key_limit = 2.5
    assert admin.get("/api/ai/balance").body["remainingUsd"] == 0.0


WRITES = (
    ("/api/ingest/retroactive-vectorization", {}),
    ("/api/admin/bulk-align", {}),
    ("/api/analytics/trends", {"type": "TASK"}),
)


@pytest.mark.parametrize(("path", "more"), WRITES)
def test_only_owner_and_admin_spend_a_projects_money(
    sign_in: Callable[[str, UserRole], Client], ready: str, path: str, more: dict[str, Any]
) -> None:
    body = {"projectId": ready, **more}
    assert sign_in("user@x.org", UserRole.USER).post(path, body).status == 403
    assert sign_in("manager@x.org", UserRole.MANAGER).post(path, body).status == 403


@pytest.mark.parametrize("path", ["/api/ai/status", "/api/ai/balance"])
def test_only_admins_look_at_the_models(sign_in: Callable[[str, UserRole], Client], path: str) -> None:
    assert sign_in("manager@x.org", UserRole.MANAGER).get(path).status == 403
