"""Deleting while real workers load, and removals whose message or worker was lost."""

import io
from collections.abc import Callable

import pytest
from redis import Redis
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import transaction
from pipeline.ingest.submit import submit_csv
from pipeline.jobviews import view_job
from pipeline.projects import ensure_project
from pipeline.removal import delete_job, remove_batches
from pipeline.servers import endpoints
from schemas.enums import JobStatus, RecordType
from schemas.options import IngestOptions
from tasks import app, publish, publish_removals
from tests.workers import Workers

Wait = Callable[..., None]


pytestmark = pytest.mark.usefixtures("small_chunks")


def submit(session: Session, numbers: range) -> str:
    lines = "".join(f"t{number},write the story number {number}\n" for number in numbers)
    project = ensure_project(session, "demo")
    session.commit()
    options = IngestOptions(record_type=RecordType.TASK, embed=False)
    source = io.BytesIO(f"task_id,prompt\n{lines}".encode())
    submission = submit_csv(project.id, source, file_name="a.csv", options=options)
    publish([submission.plan])
    return submission.job_id


def count(question: str) -> int:
    with transaction() as session:
        return int(session.scalar(text(f"SELECT count(*) FROM {question}")) or 0)  # noqa: S608 - of this module


def delete(job_id: str) -> None:
    with transaction() as session:
        delete_job(session, job_id)


def queued() -> int:
    with Redis.from_url(endpoints().broker_url) as broker:
        names = [key for name in ("ingest", "schedule") for key in broker.keys(f"opspipe:{name}*")]
        lengths = [int(str(broker.llen(name))) for name in names]
        return sum(lengths) + int(str(broker.hlen("opspipe:unacked")))


def test_a_job_is_deleted_while_workers_load_it_and_another(
    session: Session, workers: Workers, wait: Wait
) -> None:
    workers.start()
    doomed, other = submit(session, range(3000)), submit(session, range(5000, 5600))
    wait(lambda: count(f"data_records WHERE \"ingestJobId\" = '{doomed}'") > 100, seconds=60)
    delete(doomed)
    publish_removals([doomed])

    def _is_over() -> bool:
        with transaction() as opened:
            return view_job(opened, other).is_ended and not count("removals")

    wait(_is_over, seconds=60, what="the removal and the end of the other job")
    wait(lambda: not queued(), seconds=60, what="an empty queue")
    with transaction() as opened:
        view = view_job(opened, other)
    assert (view.status, view.saved_count) == (JobStatus.COMPLETED, 600)
    assert (count("data_records"), count("record_identities")) == (600, 600)
    assert (count("ingest_jobs"), count("uploads"), count("work_jobs")) == (1, 1, 1)


def test_a_removal_whose_message_was_lost_is_taken_up_by_the_sweeper(
    session: Session, workers: Workers, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.start()
    job_id = submit(session, range(300))
    wait(lambda: count("ingest_jobs WHERE status = 'COMPLETED'") == 1, seconds=60, what="the job's end")
    delete(job_id)
    monkeypatch.setattr("pipeline.removal._BATCH", 20)
    remove_batches(job_id, seconds=-1.0)
    assert count("data_records") == 280
    app.send_task("schedule.sweep")
    wait(lambda: not queued(), what="the end of the sweep")
    assert count("data_records") == 280  # it was touched just now: somebody may be at it
    session.execute(text("UPDATE removals SET touched_at = now() - interval '61 s'"))
    session.commit()
    app.send_task("schedule.sweep")
    wait(lambda: not count("removals"), what="the removal")
    assert count("data_records") == 0


def test_upkeep_runs_as_a_task(session: Session, workers: Workers, wait: Wait) -> None:
    submit(session, range(10))
    session.execute(text("DELETE FROM ingest_jobs"))
    session.commit()
    assert count("uploads") == 1
    workers.start(queues="schedule")
    app.send_task("schedule.tidy")
    wait(lambda: not count("uploads"), seconds=60, what="the end of the upload")
