"""Upkeep: files are removed when nobody needs them any more, and never before."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import transaction
from pipeline.errors import DuplicateError, NotFoundError
from pipeline.ids import new_cuid
from pipeline.ingest.rejects import write_rejects
from pipeline.ingest.submit import Submission
from pipeline.jobs import cancel_job, retry_job
from pipeline.jobviews import view_job
from pipeline.projects import ensure_project
from pipeline.runner import run_chunk
from pipeline.settings import get_settings
from pipeline.upkeep import Tidied, tidy
from pipeline.uploads import remove_expired_files, remove_stray_files, remove_unused_uploads

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]
Wait = Callable[..., None]

CSV = "id,prompt\n" + "".join(f"{number},write the story number {number}\n" for number in range(30))


def later(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_chunks: None) -> Iterator[Path]:  # noqa: ARG001 - it must run
    """A storage of this test's own."""
    monkeypatch.setenv("OPSPIPE_STORAGE_URL", f"file://{tmp_path}/uploads")
    get_settings.cache_clear()
    yield tmp_path / "uploads"
    get_settings.cache_clear()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def upload_id(session: Session, submission: Submission) -> str:
    question = text("SELECT upload_id FROM work_jobs WHERE job_id = :job")
    found = str(session.scalar(question, {"job": submission.job_id}))
    session.commit()
    return found


def cancel(submission: Submission) -> None:
    with transaction() as session:
        cancel_job(session, submission.job_id)


@pytest.mark.usefixtures("session")
def test_without_anything_stored_there_is_nothing_to_do(folder: Path) -> None:
    assert not folder.exists()
    assert tidy(later(0)) == Tidied(
        expired_files=0,
        unused_uploads=0,
        stray_files=0,
        expired_uploads=0,
        records=0,
        embedding_origins=0,
        request_keys=0,
    )


def test_a_file_is_kept_for_its_days_and_then_removed_with_what_was_made_of_it(
    session: Session, submit: Submit, run_all: RunAll, folder: Path
) -> None:
    submission = submit(CSV)
    run_all(submission)
    upload = upload_id(session, submission)
    (folder / f"{upload}.utf8.csv").write_text(CSV)
    tidy(later(29.9))
    assert names(folder) == {f"{upload}.csv", f"{upload}.utf8.csv"}
    assert tidy(later(30.1)).expired_files == 1
    assert names(folder) == set()
    assert session.scalar(text("SELECT removed_at - created_at > interval '30 days' FROM uploads"))
    assert tidy(later(31)).expired_files == 0


def test_the_days_can_be_set(
    submit: Submit, run_all: RunAll, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSPIPE_UPLOAD_RETENTION_DAYS", "2")
    get_settings.cache_clear()
    run_all(submit(CSV))
    tidy(later(1.9))
    assert names(folder)
    tidy(later(2.1))
    assert not names(folder)


def test_the_file_of_an_unfinished_job_is_never_removed(
    session: Session, submit: Submit, folder: Path
) -> None:
    submission = submit(CSV)
    first, *_ = run_chunk(submission.plan)
    run_chunk(first)
    for table in ("ingest_jobs", "work_jobs", "uploads"):
        name = '"updatedAt"' if table == "ingest_jobs" else "created_at"
        session.execute(text(f"UPDATE {table} SET {name} = {name} - interval '99 days'"))  # noqa: S608 - ours
    session.commit()
    tidy(later(99))
    assert names(folder) == {f"{upload_id(session, submission)}.csv"}
    cancel(submission)
    tidy(later(31))
    assert names(folder) == set()


def test_one_unfinished_job_keeps_the_file_of_all_its_jobs(
    session: Session, submit: Submit, run_all: RunAll, folder: Path
) -> None:
    first, second = submit(CSV), submit(CSV + "31,one story more than there was\n")
    run_all(first)
    upload = upload_id(session, first)
    session.execute(text("UPDATE work_jobs SET upload_id = :upload"), {"upload": upload})
    session.commit()
    tidy(later(31))
    assert names(folder) == {f"{upload}.csv"}
    cancel(second)
    tidy(later(31))
    assert names(folder) == set()


def test_what_needs_a_removed_upload_says_what_to_do(submit: Submit, folder: Path) -> None:
    submission = submit(CSV)
    first, *_ = run_chunk(submission.plan)
    run_chunk(first)
    cancel(submission)
    tidy(later(31))
    assert names(folder) == set()
    told = r"the upload batch\.csv was removed after 31 days: submit the file again"
    with transaction() as session, pytest.raises(NotFoundError, match=told):
        retry_job(session, submission.job_id)
    with transaction() as session, pytest.raises(NotFoundError, match=told):
        write_rejects(session, submission.job_id)
    with transaction() as session:
        assert view_job(session, submission.job_id).status == "CANCELLED"


def test_a_job_that_is_planned_without_its_upload_fails_and_says_what_to_do(
    session: Session, submit: Submit
) -> None:
    submission = submit(CSV)
    session.execute(text("UPDATE uploads SET removed_at = created_at + interval '31 days'"))
    session.commit()
    run_chunk(submission.plan)
    with transaction() as opened:
        assert "removed after 31 days" in str(view_job(opened, submission.job_id).error)


def test_a_retry_that_came_first_keeps_its_file(submit: Submit, folder: Path, wait: Wait) -> None:
    submission = submit(CSV)
    cancel(submission)
    kept = names(folder)
    with ThreadPoolExecutor(1) as pool:
        with transaction() as session:
            retry_job(session, submission.job_id)
            upkeep = pool.submit(tidy, later(31))
            wait(_waits_for_lock, what="upkeep at the job's lock")
        assert upkeep.result().expired_files == 0
    assert names(folder) == kept


def _waits_for_lock() -> bool:
    question = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')"
    with transaction() as session:
        return bool(session.scalar(text(question)))


def test_an_upload_that_no_job_uses_is_removed_in_its_project_alone(
    session: Session, submit: Submit, folder: Path
) -> None:
    submission = submit(CSV)
    session.execute(text("DELETE FROM ingest_jobs"))
    other = ensure_project(session, "other")
    session.commit()
    assert remove_unused_uploads(project_id=other.id) == 0
    assert len(names(folder)) == 1
    assert tidy(later(0)).unused_uploads == 1
    assert names(folder) == set()
    assert session.scalar(text("SELECT count(*) FROM uploads")) == 0
    assert submission.size_bytes


def _store(folder: Path, name: str, *, days: float) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("left behind")
    moment = later(-days).timestamp()
    os.utime(path, (moment, moment))
    return name


def test_files_that_nobody_names_are_removed_when_they_are_a_day_old(
    session: Session, submit: Submit, folder: Path
) -> None:
    submission = submit(CSV)
    upload = upload_id(session, submission)
    kept = {
        _store(folder, f"{upload}.csv", days=90),
        _store(folder, f"{upload}.utf8.csv", days=90),
        _store(folder, f"{new_cuid()}.csv", days=0.9),
        _store(folder, ".incoming-young", days=0.9),
        # Of somebody else: the folder need not be ours alone.
        _store(folder, "notes.txt", days=90),
    }
    (folder / "backup").mkdir()
    _store(folder, f"{new_cuid()}.csv", days=1.1)
    _store(folder, f"{new_cuid()}.jsonl", days=1.1)
    _store(folder, ".incoming-old", days=1.1)
    assert tidy(later(0)).stray_files == 3
    assert names(folder) == kept | {"backup"}


def test_a_file_that_a_killed_upkeep_left_behind_is_removed_by_the_next(
    session: Session, submit: Submit, run_all: RunAll, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = submit(CSV)
    run_all(submission)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.storage.FileStorage.delete_all", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tidy(later(31))
    assert names(folder) == {f"{upload_id(session, submission)}.csv"}
    assert tidy(later(31)).stray_files == 1
    assert names(folder) == set()


@pytest.mark.usefixtures("session")
def test_a_run_removes_no_more_than_its_limit(submit: Submit, run_all: RunAll, folder: Path) -> None:
    for number in range(3):
        _store(folder, f"{new_cuid()}.csv", days=2)
        run_all(submit(CSV + f"{number},\n"))
    assert [remove_stray_files(later(0), limit=2) for _ in range(3)] == [2, 1, 0]
    assert [remove_expired_files(later(31), limit=2) for _ in range(3)] == [2, 1, 0]
    with transaction() as session:
        session.execute(text("DELETE FROM ingest_jobs"))
    assert [remove_unused_uploads(limit=2) for _ in range(3)] == [2, 1, 0]


def test_two_runs_at_once_do_no_harm(submit: Submit, run_all: RunAll, folder: Path) -> None:
    for number in range(4):
        run_all(submit(CSV + f"{number},\n"))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(tidy, [later(31)] * 2))
    assert names(folder) == set()


def test_a_removed_upload_still_stands_in_the_way_of_its_bytes_while_its_records_are_there(
    submit: Submit, run_all: RunAll
) -> None:
    submission = submit(CSV)
    run_all(submission)
    tidy(later(31))
    with pytest.raises(DuplicateError, match=submission.job_id):
        submit(CSV)
