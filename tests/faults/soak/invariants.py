"""What must be true of all jobs, at every moment and at the end."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.settings import get_settings
from tests.ai_server import vector_of
from tests.faults.guarded import wait_for
from tests.faults.installation import Installation
from tests.faults.soak.batches import Batch
from tests.faults.soak.models import DIMENSIONS

_SHOWN = 3
# So the runner and the API call what they have no name for.
_UNEXPECTED = "unexpected error"

# Of one snapshot: what a job says and what is there, wherever they do not agree.
COUNTERS = """
    SELECT job.id, 'saved and records' AS what, job."savedCount" AS said, count(record.id) AS found
    FROM ingest_jobs AS job LEFT JOIN data_records AS record ON record."ingestJobId" = job.id
    GROUP BY job.id HAVING job."savedCount" <> count(record.id)
    UNION ALL
    SELECT id, 'rows and total', "savedCount" + "skippedCount", "totalRecords" FROM ingest_jobs
    WHERE "savedCount" + "skippedCount" > "totalRecords"
    UNION ALL
    SELECT id, 'processed and total', "processedCount", "totalRecords" FROM analytics_jobs
    WHERE "processedCount" > "totalRecords"
    UNION ALL
    SELECT job_id, stage || ': settled and total', done_count + failed_count, total_count FROM work_stages
    WHERE done_count + failed_count > total_count
    UNION ALL
    SELECT stage.job_id, stage.stage || ': settled and chunks', stage.done_count + stage.failed_count,
        coalesce(sum(chunk.done_count + chunk.failed_count), 0)
    FROM work_stages AS stage JOIN work_chunks AS chunk USING (job_id, stage)
    GROUP BY stage.job_id, stage.stage
    HAVING stage.done_count + stage.failed_count <> coalesce(sum(chunk.done_count + chunk.failed_count), 0)
"""

_JOBS = """(
    SELECT id, 'ingest' AS kind, status, error FROM ingest_jobs
    UNION ALL SELECT id, 'analytics', status, error FROM analytics_jobs
) AS jobs"""
# What may not be, and the rows where it is.
_NEVER: Mapping[str, str] = {
    "a job has not ended or has failed": f"""
        SELECT * FROM {_JOBS} WHERE status NOT IN ('COMPLETED', 'CANCELLED')""",  # noqa: S608 - of this module
    "a job's rows are not all accounted for": """
        SELECT id, "totalRecords", "savedCount", "skippedCount" FROM ingest_jobs
        WHERE status = 'COMPLETED' AND "savedCount" + "skippedCount" <> "totalRecords"
            AND id IN (SELECT job_id FROM work_jobs WHERE upload_id IS NOT NULL)""",
    "counters and rows do not agree": COUNTERS,
    "a stage of a completed job is not whole": f"""
        SELECT job_id, stage, total_count, done_count, failed_count, chunk_count, ended_chunk_count
        FROM work_stages WHERE job_id IN (SELECT id FROM {_JOBS} WHERE status = 'COMPLETED') AND (
            ended_at IS NULL OR ended_chunk_count <> chunk_count OR failed_count > 0
            OR done_count <> total_count - CASE WHEN stage = 'load'
                THEN (SELECT "skippedCount" FROM ingest_jobs WHERE id = job_id) ELSE 0 END
        )""",  # noqa: S608 - of this module
    "a chunk is open, held or given up": """
        SELECT job_id, stage, number, state, leased_by, error FROM work_chunks
        WHERE state IN ('PENDING', 'LEASED', 'FAILED') OR leased_until IS NOT NULL""",
    "an analysis of a batch was not started": """
        SELECT work.job_id FROM work_jobs AS work JOIN ingest_jobs AS job ON job.id = work.ingest_job_id
        WHERE job.status = 'COMPLETED' AND CAST(work.options ->> 'analyze' AS boolean)
            AND NOT EXISTS (SELECT FROM work_jobs AS next WHERE next.follows_job_id = work.job_id)""",
    "a record is listed as failed": "SELECT job_id, stage, record_id, message FROM record_failures",
    "an identity is stored twice": """
        SELECT "projectId", type, split_part(content, ' ', 2) FROM data_records
        GROUP BY 1, 2, 3 HAVING count(*) > 1""",
    "records and identities do not go together": """
        SELECT record.id, identity.record_id FROM data_records AS record
        FULL JOIN record_identities AS identity ON identity.record_id = record.id
        WHERE record.id IS NULL OR identity.record_id IS NULL""",
    "a record has more than one identity": """
        SELECT record_id FROM record_identities GROUP BY record_id HAVING count(*) > 1""",
    "something of a deleted job is left": """
        SELECT id FROM data_records WHERE "ingestJobId" NOT IN (SELECT id FROM ingest_jobs)
        UNION ALL SELECT job_id FROM removals
        UNION ALL SELECT id FROM uploads WHERE id NOT IN
            (SELECT upload_id FROM work_jobs WHERE upload_id IS NOT NULL)""",
    "a record has no embedding, or no analysis": """
        SELECT id, cardinality(embedding), "alignmentAnalysis" IS NULL FROM data_records
        WHERE cardinality(embedding) = 0 OR "alignmentAnalysis" IS NULL
            OR id NOT IN (SELECT record_id FROM alignments)""",
    "a transaction is forgotten": """
        SELECT pid, application_name, state, now() - state_change, query FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'
            AND state_change < now() - interval '2 s' AND pid <> pg_backend_pid()""",
}
_BATCHES = text("""
    SELECT uploads.file_name, job.id, job.status, job."totalRecords" AS total
    FROM ingest_jobs AS job JOIN work_jobs AS work ON work.job_id = job.id
    JOIN uploads ON uploads.id = work.upload_id
""")


def find_broken(session: Session) -> Iterator[str]:
    """Say which of what may not be is the case, with some examples."""
    for sentence, question in _NEVER.items():
        rows = session.execute(text(question)).all()
        if rows:
            yield f"{sentence}: {len(rows)} times, as {'; '.join(str(tuple(row)) for row in rows[:_SHOWN])}"


def find_lost(session: Session, batches: Sequence[Batch]) -> Iterator[str]:
    """Say which of these batches, none of which was deleted, are not there as they were submitted."""
    jobs = session.execute(_BATCHES).all()
    contents = session.scalars(text("SELECT content FROM data_records")).all()
    there = {content.split(" ", 2)[1] for content in contents}
    for batch in batches:
        completed = [job for job in jobs if job.file_name == batch.name and job.status == "COMPLETED"]
        if not any(job.file_name == batch.name for job in jobs):
            yield f"batch {batch.name} has no job"
        if wrong := [job for job in completed if job.total != batch.rows]:
            yield f"batch {batch.name} has {batch.rows} rows, and {wrong} say something else"
        missing = [identity for identity in batch.identities if identity not in there]
        if completed and missing:
            yield f"batch {batch.name} has lost {len(missing)} records, as {missing[:_SHOWN]}"


def find_wrong_embeddings(session: Session) -> Iterator[str]:
    """Say which records have an embedding that is not of their own text."""
    rows = session.execute(text("SELECT id, content, embedding FROM data_records")).all()
    wrong = [
        row.id
        for row in rows
        if not np.array_equal(np.array(row.embedding), vector_of(row.content, DIMENSIONS).astype(float))
    ]
    if wrong:
        yield f"{len(wrong)} records have another text's embedding, as {wrong[:_SHOWN]}"


def find_wrongly_cancelled(session: Session, may_be: set[str], must_be: set[str]) -> Iterator[str]:
    """Say which jobs are CANCELLED and nobody asked for it, or the other way round."""
    found = session.scalars(text(f"SELECT id FROM {_JOBS} WHERE status = 'CANCELLED'")).all()  # noqa: S608 - of this module
    for job_id in set(found) - may_be:
        yield f"job {job_id} is CANCELLED and nobody asked for it"
    for job_id in must_be - set(found):
        yield f"job {job_id} was cancelled and is not any more"


def find_unexpected(logs: Path) -> Iterator[str]:
    """Say which errors nobody has foreseen, by the logs of the processes."""
    for log in sorted(logs.glob("*.log")):
        lines = [line for line in log.read_text(errors="replace").splitlines() if _UNEXPECTED in line]
        if lines:
            yield f"{log.name} has {len(lines)} unexpected errors, as {lines[0]}"


def find_orphans(installation: Installation) -> Iterator[str]:
    """Say which processes of the installation have outlived whoever looked after them."""
    found: list[psutil.Process] = []

    def are_gone() -> bool:
        found[:] = _orphans(installation)
        return not found

    with suppress(AssertionError):
        wait_for(are_gone, "all orphans are gone", seconds=30)
    for process in found:
        with suppress(psutil.NoSuchProcess):
            yield f"process {process.pid} is left behind: {' '.join(process.cmdline())}"


def _orphans(installation: Installation) -> list[psutil.Process]:
    home, known = str(get_settings().home), {os.getpid()}
    for root in (psutil.Process(), *installation.guards()):
        with suppress(psutil.NoSuchProcess):
            known |= {root.pid, *(child.pid for child in root.children(recursive=True))}
    return [
        process for process in psutil.process_iter() if process.pid not in known and _is_of(process, home)
    ]


def _is_of(process: psutil.Process, home: str) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return bool(process.environ().get("OPSPIPE_HOME") == home)
    return False
