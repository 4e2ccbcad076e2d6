"""The vectorize stage against a real server: every record its embedding once, a bad one costs no other."""

from collections.abc import Callable

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ai import close_providers
from pipeline.database import transaction
from pipeline.embeddings import forget_gone_records
from pipeline.errors import ConflictError
from pipeline.ingest.submit import Submission
from pipeline.jobs import retry_job
from pipeline.jobviews import JobView, view_job
from pipeline.ledger import ChunkRef
from pipeline.projects import ProjectRef
from pipeline.runner import publish_next, run_chunk
from pipeline.sweeper import sweep
from pipeline.system_settings import write_setting
from pipeline.vectorize import start_vectorization
from schemas.enums import JobStatus, Stage
from tasks import publish
from tests.ai_server import AiServer, vector_of
from tests.workers import Workers

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]


CSV = "prompt\n" + "".join(f"write the story number {number}\n" for number in range(50))

pytestmark = pytest.mark.usefixtures("small_chunks")


def view(job_id: str) -> JobView:
    with transaction() as session:
        return view_job(session, job_id)


def _make_due(session: Session) -> None:
    session.execute(text("UPDATE work_chunks SET not_before = NULL, published_at = NULL"))
    session.execute(text("UPDATE ai_servers SET paused_until = NULL"))
    session.commit()
    close_providers()  # what this process knows of the pause is a quarter of a second old at most


def _run(refs: list[ChunkRef]) -> None:
    while refs:
        refs.extend(run_chunk(refs.pop(0)))


def _embeddings(session: Session) -> dict[str, list[float]]:
    session.rollback()
    return {row.content: row.embedding for row in session.execute(text("SELECT * FROM data_records"))}


def test_every_record_gets_its_embedding(session: Session, submit: Submit, run_all: RunAll) -> None:
    submission = submit(CSV, embed=True)
    run_all(submission)
    job = view(submission.job_id)
    assert job.status == JobStatus.COMPLETED
    assert [(stage.stage, stage.done, stage.total) for stage in job.stages][:2] == [
        ("load", 50, 50),
        ("vectorize", 50, 50),
    ]
    lengths = session.execute(text("SELECT DISTINCT cardinality(embedding) FROM data_records"))
    assert [row[0] for row in lengths] == [512]
    norm = text(
        "SELECT avg(square) FROM (SELECT sum(value * value) AS square FROM data_records, unnest(embedding) "
        "AS value GROUP BY id) AS lengths"
    )
    assert session.scalar(norm) == pytest.approx(1.0, abs=1e-4)


def test_the_vectors_of_a_server_are_stored_number_for_number(
    session: Session, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    run_all(submit(CSV, embed=True))
    assert use_ai_server.seen.calls > 0
    found = _embeddings(session)
    assert len(found) == 50
    for content, embedding in found.items():
        assert np.array_equal(np.array(embedding), vector_of(content, 16).astype(float))
    space = session.execute(text("SELECT model, dimensions FROM embedding_spaces")).one()
    assert tuple(space) == ("embedder", 16)


def test_a_redelivered_batch_embeds_nothing(submit: Submit, run_all: RunAll, use_ai_server: AiServer) -> None:
    submission = submit(CSV, embed=True)
    run_all(submission)
    calls = use_ai_server.seen.calls
    for number in range(4):
        run_chunk(ChunkRef(submission.job_id, Stage.VECTORIZE, number))
    assert use_ai_server.seen.calls == calls


@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_one_bad_record_is_listed_and_costs_no_other_its_embedding(
    session: Session, submit: Submit, run_all: RunAll, use_ai_server: AiServer, status: int
) -> None:
    use_ai_server.behaviour.poison = {'number 7"': status}
    submission = submit(CSV, embed=True)
    run_all(submission)
    job = view(submission.job_id)
    assert job.status == JobStatus.COMPLETED
    assert (job.stages[1].done, job.stages[1].failed) == (49, 1)
    failure = session.execute(text("SELECT * FROM record_failures")).mappings().one()
    assert failure["stage"] == "vectorize"
    assert failure["code"] == ("SERVER_ERROR" if status == 500 else f"HTTP_{status}")
    assert "cannot take number 7" in failure["message"]
    assert session.scalar(text("SELECT count(*) FROM data_records WHERE embedding = '{}'")) == 1


def test_a_job_of_which_nothing_succeeded_has_failed_and_says_why(
    submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.poison = {"story": 400}
    submission = submit(CSV, embed=True)
    run_all(submission)
    job = view(submission.job_id)
    assert job.status == JobStatus.FAILED
    assert "cannot take story" in str(job.error)


def test_a_server_that_is_down_uses_up_no_attempts(
    session: Session, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.fail_next = 10_000
    use_ai_server.behaviour.retry_after = "30"
    submission = submit(CSV, embed=True)
    run_all(submission)
    for _ in range(10):
        _make_due(session)
        run_chunk(ChunkRef(submission.job_id, Stage.VECTORIZE, 1))
    attempts = "SELECT max(attempts) FROM work_chunks WHERE stage = 'vectorize' AND number > 0"
    assert session.scalar(text(attempts)) == 0
    use_ai_server.behaviour.fail_next = 0
    _make_due(session)
    _run(publish_next(submission.job_id, 10))
    assert view(submission.job_id).status == JobStatus.COMPLETED


def test_a_server_that_fails_halfway_is_paid_for_nothing_twice(
    session: Session,
    submit: Submit,
    run_all: RunAll,
    use_ai_server: AiServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.vectorize.plan._CALLS_A_CHUNK", 3)
    monkeypatch.setenv("OPSPIPE_AI_CONCURRENCY", "1")
    submission = submit(CSV, embed=True)
    server = use_ai_server

    def _spoil(answer: dict[str, object]) -> dict[str, object]:
        server.behaviour.fail_next, server.behaviour.retry_after = 100, "60"
        return answer

    server.behaviour.spoil = _spoil
    run_all(submission)
    job = view(submission.job_id)
    assert job.status == JobStatus.VECTORIZING
    assert job.stages[1].done == 20 == sum(bool(vector) for vector in _embeddings(session).values())
    server.behaviour.spoil, server.behaviour.fail_next = None, 0
    _make_due(session)
    _run(publish_next(submission.job_id, 10))
    assert (view(submission.job_id).status, view(submission.job_id).stages[1].done) == (
        JobStatus.COMPLETED,
        50,
    )
    assert set(server.seen.texts.values()) == {1}


def test_a_refused_key_fails_the_job_and_keeps_what_was_loaded(
    submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.key = "secret"
    submission = submit(CSV, embed=True)
    run_all(submission)
    job = view(submission.job_id)
    assert (job.status, job.saved_count) == (JobStatus.FAILED, 50)
    assert "ai_key" in str(job.error)


def test_a_retry_takes_up_the_failed_records_and_counts_each_once(
    session: Session, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.poison = {"story": 400}
    submission = submit(CSV, embed=True)
    run_all(submission)
    assert view(submission.job_id).status == JobStatus.FAILED
    use_ai_server.behaviour.poison = {'number 7"': 400}
    with transaction() as opened:
        retry_job(opened, submission.job_id)
    _run(publish_next(submission.job_id, 10))
    job = view(submission.job_id)
    assert (job.status, job.saved_count, job.error) == (JobStatus.COMPLETED, 50, None)
    assert (job.stages[1].done, job.stages[1].failed, job.stages[1].total) == (49, 1, 50)
    assert session.scalar(text("SELECT count(*) FROM record_failures")) == 1


def test_the_failed_records_of_a_completed_job_are_taken_up_by_the_command_that_its_refusal_names(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.poison = {'number 7"': 400}
    submission = submit(CSV, embed=True)
    run_all(submission)
    use_ai_server.behaviour.poison = {}
    with transaction() as opened, pytest.raises(ConflictError) as refused:
        retry_job(opened, submission.job_id)
    said = (
        "is COMPLETED: only failed and cancelled ones are retried. `opspipe vectorize demo` takes up the 1 "
    )
    assert said in str(refused.value)
    started = start_vectorization(session, project.id)
    session.commit()
    _run([started.plan])
    assert all(_embeddings(session).values())
    # Where nothing failed there is nothing to take up.
    with transaction() as opened, pytest.raises(ConflictError, match=r"retried$"):
        retry_job(opened, started.job_id)


def test_the_records_of_a_batch_that_is_given_up_are_listed(
    session: Session, submit: Submit, run_all: RunAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = submit(CSV, embed=True)
    monkeypatch.setattr("pipeline.runner._delay", lambda _attempt: 0.0)
    monkeypatch.setattr("pipeline.vectorize.chunk.embed_texts", lambda _provider, _texts: 1 / 0)
    run_all(submission)
    for _ in range(5):
        for number in (1, 2, 3):
            run_chunk(ChunkRef(submission.job_id, Stage.VECTORIZE, number))
    job = view(submission.job_id)
    assert job.status == JobStatus.FAILED
    assert "ZeroDivisionError" in str(job.error)
    codes = session.execute(text("SELECT code, count(*) FROM record_failures GROUP BY code"))
    assert [tuple(row) for row in codes] == [("CHUNK_GIVEN_UP", 50)]


REPEATING = "prompt\n" + "".join(f"write the story number {number % 7}\n" for number in range(60))


def test_identical_texts_are_embedded_once_in_a_job(
    session: Session, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    submission = submit(REPEATING, embed=True)
    run_all(submission)
    _make_due(session)
    _run(sweep())
    job = view(submission.job_id)
    assert (job.status, job.stages[1].done, job.stages[1].total) == (JobStatus.COMPLETED, 60, 60)
    assert sorted(use_ai_server.seen.texts.values()) == [1] * 7
    for content, embedding in _embeddings(session).items():
        assert np.array_equal(np.array(embedding), vector_of(content, 16).astype(float))


def test_identical_texts_are_embedded_once_by_several_workers(
    submit: Submit, use_ai_server: AiServer, workers: Workers, wait: Callable[..., None]
) -> None:
    use_ai_server.behaviour.latency = 0.2
    submission = submit(REPEATING, embed=True)
    workers.start(concurrency=3)
    publish([submission.plan])

    def _is_ended() -> bool:
        publish(sweep())
        return view(submission.job_id).is_ended

    wait(_is_ended, seconds=60)
    assert view(submission.job_id).status == JobStatus.COMPLETED
    assert sorted(use_ai_server.seen.texts.values()) == [1] * 7


def test_what_another_job_embedded_is_not_embedded_again(
    session: Session, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    run_all(submit(CSV, embed=True))
    calls = use_ai_server.seen.calls
    submission = submit(CSV, embed=True, force=True)
    run_all(submission)
    assert view(submission.job_id).stages[1].done == 50
    assert use_ai_server.seen.calls == calls
    assert session.scalar(text("SELECT count(*) FROM data_records WHERE embedding = '{}'")) == 0


def test_another_model_is_refused_until_the_project_is_embedded_anew(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    run_all(submit(CSV, embed=True))
    use_ai_server.behaviour.models = ("embedder", "chatter", "better")
    use_ai_server.behaviour.dimensions = 24
    write_setting(session, "embedding_model", "better")
    session.commit()
    second = submit("prompt\nanother text to embed\n", embed=True)
    run_all(second)
    job = view(second.job_id)
    assert job.status == JobStatus.FAILED
    assert "opspipe vectorize" in str(job.error)
    start = start_vectorization(session, project.id)
    session.commit()
    _run([start.plan])
    assert view(start.job_id).status == JobStatus.COMPLETED
    assert {len(vector) for vector in _embeddings(session).values()} == {24}
    assert session.scalar(text("SELECT count(*) FROM record_embeddings")) == 51
    with transaction() as opened:
        retry_job(opened, second.job_id)
    _run(publish_next(second.job_id, 10))
    assert view(second.job_id).status == JobStatus.COMPLETED


def test_other_dimensions_under_the_same_name_fail_the_job_and_store_nothing(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    run_all(submit(CSV, embed=True))
    use_ai_server.behaviour.dimensions = 24
    second = submit("prompt\nanother text to embed\n", embed=True)
    run_all(second)
    job = view(second.job_id)
    assert job.status == JobStatus.FAILED
    assert "24 dimensions" in str(job.error)
    assert "--all" in str(job.error)
    start = start_vectorization(session, project.id, is_all=True)
    session.commit()
    _run([start.plan])
    assert {len(vector) for vector in _embeddings(session).values()} == {24}


def test_a_project_is_embedded_where_it_is_not_and_where_a_text_has_changed(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    run_all(submit(CSV, embed=True))
    run_all(submit("prompt\na text without embedding\n", embed=False))
    changed = "UPDATE data_records SET content = 'a text that was changed' WHERE content LIKE '%number 3'"
    session.execute(text(changed))
    session.commit()
    before = sum(use_ai_server.seen.texts.values())
    start = start_vectorization(session, project.id)
    session.commit()
    with pytest.raises(ConflictError, match=start.job_id):
        start_vectorization(session, project.id)
    session.rollback()
    _run([start.plan])
    job = view(start.job_id)
    assert (job.status, job.stages[0].done) == (JobStatus.COMPLETED, 2)
    assert sum(use_ai_server.seen.texts.values()) == before + 2
    found = _embeddings(session)["a text that was changed"]
    assert np.array_equal(np.array(found), vector_of("a text that was changed", 16).astype(float))


def test_a_text_beyond_the_models_context_is_embedded_in_pieces_and_marked(
    session: Session, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.context = {"embedder": 100}
    use_ai_server.behaviour.longest_input = 400
    long = " ".join(f"word{number}" for number in range(300))
    run_all(submit(f"prompt\n{long}\na short text of some words\n", embed=True))
    pieces = dict(
        session.execute(
            text(
                "SELECT char_length(content) > 400, pieces FROM record_embeddings JOIN data_records ON id = "
                "record_id"
            )
        ).all()  # type: ignore[arg-type]  # rows are pairs
    )
    assert pieces[False] == 1
    assert pieces[True] > 5
    assert np.linalg.norm(_embeddings(session)[long]) == pytest.approx(1.0)


def test_upkeep_forgets_the_embeddings_of_records_that_are_gone(
    session: Session, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    run_all(submit(CSV, embed=True))
    assert use_ai_server.seen.calls
    assert forget_gone_records() == 0
    session.execute(text("DELETE FROM data_records WHERE content LIKE '%number 1_'"))
    session.commit()
    # Looked at a few at a time, from a random place on, all of them come to their turn.
    rounds = 0
    while session.scalar(text("SELECT count(*) FROM record_embeddings")) != 40:
        session.commit()
        forget_gone_records(limit=9)
        rounds += 1
        assert rounds < 500
    session.commit()
    assert forget_gone_records() == 0
