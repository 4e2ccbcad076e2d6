"""The stages of models by real worker processes that are killed: every record once, little paid twice."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.analyze import start_analysis
from pipeline.database import transaction
from pipeline.ingest.submit import submit_csv
from pipeline.jobviews import JobView, view_job
from pipeline.projects import ProjectRef, ensure_project, set_guidelines
from pipeline.sample import write_guidelines_pdf
from pipeline.settings import get_settings
from pipeline.sweeper import sweep
from schemas.enums import JobStatus, RecordType
from schemas.options import AnalysisOptions, IngestOptions
from tasks import publish
from tests.ai_server import AiServer, vector_of
from tests.workers import Workers

# Of small chunks: texts a call, and an analyze chunk; a vectorize chunk has as many as 16 calls take.
_BATCH, _VECTORIZE_CHUNK = 20, 16 * 20


@pytest.fixture
def slow_server(use_ai_server: AiServer, monkeypatch: pytest.MonkeyPatch) -> AiServer:
    """A server that takes its time; a dead worker's chunk is taken up after two seconds."""
    monkeypatch.setenv("OPSPIPE_LEASE_SECONDS", "2")
    get_settings.cache_clear()
    use_ai_server.behaviour.latency = 0.05
    return use_ai_server


def _view(job_id: str) -> JobView:
    with transaction() as session:
        return view_job(session, job_id)


def _ended(job_id: str) -> bool:
    publish(sweep())
    return _view(job_id).is_ended


def _kill_a_child(worker: psutil.Process) -> None:
    """Kill the child process that is busiest now, as a lack of memory would."""
    children = worker.children()
    max(children, key=lambda child: sum(child.cpu_times()[:2])).kill()


def _load(project: ProjectRef, count: int, *, embed: bool) -> str:
    rows = "".join(f"t{number},write the story number {number} now\n" for number in range(count))
    submission = submit_csv(
        project.id,
        io.BytesIO(f"task_id,prompt\n{rows}".encode()),
        file_name="b.csv",
        options=IngestOptions(record_type=RecordType.TASK, embed=embed),
    )
    publish([submission.plan])
    return submission.job_id


@pytest.mark.usefixtures("small_chunks")
def test_killed_workers_leave_every_record_with_its_embedding(
    session: Session,
    workers: Workers,
    wait: Callable[..., None],
    slow_server: AiServer,
) -> None:
    project = ensure_project(session, "demo")
    session.commit()
    worker = workers.start()
    job_id = _load(project, 1_200, embed=True)
    for least in (5, 25):
        wait(lambda least=least: slow_server.seen.calls >= least or _ended(job_id), what="some calls")
        _kill_a_child(worker)
    wait(lambda: _ended(job_id), seconds=90, what="the end of the job")
    job = _view(job_id)
    assert (job.status, job.stages[1].done, job.stages[1].failed) == (JobStatus.COMPLETED, 1_200, 0)
    rows = session.execute(text("SELECT content, embedding FROM data_records")).all()
    assert len(rows) == 1_200
    for content, embedding in rows:
        assert np.array_equal(np.array(embedding), vector_of(content, 16).astype(float))
    # The chunk of a killed process is paid for again, and nothing else.
    assert slow_server.seen.texts.total() <= 1_200 + 2 * _VECTORIZE_CHUNK


@pytest.mark.usefixtures("small_chunks")
def test_killed_workers_leave_every_record_analyzed_once(
    session: Session, workers: Workers, wait: Callable[..., None], slow_server: AiServer, tmp_path: Path
) -> None:
    project = ensure_project(session, "demo")
    write_guidelines_pdf(tmp_path / "g.pdf")
    set_guidelines(session, project.id, (tmp_path / "g.pdf").read_bytes(), file_name="g.pdf")
    session.commit()
    worker = workers.start()
    load = _load(project, 300, embed=False)
    wait(lambda: _ended(load), what="the end of the load")
    start = start_analysis(session, project.id, AnalysisOptions(likert=True))
    session.commit()
    publish([start.plan])
    for least in (100, 300):
        wait(lambda least=least: slow_server.seen.chats >= least or _ended(start.job_id), what="some calls")
        _kill_a_child(worker)
    wait(lambda: _ended(start.job_id), seconds=90, what="the end of the job")
    job = _view(start.job_id)
    assert (job.status, job.processed_count) == (JobStatus.COMPLETED, 300)
    for counted in (
        "SELECT count(*), count(DISTINCT record_id) FROM alignments",
        'SELECT count(*), count(DISTINCT "recordId") FROM likert_scores',
    ):
        assert tuple(session.execute(text(counted)).one()) == (300, 300)
    # Two questions a record; the chunk of a killed process is paid for again, and nothing else.
    assert slow_server.seen.chats <= 2 * 300 + 2 * 2 * _BATCH
