"""Jobs of each stage to be raced against, and what is to be true of a job whatever has happened to it."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any

from sqlalchemy import text

from pipeline.analyze import start_analysis
from pipeline.database import transaction
from pipeline.ingest.submit import submit_csv
from pipeline.jobs import retry_job
from pipeline.jobviews import view_job
from pipeline.ledger import ChunkRef
from pipeline.projects import ensure_project
from pipeline.runner import publish_next, run_chunk
from pipeline.sweeper import sweep
from pipeline.uploads import remove_stray_files
from schemas.enums import RecordType, Stage
from schemas.options import AnalysisOptions, IngestOptions
from schemas.reference import Project
from tests.pipeline.races.moments import Intrusion

RECORDS = 20
# The last of them repeat the texts of the first: a chunk of their own, which copies embeddings.
TEXTS = 15

# What a job is made of, and what hangs on its records.
TABLES = (
    "ingest_jobs",
    "analytics_jobs",
    "work_jobs",
    "work_stages",
    "work_chunks",
    "data_records",
    "record_identities",
    "record_embeddings",
    "record_failures",
    "alignments",
    "similarity_flags",
    "ai_usage",
    "uploads",
    "removals",
    "embedding_spaces",
)


@dataclass(frozen=True)
class Job:
    """A job, the chunks that were published of it so far, and the job that loaded the records."""

    id: str
    refs: list[ChunkRef]
    loaded_by: str
    project_id: str


Begin = Callable[[], Job]


def batch() -> str:
    """Write a batch of records with an id, of one person."""
    lines = (f"{number},write the story number {number % TEXTS} now,a@x.de\n" for number in range(RECORDS))
    return "id,prompt,created_by_email\n" + "".join(lines)


class Lives:
    """Begins jobs, each in a new project and an otherwise empty database."""

    def __init__(self, guidelines: str) -> None:
        self._guidelines = guidelines

    def begin(self, stage: Stage, *, analyze: bool = False) -> Job:
        """Make a job whose next work is of this stage; of VECTORIZE it is the last chunk of its load.

        Args:
            stage: LOAD, VECTORIZE or ANALYZE.
            analyze: whether an analysis follows the job.
        """
        project_id = self._renew()
        submission = submit_csv(
            project_id,
            io.BytesIO(batch().encode()),
            file_name="batch.csv",
            options=IngestOptions(
                record_type=RecordType.TASK, embed=stage is Stage.VECTORIZE, analyze=analyze
            ),
        )
        loaded_by = submission.job_id
        loading = Job(loaded_by, [submission.plan], loaded_by, project_id)
        if stage is Stage.VECTORIZE:
            (first,) = run_chunk(submission.plan)
            return replace(loading, refs=run_chunk(first))
        if stage is Stage.LOAD:
            return loading
        run(loading)
        with transaction() as session:
            start = start_analysis(session, project_id, AnalysisOptions())
        return Job(start.job_id, [start.plan], loaded_by, project_id)

    def _renew(self) -> str:
        with transaction() as session:
            session.execute(text("DELETE FROM projects"))
            session.execute(text("DELETE FROM record_embeddings"))
            project = ensure_project(session, "demo")
            session.get_one(Project, project.id).guidelines = self._guidelines
        remove_files()
        return project.id


def remove_files() -> None:
    """Remove the files of projects that are gone, as upkeep does a day later."""
    remove_stray_files(datetime.now(UTC) + timedelta(days=2))


def run(job: Job) -> Job:
    """Work on a job to its end."""
    place = 0
    while place < len(job.refs):
        job.refs.extend(run_chunk(job.refs[place]))
        place += 1
    return job


def walk(
    begin: Begin,
    act: Callable[[Job], object],
    check: Callable[[Job], object],
    *,
    work: Callable[[Job], object] = run,
    at_statements: bool = False,
    step: int = 1,
) -> int:
    """Let a job be intruded upon at the first moment of the work on it, another at the second, and so on.

    Args:
        begin: makes a job.
        act: what somebody else does at that moment.
        check: what is to be true when the work has ended.
        work: what is done with the job.
        at_statements: whether each statement is a moment.
        step: how many moments to go on.

    Returns:
        The number of moments that were looked at.
    """
    for number in count(step=step):
        job = begin()
        intrusion = Intrusion(partial(act, job), at=number, at_statements=at_statements)
        try:
            with intrusion:
                work(job)
            if not intrusion.came:
                return number // step
            check(job)
        except BaseException as error:
            error.add_note(f"at moment {number}: {intrusion.where}")
            raise
    raise AssertionError  # never: counting has no end


def ask(question: str, **values: object) -> list[tuple[Any, ...]]:
    """Ask the database as it is now."""
    with transaction() as session:
        return [tuple(row) for row in session.execute(text(question), values)]


def number_of(table: str, condition: str = "true") -> int:
    """Count rows."""
    return int(ask(f"SELECT count(*) FROM {table} WHERE {condition}")[0][0])  # noqa: S608 - of the tests


def status_of(job_id: str) -> str:
    """Give a job's status."""
    with transaction() as session:
        return view_job(session, job_id).status


def take_up(job: Job) -> None:
    """Retry a job and work on it to its end."""
    with transaction() as session:
        retry_job(session, job.id)
    run(replace(job, refs=publish_next(job.id, 10)))


def everything() -> list[tuple[Any, ...]]:
    """Give all rows as they are, so that a change of any shows."""
    each = (f"SELECT '{table}', entry::text FROM {table} AS entry" for table in TABLES)  # noqa: S608 - as above
    return ask(" UNION ALL ".join(each) + " ORDER BY 1, 2")


def check_rest(job: Job) -> None:
    """See that nobody works on anything, and that neither late messages nor the sweeper change that."""
    is_left = "state IN ('PENDING', 'LEASED') OR leased_until IS NOT NULL"
    assert number_of("work_chunks", is_left) == 0
    assert number_of("work_jobs", "stopping IS NOT NULL") == 0
    with transaction() as session:
        # However long ago the messages were sent.
        aged = "UPDATE work_chunks SET published_at = published_at - interval '1 day'"
        session.execute(text(aged))
    before = everything()
    for ref in job.refs:
        assert run_chunk(ref) == [], ref
    assert publish_next(job.id, 10) == []
    assert sweep() == []
    assert everything() == before


def check_counts(job: Job) -> None:
    """See that counters are those of chunks, and those of rows."""
    counted = ask(
        "SELECT job_id, stage, chunk_count, ended_chunk_count, failed_chunk_count, total_count, done_count,"
        " failed_count, ended_at IS NOT NULL FROM work_stages WHERE planned_at IS NOT NULL ORDER BY 1, 2"
    )
    assert counted == ask(
        "SELECT job_id, stage, count(*), count(*) FILTER (WHERE state IN ('DONE', 'FAILED')),"
        " count(*) FILTER (WHERE state = 'FAILED'), sum(record_count), sum(done_count), sum(failed_count),"
        " bool_and(state IN ('DONE', 'FAILED')) FROM work_chunks WHERE number > 0 GROUP BY 1, 2 ORDER BY 1, 2"
    )
    with transaction() as session:
        view, loaded = view_job(session, job.id), view_job(session, job.loaded_by)
    stages = {stage.stage: stage for stage in (*loaded.stages, *view.stages)}
    is_embedded = "cardinality(embedding) > 0"
    assert loaded.saved_count == stages[Stage.LOAD].done == number_of("data_records")
    assert loaded.saved_count == number_of("record_identities")
    if Stage.VECTORIZE in stages:
        assert stages[Stage.VECTORIZE].done == number_of("data_records", is_embedded)
        assert stages[Stage.VECTORIZE].done == number_of("record_embeddings")
    if Stage.ANALYZE in stages:
        # What was paid for is kept, also of a chunk that the ledger knows as not done.
        assert view.processed_count == stages[Stage.ANALYZE].done <= number_of("alignments")


def result_of(job: Job) -> dict[str, object]:
    """Give all that the work has led to, but for ids and times."""
    with transaction() as session:
        view = view_job(session, job.id)
    of_record = "metadata ->> 'id'"
    return {
        "status": view.status,
        "counts": (view.total_records, view.saved_count, view.skipped_count, view.processed_count),
        "error": view.error,
        "stages": [(each.stage, each.total, each.done, each.failed, each.is_over) for each in view.stages],
        "chunks": ask(
            "SELECT stage, number, state, record_count, done_count, failed_count, skipped, error"
            " FROM work_chunks WHERE job_id = :id ORDER BY stage, number",
            id=job.id,
        ),
        "records": ask(
            f'SELECT {of_record}, content, type, category, embedding, "alignmentAnalysis", score'  # noqa: S608 - as above
            f" FROM data_records LEFT JOIN alignments ON id = record_id ORDER BY {of_record}"
        ),
        "flags": ask(
            f"SELECT one.{of_record}, other.{of_record}, similarity FROM similarity_flags"  # noqa: S608 - as above
            " JOIN data_records AS one ON one.id = record_id JOIN data_records AS other"
            " ON other.id = similar_id ORDER BY 1, 2"
        ),
        "rows": {table: number_of(table) for table in TABLES if table not in {"ai_usage", "removals"}},
    }
