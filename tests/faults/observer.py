"""Somebody who looks at the jobs fifty times a second, whatever happens, and believes nothing."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row

from pipeline.states import TRANSITIONS
from schemas.enums import JobKind, JobStatus
from tests.faults.installation import Installation

_PAUSE_SECONDS = 0.02

# What the jobs say, and what is there, in one snapshot.
_LOOK = """
    SELECT batch.status, batch."totalRecords" AS total, batch."savedCount" AS saved,
        batch."skippedCount" AS skipped,
        (SELECT count(*) FROM data_records) AS records,
        (SELECT count(*) FROM data_records WHERE cardinality(embedding) > 0) AS vectors,
        coalesce((SELECT done_count FROM work_stages WHERE job_id = batch.id AND stage = 'vectorize'), 0)
            AS vectorized,
        coalesce((SELECT done_count FROM work_stages WHERE job_id = batch.id AND stage = 'compare'), 0)
            AS compared,
        analysis.status AS analysis_status, coalesce(analysis."totalRecords", 0) AS analysis_total,
        coalesce(analysis."processedCount", 0) AS processed,
        (SELECT count(*) FROM alignments) AS alignments,
        (SELECT count(*) FROM work_stages WHERE done_count + failed_count > total_count) AS exceeded
    FROM ingest_jobs AS batch LEFT JOIN analytics_jobs AS analysis ON true
"""
_NEVER_DOWN = ("total", "saved", "skipped", "vectorized", "compared", "processed")
# Every change of a job's status, as it is committed.
_WATCH = """
    DROP TABLE IF EXISTS status_changes;
    CREATE TABLE status_changes (number serial, kind text, job_id text, before text, after text);
    CREATE OR REPLACE FUNCTION note_status_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO status_changes (kind, job_id, before, after)
        VALUES (TG_ARGV[0], NEW.id, OLD.status::text, NEW.status::text);
        RETURN NULL;
    END $$;
    CREATE OR REPLACE TRIGGER note_status_change AFTER UPDATE ON ingest_jobs
        FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
        EXECUTE FUNCTION note_status_change('ingest');
    CREATE OR REPLACE TRIGGER note_status_change AFTER UPDATE ON analytics_jobs
        FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
        EXECUTE FUNCTION note_status_change('analytics');
"""
_UNWATCH = """
    DROP TRIGGER IF EXISTS note_status_change ON ingest_jobs;
    DROP TRIGGER IF EXISTS note_status_change ON analytics_jobs;
    DROP FUNCTION IF EXISTS note_status_change;
    DROP TABLE IF EXISTS status_changes;
"""

# Kind and id of a job, the status that it left and the one that it came to.
StatusChange = tuple[JobKind, str, JobStatus, JobStatus]


def watch_statuses(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    """Have the database note every change of a job's status, from now on."""
    connection.execute(_WATCH)


def read_status_changes(connection: "psycopg.Connection[tuple[object, ...]]") -> list[StatusChange]:
    """List the changes since it was asked to note them, and have no more noted."""
    rows = connection.execute(
        "SELECT kind, job_id, before, after FROM status_changes ORDER BY number"
    ).fetchall()
    connection.execute(_UNWATCH)
    return [
        (JobKind(str(kind)), str(job_id), JobStatus(str(before)), JobStatus(str(after)))
        for kind, job_id, before, after in rows
    ]


def find_forbidden_changes(changes: Sequence[StatusChange]) -> list[str]:
    """Say which changes the table of states does not allow, or do not follow from the job's last one."""
    found, at = [], dict[str, JobStatus]()
    for kind, job_id, before, after in changes:
        if after not in TRANSITIONS[kind][before]:
            found.append(f"{kind} went from {before} to {after}")
        if at.get(job_id, before) is not before:
            found.append(f"{kind} left {before} and was {at[job_id]}")
        at[job_id] = after
    return found


class Observer:
    """Looks as long as the block; what it saw that may not be is in `faults`."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._last: dict[str, Any] = {}
        self.looks = 0
        self.faults: list[str] = []
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        with self._installation.connect() as connection:
            watch_statuses(connection)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._installation.wait_for_servers()
        with self._installation.connect() as connection:
            changes = read_status_changes(connection)
        if error is None:
            self._check_changes(changes)
        if error is None and self._error is not None:
            raise self._error

    def check(self) -> None:
        """See that it looked, and saw nothing wrong."""
        assert self.looks > 20
        assert not self.faults, self.faults[:5]

    def _look(self) -> None:
        while not self._over.is_set():
            try:
                with self._installation.connect() as connection:
                    cursor = connection.cursor(row_factory=dict_row)
                    while not self._over.wait(_PAUSE_SECONDS):
                        row = cursor.execute(_LOOK, prepare=True).fetchone()
                        if row is not None:
                            self._compare(row)
            except psycopg.OperationalError:
                time.sleep(_PAUSE_SECONDS)  # it is down: that is what is tried
            except BaseException as error:  # noqa: BLE001 - shown by the thread that waits
                self._error = error
                return

    def _compare(self, row: dict[str, Any]) -> None:
        self.looks += 1
        found = [
            f"{name} went from {self._last[name]} to {row[name]}"
            for name in _NEVER_DOWN
            if self._last and row[name] < self._last[name]
        ]
        pairs = (("saved", "records"), ("vectorized", "vectors"), ("processed", "alignments"))
        found += [
            f"{counted} says {row[counted]} of {row[there]} {there}"
            for counted, there in pairs
            if row[counted] != row[there]
        ]
        if row["saved"] + row["skipped"] > row["total"]:
            found.append(f"{row['saved']} + {row['skipped']} rows of {row['total']}")
        if row["processed"] > row["analysis_total"] or row["exceeded"]:
            found.append(f"more was done than there is to do: {row}")
        self.faults += found
        self._last = row

    def _check_changes(self, changes: Sequence[StatusChange]) -> None:
        """See that every change was allowed, followed from the last, and happened once."""
        first = {job_id: before for _, job_id, before, _ in reversed(changes)}
        self.faults += [
            f"{job_id} began as {status}"
            for job_id, status in first.items()
            if status is not JobStatus.PENDING
        ]
        self.faults += find_forbidden_changes(changes)
        twice = [change for change, times in Counter(changes).items() if times > 1]
        if twice:
            self.faults.append(f"twice: {twice}")
