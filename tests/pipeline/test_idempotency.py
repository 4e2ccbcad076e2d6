"""Keys of requests: one key makes one job, whoever sends it how often and whatever crashes in between."""

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline import idempotency
from pipeline.analyze import start_analysis, start_due_analyses
from pipeline.database import get_engine, transaction
from pipeline.errors import ConflictError, DuplicateError, InputError, KeyTakenError, NotFoundError
from pipeline.idempotency import Answer, claim_key, find_answer, keep_answer, keyed, remove_old_keys
from pipeline.ingest.fetched import submit_url
from pipeline.ingest.submit import Submission, submit_csv
from pipeline.jobs import cancel_job, retry_job
from pipeline.projects import ProjectRef
from pipeline.settings import get_settings
from pipeline.users import create_user, delete_user
from pipeline.vectorize import start_vectorization
from schemas.enums import RecordType, UserRole
from schemas.options import AnalysisOptions, IngestOptions

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]

SHA, OTHER_SHA = "a" * 64, "b" * 64
ROUTE = "POST /api/ingest/csv"
CSV = "id,prompt\n" + "".join(f"{number},write the story {number}\n" for number in range(20))
OPTIONS = IngestOptions(record_type=RecordType.TASK, embed=False)


@pytest.fixture
def ann(session: Session) -> UUID:
    user = create_user(session, "ann@example.com", UserRole.MANAGER)
    session.commit()
    return user.id


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A storage of this test's own."""
    monkeypatch.setenv("OPSPIPE_STORAGE_URL", f"file://{tmp_path}/uploads")
    get_settings.cache_clear()
    yield tmp_path / "uploads"
    get_settings.cache_clear()


def jobs(session: Session) -> set[str]:
    session.rollback()
    return set(session.scalars(text("SELECT job_id FROM work_jobs")))


def found(profile_id: UUID, *, key: str = "k", sha256: str = SHA) -> Answer | None:
    with transaction() as session:
        return find_answer(session, profile_id, key, sha256)


def _submit_csv(project_id: str) -> str:
    source = io.BytesIO(CSV.encode())
    return submit_csv(project_id, source, file_name="a.csv", options=OPTIONS, force=True).job_id


def _submit_url(project_id: str) -> str:
    return submit_url(project_id, "https://example.com/batch.json", options=OPTIONS).job_id


def _vectorize(project_id: str) -> str:
    with transaction() as session:
        return start_vectorization(session, project_id).job_id


def _analyze(project_id: str) -> str:
    with transaction() as session:
        return start_analysis(session, project_id, AnalysisOptions()).job_id


MAKERS = {"csv": _submit_csv, "url": _submit_url, "vectorize": _vectorize, "analyze": _analyze}


@pytest.mark.parametrize("maker", MAKERS)
def test_of_two_requests_with_one_key_at_once_one_makes_a_job_and_the_other_is_told_which(
    session: Session, guided: ProjectRef, ann: UUID, load: Callable[[str], None], maker: str
) -> None:
    load(CSV)
    before = jobs(session)
    together = Barrier(2)

    def ask(_number: int) -> tuple[str, bool]:
        together.wait()
        try:
            with keyed(ann, "k", SHA, ROUTE):
                return MAKERS[maker](guided.id), True
        except KeyTakenError as error:
            return str(error.job_id), False

    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(ask, range(2)))
    assert sorted(is_first for _, is_first in answers) == [False, True]
    assert {job_id for job_id, _ in answers} == jobs(session) - before
    assert found(ann) == Answer(None, None, answers[0][0])


def test_of_two_retries_with_one_key_at_once_one_takes_the_job_up(
    session: Session, guided: ProjectRef, ann: UUID
) -> None:
    job_id = _analyze(guided.id)
    with transaction() as own:
        cancel_job(own, job_id)
    together = Barrier(2)

    def ask(_number: int) -> bool:
        together.wait()
        try:
            with keyed(ann, "k", SHA, ROUTE), transaction() as own:
                retry_job(own, job_id)
        except KeyTakenError as error:
            return error.job_id != job_id
        return True

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(ask, range(2))) == [False, True]
    assert found(ann) == Answer(None, None, job_id)
    assert session.scalar(text("SELECT status FROM analytics_jobs")) == "PENDING"


def test_the_file_of_the_second_request_is_removed(
    session: Session, project: ProjectRef, ann: UUID, folder: Path
) -> None:
    for _ in range(3):
        try:
            with keyed(ann, "k", SHA, ROUTE):
                _submit_csv(project.id)
        except KeyTakenError:
            continue
    assert len(jobs(session)) == 1
    kept = list(session.scalars(text("SELECT storage_key FROM uploads")))
    assert [path.name for path in folder.iterdir()] == kept


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_request_waits_for_an_earlier_one_with_its_key_and_then_makes_a_job_only_if_that_made_none(
    session: Session, project: ProjectRef, ann: UUID, *, is_committed: bool
) -> None:
    def ask() -> str:
        with keyed(ann, "k", SHA, ROUTE):
            return _submit_url(project.id)

    with keyed(ann, "k", SHA, ROUTE):
        claim_key(session, "first")
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask)
        with get_engine().connect() as looking:
            waits = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            while not looking.scalar(waits):
                looking.rollback()
                assert not asked.done()
        if is_committed:
            session.commit()
            with pytest.raises(KeyTakenError, match="has made job first already"):
                asked.result()
            assert jobs(session) == set()
        else:
            session.rollback()
            job_id = asked.result()
            assert jobs(session) == {job_id}


def test_a_crash_between_the_job_and_its_answer_leaves_a_key_that_names_the_job(
    session: Session, project: ProjectRef, ann: UUID
) -> None:
    with keyed(ann, "k", SHA, ROUTE):
        job_id = _submit_csv(project.id)
    # Here the process dies, and the client sends its request again.
    assert found(ann) == Answer(None, None, job_id)
    with transaction() as own:
        keep_answer(own, ann, "k", 202, {"jobId": job_id})
    assert found(ann) == Answer(202, {"jobId": job_id}, job_id)
    assert jobs(session) == {job_id}


def test_the_first_answer_stands(project: ProjectRef, ann: UUID) -> None:
    with keyed(ann, "k", SHA, ROUTE):
        job_id = _submit_csv(project.id)
    for status in (202, 500):
        with transaction() as session:
            keep_answer(session, ann, "k", status, {"status": status})
    assert found(ann) == Answer(202, {"status": 202}, job_id)


def test_a_request_that_makes_no_job_uses_up_no_key(
    session: Session, project: ProjectRef, ann: UUID, submit: Submit
) -> None:
    submit(CSV)
    before = jobs(session)
    with keyed(ann, "k", SHA, ROUTE):
        with pytest.raises(DuplicateError):
            submit(CSV)
        with pytest.raises(InputError, match="no guidelines"):
            _analyze(project.id)
        with pytest.raises(InputError, match="no records"):
            _vectorize(project.id)
    with transaction() as own:
        keep_answer(own, ann, "k", 409, {"code": "DUPLICATE_ENTRY"})
    assert found(ann) is None
    assert jobs(session) == before


def test_the_conflict_of_another_key_is_still_one(guided: ProjectRef, ann: UUID) -> None:
    with keyed(ann, "k", SHA, ROUTE):
        job_id = _analyze(guided.id)
    with keyed(ann, "other", SHA, ROUTE), pytest.raises(ConflictError, match="analyzed already") as caught:
        _analyze(guided.id)
    assert not isinstance(caught.value, KeyTakenError)
    assert caught.value.job_id == job_id
    assert found(ann, key="other") is None


def test_a_key_that_was_used_for_another_request_is_refused(
    session: Session, project: ProjectRef, ann: UUID
) -> None:
    with keyed(ann, "k", SHA, ROUTE):
        job_id = _submit_csv(project.id)
    with pytest.raises(DuplicateError, match="used for another request") as caught:
        found(ann, sha256=OTHER_SHA)
    assert (caught.value.code, caught.value.job_id) == ("DUPLICATE_ENTRY", job_id)
    with pytest.raises(DuplicateError):
        find_answer(session, ann, "k", SHA, route="POST /api/ingest/retry")
    assert find_answer(session, ann, "k", SHA, route=ROUTE) == Answer(None, None, job_id)


def test_keys_of_others_are_others(session: Session, project: ProjectRef, ann: UUID) -> None:
    bob = create_user(session, "bob@example.com", UserRole.MANAGER).id
    session.commit()
    made = []
    for profile_id in (ann, bob):
        with keyed(profile_id, "k", SHA, ROUTE):
            made.append(_submit_csv(project.id))
    assert [found(profile_id) for profile_id in (ann, bob)] == [Answer(None, None, job_id) for job_id in made]
    with transaction() as own:
        delete_user(own, ann)
    assert found(ann) is None


@pytest.mark.parametrize("key", ["", "k" * 256, "a\nb", "a\0b"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with (
        pytest.raises(InputError, match="1 to 255 printable characters"),
        keyed(UUID(int=1), key, SHA, ROUTE),
    ):
        pytest.fail("the block is not to run")


def test_without_a_key_every_request_makes_a_job(session: Session, project: ProjectRef) -> None:
    for _ in range(2):
        _submit_csv(project.id)
    assert len(jobs(session)) == 2
    assert session.scalar(text("SELECT count(*) FROM idempotency_keys")) == 0


def test_what_the_pipeline_starts_by_itself_claims_no_key(
    session: Session, guided: ProjectRef, ann: UUID, submit: Submit, run_all: RunAll
) -> None:
    assert guided
    with keyed(ann, "k", SHA, ROUTE):
        submission = submit(CSV, analyze=True)
        run_all(submission)
        with transaction() as own:
            start_due_analyses(own)
    assert len(jobs(session)) == 2
    assert found(ann) == Answer(None, None, submission.job_id)


def _age(session: Session, *, hours: float) -> None:
    aged = text("UPDATE idempotency_keys SET created_at = now() - make_interval(secs => :seconds)")
    session.execute(aged, {"seconds": hours * 3600})
    session.commit()


def test_a_key_of_yesterday_counts_as_absent(session: Session, project: ProjectRef, ann: UUID) -> None:
    with keyed(ann, "k", SHA, ROUTE):
        first = _submit_csv(project.id)
        with transaction() as own:
            keep_answer(own, ann, "k", 202, {"jobId": first})
        _age(session, hours=23.9)
        with pytest.raises(KeyTakenError):
            _submit_csv(project.id)
        _age(session, hours=24.1)
        assert found(ann) is None
        assert found(ann, sha256=OTHER_SHA) is None
    with keyed(ann, "k", OTHER_SHA, ROUTE):
        second = _submit_csv(project.id)
    assert found(ann, sha256=OTHER_SHA) == Answer(None, None, second)
    assert jobs(session) == {first, second}


def test_upkeep_removes_keys_of_yesterday_batch_by_batch(
    session: Session, ann: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "_BATCH", 3)
    for number in range(8):
        with keyed(ann, str(number), SHA, ROUTE):
            claim_key(session, "job")
    _age(session, hours=25)
    with keyed(ann, "new", SHA, ROUTE):
        claim_key(session, "job")
    session.commit()
    assert remove_old_keys(datetime.now(UTC)) == 8
    assert list(session.scalars(text("SELECT key FROM idempotency_keys"))) == ["new"]
    session.rollback()
    assert remove_old_keys(datetime.now(UTC) + timedelta(hours=25)) == 1


def test_who_was_deleted_meanwhile_makes_no_job_and_is_told_so(
    session: Session, guided: ProjectRef, ann: UUID
) -> None:
    delete_user(session, ann)
    session.commit()
    before = jobs(session)
    with keyed(ann, "k", SHA, ROUTE), pytest.raises(NotFoundError, match="was deleted at this moment"):
        _submit_csv(guided.id)
    assert jobs(session) == before
