"""How long a small job takes that comes while a large one is being loaded, beside an idle system."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import stand

from pipeline.database import transaction
from pipeline.ingest.submit import submit_csv
from pipeline.jobs import cancel_job
from pipeline.jobviews import JobView, view_job
from pipeline.projects import ensure_project
from schemas.enums import JobStatus, RecordType
from schemas.options import IngestOptions
from tasks import publish

_WORKERS = 2
_POLL_SECONDS = 0.01
# The large job is well under way by then.
_LOADED_ROWS = 100_000


@dataclass(frozen=True)
class Fairness:
    """Seconds from a small job's submission to its end: on an idle system, and beside a large job."""

    idle: Sequence[float]
    beside: Sequence[float]

    @property
    def ratio(self) -> float:
        """Median to median."""
        return float(np.median(self.beside) / np.median(self.idle))


def measure_fairness(large: Path, small: Path, runs: int) -> Fairness:
    """Load a small file `runs` times by itself, and as often while a large file is being loaded."""
    with stand.workers(_WORKERS, is_watched=False):
        _load(small)
        idle = [_load(small) for _ in range(runs)]
        job_id = _submit(large)
        beside = []
        for run in range(1, runs + 1):
            _wait(job_id, lambda view, least=run * _LOADED_ROWS: view.saved_count > least)
            beside.append(_load(small))
            if _view(job_id).is_ended:
                raise SystemExit("the large job ended before the small ones: take a larger one")
        with transaction() as session:
            cancel_job(session, job_id)
    return Fairness(idle, beside)


def _submit(file: Path) -> str:
    with transaction() as session:
        project_id = ensure_project(session, "bench").id
    options = IngestOptions(record_type=RecordType.TASK, embed=False)
    with file.open("rb") as source:
        submission = submit_csv(project_id, source, file_name=file.name, options=options, force=True)
    publish([submission.plan])
    return submission.job_id


def _load(file: Path) -> float:
    start = time.perf_counter()
    job_id = _submit(file)
    view = _wait(job_id, lambda view: view.is_ended)
    if view.status is not JobStatus.COMPLETED:
        raise SystemExit(f"the load went wrong: {view}")
    return time.perf_counter() - start


def _wait(job_id: str, is_far_enough: Callable[[JobView], bool]) -> JobView:
    while not is_far_enough(view := _view(job_id)):
        time.sleep(_POLL_SECONDS)
    return view


def _view(job_id: str) -> JobView:
    with transaction() as session:
        return view_job(session, job_id)


def report(found: Fairness) -> str:
    """Write the table of docs/performance.md."""
    idle, beside = (", ".join(f"{value:.2f}" for value in values) for values in (found.idle, found.beside))
    return f"""
| a job of 1,000 rows | seconds, median | each |
|---|---|---|
| on an idle system | {np.median(found.idle):.2f} | {idle} |
| beside a job of a million rows | {np.median(found.beside):.2f} | {beside} |
| ratio | **{found.ratio:.1f}** | |
"""
