"""What an analysis keeps of what it paid for when its chunk is taken away or the database stumbles."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import orjson
import psycopg
import pytest
from reportlab.pdfgen.canvas import Canvas
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from pipeline.ai.spending import Meter
from pipeline.analyze import assess
from pipeline.analyze.assess import _Work
from pipeline.analyze.review import Reviewed
from pipeline.database import transaction
from pipeline.jobs import cancel_job
from pipeline.projects import ProjectRef, set_guidelines
from pipeline.runner import run_chunk
from pipeline.states import lock_job
from schemas.enums import JobKind, JobStatus
from tests.ai_server import AiServer
from tests.pipeline.analyses import (
    ALIGNMENT,
    Load,
    analyze,
    answer_well,
    is_rating,
    number_of,
    retry,
    rows,
    start,
    stories,
    take_the_credit_after,
    view,
    work,
)

CHUNK = 20

pytestmark = pytest.mark.usefixtures("small_chunks")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.database._FIRST_PAUSE_SECONDS", 0.0)


def _cancel(job_id: str) -> None:
    with transaction() as session:
        cancel_job(session, job_id)


def _take_lease() -> None:
    with transaction() as session:
        session.execute(
            text("UPDATE work_chunks SET leased_until = now() - interval '1 s' WHERE state = 'LEASED'")
        )


def _see_calls(session: Session, server: AiServer, calls: int) -> None:
    assert server.seen.chats == calls
    assert rows(session, "SELECT call_count FROM ai_usage") == [{"call_count": calls}]


def test_what_was_found_when_the_job_was_cancelled_is_kept_and_not_asked_again(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(50))
    plan = start(session, guided, likert=True)
    chunk = run_chunk(plan)[0]
    use_ai_server.behaviour.meanwhile = lambda: _cancel(plan.job_id)
    use_ai_server.behaviour.chat = answer_well
    run_chunk(chunk)
    job = view(plan.job_id)
    assert (job.status, job.processed_count, job.stages[0].done) == (JobStatus.CANCELLED, 0, 0)
    assert (number_of(session, "alignments"), number_of(session, "likert_scores")) == (CHUNK, CHUNK)
    _see_calls(session, use_ai_server, 2 * CHUNK)
    job = retry(plan.job_id)
    assert (job.status, job.processed_count, job.stages[0].done) == (JobStatus.COMPLETED, 50, 50)
    _see_calls(session, use_ai_server, 100)
    assert len(set(use_ai_server.seen.prompts)) == 100


def test_what_another_worker_has_stored_meanwhile_stays_and_counts_once(
    session: Session,
    guided: ProjectRef,
    load: Load,
    use_ai_server: AiServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load(stories(CHUNK))
    plan = start(session, guided, likert=True)
    chunk = run_chunk(plan)[0]
    use_ai_server.behaviour.chat = answer_well
    write_back = assess._write_back

    def late(meter: Meter, mine: _Work, reviewed: Reviewed) -> None:
        monkeypatch.setattr(assess, "_write_back", write_back)
        _take_lease()
        use_ai_server.behaviour.chat = _answer_otherwise
        run_chunk(chunk)
        write_back(meter, mine, reviewed)

    monkeypatch.setattr(assess, "_write_back", late)
    run_chunk(chunk)
    job = view(plan.job_id)
    assert (job.status, job.processed_count, job.stages[0].done) == (JobStatus.COMPLETED, CHUNK, CHUNK)
    assert rows(session, "SELECT DISTINCT score FROM alignments") == [{"score": 71}]
    assert rows(session, 'SELECT DISTINCT "realismScore" AS realism FROM likert_scores') == [{"realism": 1}]
    assert number_of(session, "alignments") == number_of(session, "likert_scores") == CHUNK
    assert "71/100" in rows(session, 'SELECT "alignmentAnalysis" AS said FROM data_records')[0]["said"]
    _see_calls(session, use_ai_server, 4 * CHUNK)


def _answer_otherwise(said: str) -> str:
    answer = {"realism": 1, "quality": 1} if is_rating(said) else ALIGNMENT | {"score": 71}
    return orjson.dumps(answer).decode()


def test_half_of_an_answer_is_not_stored_over_anothers_without_the_lease(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(1))
    plan = start(session, guided, likert=True)
    chunk = run_chunk(plan)[0]

    def lose() -> None:
        _take_lease()
        with transaction() as opened:
            opened.execute(text("UPDATE work_chunks SET fence = fence + 1 WHERE state = 'LEASED'"))
            opened.execute(
                text(
                    "INSERT INTO alignments (record_id, score, report, provider, llm_model, prompt_version,"
                    " guidelines_sha256) SELECT id, 1, '{}', 'p', 'm', 'v', 'g' FROM data_records"
                )
            )

    use_ai_server.behaviour.meanwhile = lose

    def chat(said: str) -> str:
        if is_rating(said):
            use_ai_server.behaviour.is_without_credit = True
            return "no answer"
        return answer_well(said)

    use_ai_server.behaviour.chat = chat
    run_chunk(chunk)
    assert rows(session, "SELECT score FROM alignments") == [{"score": 1}]


def test_a_transaction_that_the_database_breaks_is_done_again_and_nothing_is_asked_twice(
    session: Session,
    guided: ProjectRef,
    load: Load,
    use_ai_server: AiServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load(stories(CHUNK))
    finish, faults = (
        assess._finish,
        [psycopg.errors.DeadlockDetected("deadlock"), psycopg.OperationalError("cut")],
    )

    def stumble(*arguments: object) -> None:
        finish(*arguments)  # type: ignore[arg-type]  # handed on
        if faults:
            raise faults.pop()

    monkeypatch.setattr(assess, "_finish", stumble)
    job = analyze(session, guided)
    assert not faults
    assert (job.status, job.processed_count, job.stages[0].done) == (JobStatus.COMPLETED, CHUNK, CHUNK)
    _see_calls(session, use_ai_server, CHUNK)


def test_a_commit_whose_answer_is_lost_counts_as_what_it_is(
    session: Session,
    guided: ProjectRef,
    load: Load,
    use_ai_server: AiServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load(stories(CHUNK))
    finish, commit, finished = assess._finish, Session.commit, []
    # What becomes of the first two commits of the chunk.
    losses = [Session.rollback, Session.commit]

    def note(*arguments: object) -> None:
        finish(*arguments)  # type: ignore[arg-type]  # handed on
        finished.append(True)

    def lose_the_answer(committing: Session) -> None:
        if not (finished and losses):
            commit(committing)
            return
        finished.clear()
        losses.pop(0)(committing)
        raise OperationalError("COMMIT", None, psycopg.OperationalError("the connection is lost"))

    monkeypatch.setattr(assess, "_finish", note)
    monkeypatch.setattr(Session, "commit", lose_the_answer)
    job = analyze(session, guided)
    assert not losses
    assert (job.status, job.processed_count, job.stages[0].done) == (JobStatus.COMPLETED, CHUNK, CHUNK)
    _see_calls(session, use_ai_server, CHUNK)


def test_a_chunk_waits_for_its_job_before_it_locks_a_record(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer, wait: Callable[..., None]
) -> None:
    load(stories(CHUNK))
    plan = start(session, guided)
    chunk = run_chunk(plan)[0]

    def is_waiting() -> bool:
        waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FOR UPDATE%'"
        return bool(rows(session, waiting))

    with ThreadPoolExecutor(1) as pool:
        with transaction() as holder:
            lock_job(holder, JobKind.ANALYTICS, plan.job_id)
            done = pool.submit(run_chunk, chunk)
            wait(is_waiting, what="the chunk's wait for the job")
            holder.execute(text("SELECT id FROM data_records FOR UPDATE NOWAIT"))
        done.result()
    assert use_ai_server.seen.chats == CHUNK
    assert view(plan.job_id).status == JobStatus.COMPLETED


def _replace_guidelines(session: Session, project: ProjectRef) -> str:
    made = io.BytesIO()
    canvas = Canvas(made)
    canvas.drawString(72, 720, "1. Every task names the reader it is written for.")
    canvas.drawString(72, 700, "2. No task is longer than a page of a small book.")
    canvas.save()
    sha256 = set_guidelines(session, project.id, made.getvalue(), file_name="new.pdf").sha256
    session.commit()
    return sha256


def test_a_retry_holds_records_against_the_guidelines_of_now_and_replaces_no_current_result(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(50))
    take_the_credit_after(use_ai_server, 5)
    failed = analyze(session, guided, scope="stale")
    assert failed.status == JobStatus.FAILED
    use_ai_server.behaviour.is_without_credit, use_ai_server.behaviour.chat = False, answer_well
    sha256 = _replace_guidelines(session, guided)
    assert analyze(session, guided, scope="stale").status == JobStatus.COMPLETED
    calls = use_ai_server.seen.chats
    job = retry(failed.id)
    assert (job.status, job.processed_count) == (JobStatus.COMPLETED, 50)
    assert use_ai_server.seen.chats == calls
    assert rows(session, "SELECT guidelines_sha256 AS sha256, count(*) FROM alignments GROUP BY 1") == [
        {"sha256": sha256, "count": 50}
    ]


def test_guidelines_that_are_removed_meanwhile_stop_the_job_which_says_what_to_do(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(50))
    plan = start(session, guided)
    refs = run_chunk(plan)
    session.execute(text("UPDATE projects SET guidelines = NULL"))
    session.commit()
    work(refs)
    job = view(plan.job_id)
    assert job.status == JobStatus.FAILED
    assert "opspipe guidelines PROJECT FILE.pdf" in str(job.error)
    assert use_ai_server.seen.chats == 0
    sha256 = _replace_guidelines(session, guided)
    assert retry(plan.job_id).status == JobStatus.COMPLETED
    assert rows(session, "SELECT DISTINCT guidelines_sha256 AS sha256 FROM alignments") == [
        {"sha256": sha256}
    ]
