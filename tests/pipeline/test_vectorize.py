"""The vectorize stage: every record gets its embedding once, and one bad record costs no other."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ai.base import Vectors
from pipeline.database import transaction
from pipeline.errors import PermanentError, TransientError
from pipeline.ingest.submit import Submission
from pipeline.jobs import JobView, retry_job, view_job
from pipeline.ledger import ChunkRef
from pipeline.runner import publish_next, run_chunk
from pipeline.similarity import nearest_records
from schemas.enums import JobStatus, Stage

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]
CSV = "prompt\n" + "".join(f"write the story number {number}\n" for number in range(50))

pytestmark = pytest.mark.usefixtures("small_chunks")


class Model:
    """A model that can be told to fail; real ones are tried elsewhere."""

    name = "test"
    max_input_chars = 1000

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.poison = ""
        self.is_down = False

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(len(texts))
        if self.is_down:
            raise TransientError("the model is not there", retry_after=0)
        if self.poison and any(self.poison in entry for entry in texts):
            raise PermanentError("the model refuses this text")
        return np.array([[len(entry), 1.0] for entry in texts])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    made = Model()
    monkeypatch.setattr("pipeline.vectorize.embedding_model", lambda _provider: made)
    return made


def view(job_id: str) -> JobView:
    with transaction() as session:
        return view_job(session, job_id)


def _make_due(session: Session) -> None:
    session.execute(text("UPDATE work_chunks SET not_before = NULL, published_at = NULL"))
    session.commit()


def test_every_record_gets_its_embedding(session: Session, submit: Submit, run_all: RunAll) -> None:
    submission = submit(CSV, embed=True)
    run_all(submission)
    job = view(submission.job_id)
    assert job.status == JobStatus.COMPLETED
    assert [(stage.stage, stage.done, stage.total) for stage in job.stages] == [
        ("load", 50, 50),
        ("vectorize", 50, 50),
    ]
    lengths = session.execute(text("SELECT DISTINCT cardinality(embedding) FROM data_records"))
    assert [row[0] for row in lengths] == [512]
    norm = text(
        "SELECT avg(square) FROM (SELECT sum(value * value) AS square"
        " FROM data_records, unnest(embedding) AS value GROUP BY id) AS lengths"
    )
    assert session.scalar(norm) == pytest.approx(1.0, abs=1e-4)


def test_a_redelivered_batch_embeds_nothing(submit: Submit, run_all: RunAll, model: Model) -> None:
    submission = submit(CSV, embed=True)
    run_all(submission)
    calls = len(model.calls)
    for number in range(4):
        run_chunk(ChunkRef(submission.job_id, Stage.VECTORIZE, number))
    assert len(model.calls) == calls


def test_one_bad_record_is_listed_and_costs_no_other_its_embedding(
    session: Session, submit: Submit, run_all: RunAll, model: Model
) -> None:
    model.poison = "number 7"
    submission = submit(CSV, embed=True)
    run_all(submission)
    job = view(submission.job_id)
    assert job.status == JobStatus.COMPLETED
    assert (job.stages[1].done, job.stages[1].failed) == (49, 1)
    failure = session.execute(text("SELECT * FROM record_failures")).mappings().one()
    assert (failure["stage"], failure["message"]) == ("vectorize", "the model refuses this text")
    assert session.scalar(text("SELECT count(*) FROM data_records WHERE embedding = '{}'")) == 1


def test_a_job_of_which_nothing_succeeded_has_failed_and_says_why(
    submit: Submit, run_all: RunAll, model: Model
) -> None:
    model.poison = "story"
    submission = submit(CSV, embed=True)
    run_all(submission)
    job = view(submission.job_id)
    assert job.status == JobStatus.FAILED
    assert "the model refuses this text" in str(job.error)


def test_a_model_that_is_down_uses_up_no_attempts(
    session: Session, submit: Submit, run_all: RunAll, model: Model
) -> None:
    model.is_down = True
    submission = submit(CSV, embed=True)
    run_all(submission)
    for _ in range(10):
        _make_due(session)
        run_chunk(ChunkRef(submission.job_id, Stage.VECTORIZE, 1))
    attempts = "SELECT max(attempts) FROM work_chunks WHERE stage = 'vectorize' AND number > 0"
    assert session.scalar(text(attempts)) == 0
    model.is_down = False
    _make_due(session)
    refs = publish_next(submission.job_id, 10)
    while refs:
        refs.extend(run_chunk(refs.pop(0)))
    assert view(submission.job_id).status == JobStatus.COMPLETED


def test_a_provider_that_does_not_exist_fails_the_job_at_once(
    session: Session, submit: Submit, run_all: RunAll
) -> None:
    session.execute(text("INSERT INTO system_settings (key, value) VALUES ('ai_provider', 'openrouter')"))
    session.commit()
    submission = submit(CSV, embed=True)
    run_all(submission)
    job = view(submission.job_id)
    assert (job.status, job.saved_count) == (JobStatus.FAILED, 50)
    assert "ai_provider local" in str(job.error)


def test_the_nearest_records_are_those_of_brute_force(
    session: Session, submit: Submit, run_all: RunAll
) -> None:
    run_all(submit(CSV, embed=True))
    rows = session.execute(text("SELECT id, embedding FROM data_records ORDER BY id")).all()
    matrix = np.array([row.embedding for row in rows])
    similarities = matrix @ matrix[0]
    expected = [rows[index].id for index in np.argsort(-similarities, kind="stable") if index != 0][:5]
    found = nearest_records(session, rows[0].id, limit=5)
    assert [neighbour.id for neighbour in found] == expected
    assert found[0].similarity == pytest.approx(sorted(similarities)[-2], abs=1e-6)


def test_a_retry_takes_up_the_failed_records_and_counts_each_once(
    session: Session, submit: Submit, run_all: RunAll, model: Model
) -> None:
    model.poison = "story"
    submission = submit(CSV, embed=True)
    run_all(submission)
    assert view(submission.job_id).status == JobStatus.FAILED
    model.poison = "number 7"
    with transaction() as opened:
        retry_job(opened, submission.job_id)
    refs = publish_next(submission.job_id, 10)
    while refs:
        refs.extend(run_chunk(refs.pop(0)))
    job = view(submission.job_id)
    assert (job.status, job.saved_count, job.error) == (JobStatus.COMPLETED, 50, None)
    assert (job.stages[1].done, job.stages[1].failed, job.stages[1].total) == (49, 1, 50)
    assert session.scalar(text("SELECT count(*) FROM record_failures")) == 1


def test_the_records_of_a_batch_that_is_given_up_are_listed(
    session: Session, submit: Submit, run_all: RunAll, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = submit(CSV, embed=True)
    monkeypatch.setattr("pipeline.runner._delay", lambda _attempt: 0.0)
    monkeypatch.setattr(model, "embed", lambda _texts: 1 / 0)
    run_all(submission)
    for _ in range(5):
        for number in (1, 2, 3):
            run_chunk(ChunkRef(submission.job_id, Stage.VECTORIZE, number))
    job = view(submission.job_id)
    assert job.status == JobStatus.FAILED
    assert "ZeroDivisionError" in str(job.error)
    codes = session.execute(text("SELECT code, count(*) FROM record_failures GROUP BY code"))
    assert [tuple(row) for row in codes] == [("CHUNK_GIVEN_UP", 50)]
