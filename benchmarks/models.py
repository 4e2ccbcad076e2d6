"""The AI stages against their ideal: a server of known latency and slots, and COPY of the same vectors."""

import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psycopg
import stand
from sqlalchemy import text

from pipeline.ai import close_providers
from pipeline.analyze import start_analysis
from pipeline.database import transaction
from pipeline.embeddings import digest_text
from pipeline.ids import new_cuids
from pipeline.ingest.copyrows import COPY_END, COPY_START
from pipeline.jobviews import view_job
from pipeline.ledger import ChunkRef
from pipeline.projects import ensure_project, set_guidelines
from pipeline.sample import write_guidelines_pdf
from pipeline.servers import endpoints
from pipeline.settings import get_settings
from pipeline.sweeper import sweep
from pipeline.system_settings import write_setting
from pipeline.vectorize import start_vectorization
from pipeline.vectorize.write import Origin, write_embeddings
from schemas.enums import JobStatus
from schemas.options import AnalysisOptions
from tasks import publish

# Worker processes: two a core, as `opspipe up` runs them.
_WORKERS = 4
_BATCH = 1_000
# The first run makes the server's vectors, which it looks up from then on, and starts the workers' processes,
# which live for days; the first two make the log files that PostgreSQL uses again from then on.
_WARM_UPS = 2
_POLL_SECONDS, _SWEEP_SECONDS = 0.25, 5.0


@dataclass(frozen=True)
class Saturation:
    """How long a server was busy in each run, from the first call to the last, and how long it had to be."""

    name: str
    calls: int
    ideal_seconds: float
    run_seconds: Sequence[float]

    @property
    def seconds(self) -> float:
        """The median of the runs."""
        return float(np.median(self.run_seconds))

    @property
    def ratios(self) -> list[float]:
        """Time taken to ideal time in each run; 1 is a server that never had a slot free."""
        return [seconds / self.ideal_seconds for seconds in self.run_seconds]


class Server:
    """The test server of models in a process of its own."""

    def __init__(self, port: int, latency: float, slots: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.latency, self.slots = latency, slots

    def forget(self) -> None:
        """Let it begin to count anew."""
        self._ask("/reset")

    def saturation(self, name: str, runs: int, run: Callable[[], None]) -> Saturation:
        """Say how it is kept busy by a run, over and over."""
        calls, taken = 0, []
        for _ in range(runs):
            run()
            seen = self._ask("/stats")
            if seen["refused"]:
                raise SystemExit(f"the server was asked for more than {self.slots} calls at a time: {seen}")
            calls = int(seen["calls"])
            taken.append(seen["last"] - seen["first"])
        return Saturation(name, calls, calls * self.latency / self.slots, taken)

    def _ask(self, path: str) -> dict[str, float]:
        answer: dict[str, float] = httpx.get(self.url + path).raise_for_status().json()
        return answer


@contextmanager
def serve(*, dimensions: int, latency: float, slots: int) -> Iterator[Server]:
    """Run a server, and set it as the provider."""
    command = [sys.executable, "-m", "tests.ai_server", "--dimensions", str(dimensions)]
    command += ["--latency", str(latency), "--slots", str(slots)]
    process = subprocess.Popen(command, cwd=stand.ROOT, stdout=subprocess.PIPE, text=True)
    try:
        server = Server(int(process.stdout.readline()), latency, slots)
        values = {"ai_provider": "lmstudio", "ai_host": server.url}
        values |= {"embedding_model": "embedder", "llm_model": "chatter"}
        with transaction() as session:
            for key, value in values.items():
                write_setting(session, key, value)
        yield server
    finally:
        close_providers()
        process.kill()
        process.wait()


def fill(rows: int) -> str:
    """Put records without embedding into the empty tables, all of different texts; gives the project's id."""
    stand.empty()
    with transaction() as session:
        project_id = ensure_project(session, "bench").id
        session.execute(text("TRUNCATE record_embeddings"))
        session.execute(_FILL, {"project_id": project_id, "rows": rows})
    engine = stand.database.get_engine()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE) data_records"))
    stand.settle()
    return project_id


_FILL = text("""
    INSERT INTO data_records (id, "projectId", type, source, content, metadata)
    SELECT 'c' || lpad(number::text, 24, '0'), :project_id, 'TASK', 'bench',
        'record ' || number || ' ' || repeat(md5(number::text) || ' ', 10),
        jsonb_build_object('task_id', number)
    FROM generate_series(1, CAST(:rows AS bigint)) AS number
""")


def measure_embeddings(dimensions: int, rows: int, runs: int) -> Saturation:
    """Embed records with write-back by real workers: 50 ms a call, 8 slots, 64 texts a call."""
    with (
        serve(dimensions=dimensions, latency=0.05, slots=8) as server,
        stand.workers(_WORKERS, queues="vectorize", is_watched=False),
    ):

        def run() -> None:
            project_id = fill(rows)
            server.forget()
            with transaction() as session:
                start = start_vectorization(session, project_id)
            _finish(start.job_id, start.plan)

        for _ in range(_WARM_UPS):
            run()
        return server.saturation(f"{rows:,} embeddings of {dimensions} dimensions", runs, run)


def measure_completions(count: int, runs: int) -> Saturation:
    """Analyze records by real workers: 200 ms a call, 32 slots."""
    with (
        serve(dimensions=16, latency=0.2, slots=32) as server,
        _setting("OPSPIPE_AI_CONCURRENCY", "32"),
        stand.workers(_WORKERS, queues="analyze", is_watched=False),
        tempfile.TemporaryDirectory() as folder,
    ):
        file = Path(folder) / "guidelines.pdf"
        write_guidelines_pdf(file)

        def run() -> None:
            project_id = fill(count)
            server.forget()
            with transaction() as session:
                set_guidelines(session, project_id, file.read_bytes(), file_name=file.name)
                start = start_analysis(session, project_id, AnalysisOptions())
            _finish(start.job_id, start.plan)

        return server.saturation(f"{count:,} completions", runs, run)


@contextmanager
def _setting(name: str, value: str) -> Iterator[None]:
    stand.os.environ[name] = value
    get_settings.cache_clear()
    try:
        yield
    finally:
        del stand.os.environ[name]
        get_settings.cache_clear()


def _finish(job_id: str, plan: ChunkRef) -> None:
    publish([plan])
    swept_at = time.monotonic()
    while True:
        time.sleep(_POLL_SECONDS)
        if time.monotonic() - swept_at > _SWEEP_SECONDS:
            # Beat's part: a message may have gone with the worker before.
            publish(sweep())
            swept_at = time.monotonic()
        with transaction() as session:
            view = view_job(session, job_id)
        if view.is_ended:
            break
    if view.status is not JobStatus.COMPLETED or any(stage.failed for stage in view.stages):
        raise SystemExit(f"the job went wrong: {view}")


def measure_write_back(dimensions: int, rows: int, runs: int) -> tuple[float, float, list[float]]:
    """Write embeddings back, between runs of COPY of the same vectors into a table of id and embedding.

    Both over one connection, in transactions of 1,000 records.

    Returns:
        Medians of the rates in records a second, of COPY and of the write-back, and the ratio of each run.
    """
    vectors = np.random.default_rng(1).standard_normal((_BATCH, dimensions))
    limits, rates = [_limit(vectors, rows)], []
    for _ in range(runs):
        rates.append(_write_back(vectors, rows))
        limits.append(_limit(vectors, rows))
    ratios = [
        rate / ((before + after) / 2) for rate, before, after in zip(rates, limits, limits[1:], strict=False)
    ]
    return float(np.median(limits)), float(np.median(rates)), ratios


def _write_back(vectors: np.ndarray, rows: int) -> float:
    project_id = fill(rows)
    with transaction() as session:
        found = session.execute(
            text(
                "SELECT id, content, xmin::text AS version FROM data_records "
                'WHERE "projectId" = :id ORDER BY id'
            ),
            {"id": project_id},
        ).all()
    seconds = 0.0
    for start in range(0, rows, _BATCH):
        part = found[start : start + _BATCH]
        origins = [Origin(row.id, int(row.version), digest_text("embedder", row.content)) for row in part]
        began = time.perf_counter()
        with transaction() as session:
            write_embeddings(session, origins, list(vectors[: len(part)]), maker="embedder")
        seconds += time.perf_counter() - began
    return rows / seconds


def _limit(vectors: np.ndarray, rows: int) -> float:
    blocks = _pack(vectors, rows)
    with psycopg.connect(endpoints().database_url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS written")
        connection.execute("CREATE TABLE written (id text, embedding double precision[])")
        # As in data_records: trying to compress numbers more than halves the rate.
        connection.execute("ALTER TABLE written ALTER COLUMN embedding SET STORAGE EXTERNAL")
        connection.execute("CHECKPOINT")
        began = time.perf_counter()
        for block in blocks:
            with (
                connection.transaction(),
                connection.cursor() as cursor,
                cursor.copy("COPY written FROM STDIN (FORMAT binary)") as copy,
            ):
                copy.write(block)
        seconds = time.perf_counter() - began
        connection.execute("DROP TABLE written")
    return rows / seconds


def _pack(vectors: np.ndarray, rows: int) -> list[bytes]:
    numbers = np.empty(vectors.shape, dtype=[("length", ">i4"), ("value", ">f8")])
    numbers["length"], numbers["value"] = 8, vectors
    head = struct.pack(">iiIii", 1, 0, 701, vectors.shape[1], 1)
    arrays = [struct.pack(">i", len(head) + row.nbytes) + head + row.tobytes() for row in numbers]
    ids = [cuid.encode() for cuid in sorted(new_cuids(rows))]
    return [
        COPY_START
        + b"".join(
            struct.pack(">hi", 2, len(cuid)) + cuid + array
            for cuid, array in zip(ids[start : start + _BATCH], arrays, strict=False)
        )
        + COPY_END
        for start in range(0, rows, _BATCH)
    ]


def report(
    saturations: Sequence[Saturation], write_backs: Sequence[tuple[int, float, float, list[float]]]
) -> str:
    """Write the tables of docs/performance.md."""
    median: Callable[[list[float]], float] = lambda values: float(np.median(values))  # noqa: E731 - a shorthand
    lines = ["", "| calls of a server | calls | ideal | taken | taken / ideal |", "|---|---|---|---|---|"]
    lines += [
        f"| {found.name} | {found.calls:,} | {found.ideal_seconds:.2f} s | {found.seconds:.2f} s "
        f"| **{median(found.ratios):.2f}** ({', '.join(f'{ratio:.2f}' for ratio in found.ratios)}) |"
        for found in saturations
    ]
    lines += [
        "",
        "| dimensions | COPY | write-back | write-back / COPY of the same run |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {dimensions:,} | {limit:,.0f} records/s | {rate:,.0f} records/s | **{median(ratios):.2f}** "
        f"({', '.join(f'{ratio:.2f}' for ratio in ratios)}) |"
        for dimensions, limit, rate, ratios in write_backs
    ]
    return "\n".join([*lines, ""])
