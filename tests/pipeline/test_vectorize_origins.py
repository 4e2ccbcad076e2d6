"""Whose embedding a record has: of its present text, by its project's model, whatever goes on meanwhile."""

import base64
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ai import Settled, TextVector, embed_texts
from pipeline.database import transaction
from pipeline.embeddings import Space, enter_space, replace_space, require_space
from pipeline.errors import ConflictError, FatalError, TransientError
from pipeline.ingest.submit import Submission
from pipeline.jobs import cancel_job
from pipeline.jobviews import JobView, view_job
from pipeline.ledger import ChunkRef
from pipeline.projects import ProjectRef, ensure_project
from pipeline.runner import publish_next, run_chunk
from pipeline.vectorize import chunk, start_vectorization
from schemas.enums import JobStatus, Stage
from tests.ai_server import AiServer, vector_of

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]

CSV = "prompt\n" + "".join(f"write the story number {number}\n" for number in range(50))

pytestmark = pytest.mark.usefixtures("small_chunks")


def view(job_id: str) -> JobView:
    with transaction() as session:
        return view_job(session, job_id)


def run(refs: list[ChunkRef]) -> None:
    while refs:
        refs.extend(run_chunk(refs.pop(0)))


def do(statement: str, **parameters: object) -> list[tuple[Any, ...]]:
    with transaction() as session:
        result = session.execute(text(statement), parameters)
        return [tuple(row) for row in result] if result.returns_rows else []


def vectorize(project_id: str, *, is_all: bool = False) -> str:
    with transaction() as session:
        start = start_vectorization(session, project_id, is_all=is_all)
    run([start.plan])
    return start.job_id


def is_made_of(embedding: list[float], content: str, *, sign: int = 1) -> bool:
    return np.array_equal(np.array(embedding), sign * vector_of(content, 16).astype(float))


def all_are_made_of_their_texts(*, sign: int = 1) -> bool:
    rows = do("SELECT embedding, content FROM data_records")
    return all(is_made_of(embedding, content, sign=sign) for embedding, content in rows)


def put_another_model_behind_the_name(server: AiServer) -> None:
    """Let the server answer with the opposite of what it has answered so far."""

    def negate(answer: dict[str, Any]) -> dict[str, Any]:
        for item in answer["data"]:
            numbers = np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4")
            item["embedding"] = base64.b64encode((-numbers).tobytes()).decode()
        return answer

    server.behaviour.spoil = negate


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], *, content: str) -> None:
    """Do something once after a text was embedded and before its embedding is stored."""
    done: list[bool] = []

    def embed(provider: Any, texts: list[str]) -> Settled[TextVector]:  # noqa: ANN401 - whoever it is
        found = embed_texts(provider, texts)
        if content in texts and not done:
            done.append(True)
            act()
        return found

    monkeypatch.setattr("pipeline.vectorize.chunk.embed_texts", embed)


def take_up(session: Session, job_id: str) -> None:
    """Let chunks that were given back be worked on now."""
    session.rollback()
    session.execute(text("UPDATE work_chunks SET not_before = NULL, published_at = NULL"))
    session.commit()
    run(publish_next(job_id, 10))


def test_a_text_that_was_changed_and_changed_back_gets_its_own_embedding_again(
    project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    run_all(submit("prompt\nthe first words of all\n", embed=True))
    for content in ("quite other words", "the first words of all"):
        do("UPDATE data_records SET content = :content", content=content)
        vectorize(project.id)
        assert all_are_made_of_their_texts()
    assert use_ai_server.seen.texts["the first words of all"] == 2
    assert do("SELECT count(*) FROM record_embeddings") == [(1,)]


def test_embeddings_of_a_name_that_means_another_model_by_now_are_not_reused(
    session: Session,
    *,
    project: ProjectRef,
    submit: Submit,
    run_all: RunAll,
    use_ai_server: AiServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Several chunks: the later ones know how long the embeddings are, and look for known ones.
    monkeypatch.setattr("pipeline.vectorize.plan._CALLS_A_CHUNK", 1)
    run_all(submit(CSV, embed=True))
    other = ensure_project(session, "other").id
    session.execute(
        text(
            "INSERT INTO data_records (id, \"projectId\", type, source, content) SELECT 'x' || id, "
            ":other, type, source, content FROM data_records"
        ),
        {"other": other},
    )
    session.commit()
    vectorize(other)
    assert set(use_ai_server.seen.texts.values()) == {1}
    put_another_model_behind_the_name(use_ai_server)
    vectorize(project.id, is_all=True)
    rows = do('SELECT embedding, content FROM data_records WHERE "projectId" = :id', id=project.id)
    assert all(is_made_of(embedding, content, sign=-1) for embedding, content in rows)
    vectorize(other, is_all=True)
    assert all_are_made_of_their_texts(sign=-1)


def test_an_answer_of_before_a_project_was_embedded_anew_is_not_stored(
    session: Session,
    *,
    project: ProjectRef,
    submit: Submit,
    run_all: RunAll,
    use_ai_server: AiServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_all(submit("prompt\nsome seed of this\n", embed=True))
    submission = submit("prompt\n" + "".join(f"an old text {number}\n" for number in range(5)), embed=True)
    started = []

    def embed_anew() -> None:
        put_another_model_behind_the_name(use_ai_server)
        # The command refuses to begin beside another job; an older job may have begun before.
        do("UPDATE ingest_jobs SET status = 'PROCESSING' WHERE status = 'VECTORIZING'")
        with transaction() as opened:
            started.append(start_vectorization(opened, project.id, is_all=True))
        do("UPDATE ingest_jobs SET status = 'VECTORIZING' WHERE status = 'PROCESSING'")
        started.extend(run_chunk(started[0].plan))

    meanwhile(monkeypatch, embed_anew, content="an old text 0")
    run_all(submission)
    assert do("SELECT count(*) FROM data_records WHERE content LIKE 'an old%' AND embedding <> '{}'") == [
        (0,)
    ]
    take_up(session, submission.job_id)
    run(started[1:])
    assert view(submission.job_id).status == view(started[0].job_id).status == JobStatus.COMPLETED
    assert all_are_made_of_their_texts(sign=-1)


def test_embedding_anew_that_was_cancelled_goes_on_where_it_stopped(
    project: ProjectRef,
    submit: Submit,
    run_all: RunAll,
    use_ai_server: AiServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.vectorize.plan._CALLS_A_CHUNK", 1)
    run_all(submit(CSV, embed=True))
    put_another_model_behind_the_name(use_ai_server)
    with transaction() as session:
        start = start_vectorization(session, project.id, is_all=True)
    (first, *_) = run_chunk(start.plan)
    run_chunk(first)
    with transaction() as session:
        cancel_job(session, start.job_id)
    vectorize(project.id)
    assert all_are_made_of_their_texts(sign=-1)
    assert set(use_ai_server.seen.texts.values()) == {2}


@pytest.mark.parametrize("columns", ["", ", embedding = '{}'"])
def test_a_text_that_changes_while_it_is_embedded_is_embedded_again(
    session: Session,
    *,
    submit: Submit,
    run_all: RunAll,
    use_ai_server: AiServer,
    monkeypatch: pytest.MonkeyPatch,
    columns: str,
) -> None:
    change = f"UPDATE data_records SET content = 'quite other words'{columns} WHERE content LIKE '%first%'"  # noqa: S608 - ours
    meanwhile(monkeypatch, lambda: do(change), content="the first words")
    submission = submit("prompt\nthe first words\nthe second words\n", embed=True)
    run_all(submission)
    take_up(session, submission.job_id)
    job = view(submission.job_id)
    assert (job.status, job.stages[1].done, job.stages[1].total) == (JobStatus.COMPLETED, 2, 2)
    assert all_are_made_of_their_texts()
    assert set(use_ai_server.seen.texts.values()) == {1}


def test_a_record_of_which_something_else_changes_meanwhile_is_not_paid_for_again(
    submit: Submit, run_all: RunAll, use_ai_server: AiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = 'UPDATE data_records SET "hasBeenReviewed" = true'
    meanwhile(monkeypatch, lambda: do(review), content="the first words")
    submission = submit("prompt\nthe first words\nthe second words\n", embed=True)
    run_all(submission)
    assert view(submission.job_id).status == JobStatus.COMPLETED
    assert all_are_made_of_their_texts()
    assert set(use_ai_server.seen.texts.values()) == {1}


def test_an_embedding_that_another_client_wrote_meanwhile_stays(
    submit: Submit, run_all: RunAll, use_ai_server: AiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = "UPDATE data_records SET embedding = array_fill(0.5::float8, ARRAY[16])"
    meanwhile(monkeypatch, lambda: do(write), content="the first words")
    submission = submit("prompt\nthe first words\n", embed=True)
    run_all(submission)
    assert view(submission.job_id).status == JobStatus.COMPLETED
    assert use_ai_server.seen.calls
    assert do("SELECT embedding FROM data_records") == [([0.5] * 16,)]


SOURCE_CHANGES: Mapping[str, str] = {
    "its text": "UPDATE data_records SET content = 'something else' WHERE content = 'a shared text'"
    ' AND "projectId" = :other',
    "the length of its embedding": "UPDATE data_records SET embedding = array_fill(1::float8, ARRAY[24])"
    ' WHERE "projectId" = :other',
    "who made its embedding": "UPDATE record_embeddings SET digest = gen_random_uuid()"
    ' FROM data_records AS record WHERE record_id = record.id AND record."projectId" = :other',
}


@pytest.mark.parametrize("what", SOURCE_CHANGES)
def test_an_embedding_is_copied_only_while_its_source_still_is_what_it_was(
    session: Session,
    *,
    submit: Submit,
    run_all: RunAll,
    use_ai_server: AiServer,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    run_all(submit("prompt\na shared text\n", embed=True))
    other = ensure_project(session, "other").id
    session.commit()
    do('UPDATE data_records SET "projectId" = :other', other=other)
    meanwhile(monkeypatch, lambda: do(SOURCE_CHANGES[what], other=other), content="a brand new text")
    submission = submit("prompt\na shared text\na brand new text\n", embed=True, force=True)
    run_all(submission)
    take_up(session, submission.job_id)
    assert view(submission.job_id).status == JobStatus.COMPLETED
    rows = do('SELECT embedding, content FROM data_records WHERE "projectId" <> :other', other=other)
    assert len(rows) == 2
    assert all(is_made_of(embedding, content) for embedding, content in rows)
    assert use_ai_server.seen.texts["a shared text"] == 2


def test_a_known_text_is_not_embedded_again_in_another_project(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    run_all(submit(CSV, embed=True))
    other = ensure_project(session, "other").id
    session.commit()
    do('UPDATE data_records SET "projectId" = :other', other=other)
    do("DELETE FROM embedding_spaces")
    submission = submit(CSV, embed=True, force=True)
    run_all(submission)
    job = view(submission.job_id)
    assert (job.project_id, job.stages[1].done) == (project.id, 50)
    assert set(use_ai_server.seen.texts.values()) == {1}
    assert all_are_made_of_their_texts()
    assert do("SELECT dimensions FROM embedding_spaces") == [(16,)]


def test_a_copy_of_what_was_embedded_in_pieces_is_marked_so(
    submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.context = {"embedder": 100}
    use_ai_server.behaviour.longest_input = 400
    long = "prompt\n" + " ".join(f"word{number}" for number in range(300)) + "\n"
    run_all(submit(long, embed=True))
    calls = use_ai_server.seen.calls
    run_all(submit(long, embed=True, force=True))
    assert use_ai_server.seen.calls == calls
    ((first,), (second,)) = do("SELECT pieces FROM record_embeddings")
    assert first == second > 1


def test_vectors_and_counters_are_stored_together_or_not_at_all(
    session: Session,
    submit: Submit,
    run_all: RunAll,
    use_ai_server: AiServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.vectorize.chunk._finish", lambda *_: 1 / 0)
    submission = submit("prompt\nthe first words\n", embed=True)
    run_all(submission)
    assert use_ai_server.seen.calls
    assert do("SELECT count(*) FROM data_records WHERE embedding <> '{}'") == [(0,)]
    assert do("SELECT count(*) FROM record_embeddings") == [(0,)]
    monkeypatch.undo()
    take_up(session, submission.job_id)
    assert view(submission.job_id).status == JobStatus.COMPLETED


def test_a_database_that_stumbles_while_vectors_are_stored_costs_no_second_call(
    submit: Submit, run_all: RunAll, use_ai_server: AiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, stumbles = chunk._finish, [True, True]

    def stumble(*arguments: Any) -> bool:  # noqa: ANN401 - passed on
        if stumbles and stumbles.pop():
            raise TransientError("the database did not finish the work")
        return finish(*arguments)

    monkeypatch.setattr(chunk, "_finish", stumble)
    submission = submit("prompt\nthe first words\n", embed=True)
    run_all(submission)
    job = view(submission.job_id)
    assert (job.status, use_ai_server.seen.calls) == (JobStatus.COMPLETED, 1)
    assert job.spent is not None
    assert job.spent.calls == 1
    assert all_are_made_of_their_texts()


def test_records_that_become_pending_beside_a_planned_chunk_are_not_counted_in_it(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    run_all(submit(CSV, embed=True))
    ids = session.scalars(text("SELECT id FROM data_records ORDER BY id")).all()
    session.commit()
    do("UPDATE data_records SET embedding = '{}' WHERE id = ANY(:ids)", ids=[ids[0], ids[-1]])
    with transaction() as opened:
        start = start_vectorization(opened, project.id)
    planned = run_chunk(start.plan)
    do("UPDATE data_records SET embedding = '{}', content = 'bad ' || id WHERE id = ANY(:ids)", ids=ids[1:20])
    use_ai_server.behaviour.poison = {"bad": 400}
    run(planned)
    job = view(start.job_id)
    assert (job.status, job.stages[0].done, job.stages[0].failed) == (JobStatus.COMPLETED, 2, 0)
    pending = session.scalars(text("SELECT id FROM data_records WHERE embedding = '{}' ORDER BY id")).all()
    assert pending == ids[1:20]


def test_of_a_chunk_that_is_given_up_only_its_own_records_are_listed(
    session: Session, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.runner._delay", lambda _attempt: 0.0)
    submission = submit(CSV, embed=True)
    refs = [submission.plan]
    while refs and refs[0].stage is Stage.LOAD:
        refs.extend(run_chunk(refs.pop(0)))
    planned = run_chunk(refs.pop(0))
    embedded = "UPDATE data_records SET embedding = array_fill(1::float8, ARRAY[512])"
    do(f"{embedded} WHERE content LIKE '%number 1_'")
    monkeypatch.setattr("pipeline.vectorize.chunk.embed_texts", lambda _provider, _texts: 1 / 0)
    for _ in range(5):
        for ref in planned:
            run_chunk(ref)
    assert session.scalar(text("SELECT count(*) FROM record_failures")) == 40


def test_a_project_is_not_embedded_beside_a_job_that_embeds_its_records(
    session: Session, project: ProjectRef, submit: Submit, use_ai_server: AiServer
) -> None:
    submission = submit(CSV, embed=True)
    refs = [submission.plan]
    while refs and refs[0].stage is Stage.LOAD:
        refs.extend(run_chunk(refs.pop(0)))
    assert view(submission.job_id).status == JobStatus.QUEUED_FOR_VEC
    with pytest.raises(ConflictError, match="wait for its end") as refused, transaction() as opened:
        start_vectorization(opened, project.id)
    assert refused.value.job_id == submission.job_id
    run(refs)
    vectorize(project.id)
    assert set(use_ai_server.seen.texts.values()) == {1}
    assert session.scalar(text("SELECT count(*) FROM ingest_jobs")) == 2


def test_records_of_a_job_that_is_still_loading_are_left_to_it(
    project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    run_all(submit("prompt\na text without embedding\n", embed=False))
    submission = submit(CSV, embed=True)
    refs = run_chunk(submission.plan)
    refs += run_chunk(refs[0])
    job_id = vectorize(project.id)
    assert (view(job_id).stages[0].total, view(job_id).status) == (1, JobStatus.COMPLETED)
    run(refs)
    assert view(submission.job_id).status == JobStatus.COMPLETED
    assert set(use_ai_server.seen.texts.values()) == {1}
    assert all_are_made_of_their_texts()


def test_a_model_cannot_change_while_embeddings_of_it_are_being_stored(
    session: Session, project: ProjectRef
) -> None:
    enter_space(session, project.id, "embedder")
    made_in = Space("embedder", 16)
    require_space(session, project.id, made_in, 16)
    session.commit()
    require_space(session, project.id, made_in, 16)

    def change() -> None:
        with transaction() as another:
            another.execute(text("SET LOCAL lock_timeout = '100ms'"))
            replace_space(another, project.id, "better")

    with pytest.raises(TransientError):
        change()
    session.commit()
    change()
    with pytest.raises(FatalError, match="are of the model 'better'"):
        require_space(session, project.id, made_in, 16)
