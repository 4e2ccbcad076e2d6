"""The whole pipeline through real worker processes and a real broker; killing them changes nothing."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import psutil
import pytest
from redis import Redis
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.analyze import start_analysis
from pipeline.database import transaction
from pipeline.ingest.submit import submit_csv
from pipeline.jobs import cancel_job
from pipeline.jobviews import JobView, view_job
from pipeline.projects import ProjectRef, ensure_project, set_guidelines
from pipeline.sample import RULES, write_guidelines_pdf, write_sample_csv
from pipeline.sample.batch import KEYWORDS
from pipeline.servers import endpoints
from pipeline.settings import get_settings
from pipeline.states import ENDED
from pipeline.sweeper import sweep
from schemas.enums import AnalysisScope, JobStatus, RecordType
from schemas.options import AnalysisOptions, IngestOptions
from tasks import publish
from tests.workers import Workers

Wait = Callable[..., None]


pytestmark = pytest.mark.usefixtures("small_chunks")


@pytest.fixture
def project(session: Session, tmp_path: Path) -> ProjectRef:
    found = ensure_project(session, "demo")
    write_guidelines_pdf(tmp_path / "guidelines.pdf")
    set_guidelines(session, found.id, (tmp_path / "guidelines.pdf").read_bytes(), file_name="guidelines.pdf")
    session.commit()
    return found


def _submit(project: ProjectRef, source: BinaryIO, **options: object) -> str:
    asked = {"record_type": RecordType.TASK} | options
    submission = submit_csv(
        project.id, source, file_name="sample.csv", options=IngestOptions.model_validate(asked)
    )
    publish([submission.plan])
    return submission.job_id


def _view(job_id: str) -> JobView:
    with transaction() as session:
        return view_job(session, job_id)


def _ended(job_id: str) -> bool:
    # What beat does every few seconds; here as often as somebody looks.
    publish(sweep())
    return _view(job_id).status in ENDED


def _lines(count: int) -> io.BytesIO:
    rows = "".join(f"t{number},write the story number {number}\n" for number in range(count))
    return io.BytesIO(f"task_id,prompt\n{rows}".encode())


def test_a_batch_is_loaded_embedded_and_analyzed(
    session: Session, project: ProjectRef, workers: Workers, wait: Wait, tmp_path: Path
) -> None:
    workers.start()
    facts = write_sample_csv(tmp_path / "sample.csv", rows=200)
    with (tmp_path / "sample.csv").open("rb") as source:
        job_id = _submit(project, source, keywords=KEYWORDS, analyze=True)
    wait(lambda: _view(job_id).follower_id is not None, seconds=60, what="the analysis")
    follower = str(_view(job_id).follower_id)
    wait(lambda: _ended(follower), seconds=60, what="the end of the analysis")
    load, analysis = _view(job_id), _view(follower)
    assert (load.status, analysis.status) == (JobStatus.COMPLETED, JobStatus.COMPLETED)
    assert (load.total_records, load.saved_count) == (facts.record_count, facts.saved_count)
    assert load.skipped_details == facts.skipped
    assert analysis.processed_count == analysis.total_records == facts.saved_count
    assert session.scalar(text("SELECT min(cardinality(embedding)) FROM data_records")) == 512
    row = session.execute(
        text(
            'SELECT alignments.*, "alignmentAnalysis" AS text FROM alignments'
            " JOIN data_records ON data_records.id = record_id"
        )
    ).first()
    assert row is not None
    assert (row.provider, row.llm_model, len(row.report["findings"])) == (
        "local",
        "guideline-coverage-1",
        len(RULES),
    )
    assert f"{row.score}/100" in row.text
    assert "without a language model" in row.text


def test_a_second_analysis_of_what_is_current_has_nothing_to_do(
    session: Session, project: ProjectRef, workers: Workers, wait: Wait
) -> None:
    workers.start()
    job_id = _submit(project, _lines(30), embed=False)
    wait(lambda: _ended(job_id), seconds=60)
    processed = []
    for scope in (AnalysisScope.STALE, AnalysisScope.STALE, AnalysisScope.ALL):
        start = start_analysis(session, project.id, AnalysisOptions(scope=scope))
        session.commit()
        publish([start.plan])
        wait(lambda job=start.job_id: _ended(job), seconds=60)
        processed.append(_view(start.job_id).processed_count)
    assert processed == [30, 0, 30]
    assert session.scalar(text("SELECT count(*) FROM alignments")) == 30


def test_killed_workers_lose_and_double_nothing(
    session: Session, project: ProjectRef, workers: Workers, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSPIPE_LEASE_SECONDS", "2")
    first = workers.start()
    job_id = _submit(project, _lines(1500), embed=False)
    wait(lambda: _view(job_id).saved_count > 50, seconds=60, what="the first records")
    os.killpg(first.pid, signal.SIGKILL)
    assert not _view(job_id).is_ended
    workers.start()
    wait(lambda: _ended(job_id), seconds=90, what="the end of the job")
    view = _view(job_id)
    assert (view.status, view.saved_count, view.skipped_count) == (JobStatus.COMPLETED, 1500, 0)
    assert session.scalar(text("SELECT count(*) FROM data_records")) == 1500


def test_a_killed_pool_process_is_replaced_and_its_chunk_done(
    session: Session, project: ProjectRef, workers: Workers, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSPIPE_LEASE_SECONDS", "2")
    worker = workers.start()
    job_id = _submit(project, _lines(1500), embed=False)
    wait(lambda: _view(job_id).saved_count > 50, seconds=60, what="the first records")
    for child in worker.children():
        child.kill()
    wait(lambda: _ended(job_id), seconds=90, what="the end of the job")
    assert _view(job_id).saved_count == 1500
    assert session.scalar(text("SELECT count(*) FROM data_records")) == 1500


def test_a_broker_that_forgets_everything_holds_nothing_up(
    project: ProjectRef, workers: Workers, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSPIPE_LEASE_SECONDS", "1")
    get_settings.cache_clear()
    workers.start(queues="analyze")  # nobody works on the load yet
    job_id = _submit(project, _lines(300), embed=False)
    with Redis.from_url(endpoints().broker_url) as broker:
        broker.flushall()
    workers.start(queues="ingest")
    wait(lambda: _ended(job_id), seconds=60, what="the end of the job")
    assert _view(job_id).saved_count == 300


def test_a_cancelled_job_stays_cancelled_while_workers_run(
    session: Session, project: ProjectRef, workers: Workers, wait: Wait
) -> None:
    workers.start()
    job_id = _submit(project, _lines(3000), embed=False)
    wait(lambda: _view(job_id).saved_count > 0, seconds=60, what="the first records")
    with transaction() as opened:
        cancel_job(opened, job_id)
    stored = _view(job_id).saved_count
    wait(lambda: not _queued(), what="an empty queue")
    view = _view(job_id)
    assert (view.status, view.saved_count) == (JobStatus.CANCELLED, stored)
    assert session.scalar(text("SELECT count(*) FROM data_records")) == stored


def _queued() -> int:
    with Redis.from_url(endpoints().broker_url) as broker:
        waiting = sum(int(str(broker.llen(key))) for key in broker.keys("opspipe:ingest*"))
        return waiting + int(str(broker.hlen("opspipe:unacked")))


def test_workers_stop_softly_and_leave_nothing_behind(workers: Workers, wait: Wait) -> None:
    worker = workers.start()
    wait(lambda: len(worker.children()) >= 2, what="the pool")
    family = [worker, *worker.children(recursive=True)]
    worker.terminate()
    wait(
        lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family),
        what="the end of all processes",
    )


def test_a_worker_without_its_database_does_not_start_and_says_why() -> None:
    environment = os.environ | {"OPSPIPE_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", "worker"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "opspipe: the worker does not start: the database did not finish the work" in done.stderr
