"""Measures planning, loads, write-back against PostgreSQL's own COPY, and the AI stages against their ideal.

python benchmarks/bench.py load                     # planning, load against the limit: a few minutes
python benchmarks/bench.py models                   # servers of models, write-back: a few minutes
python benchmarks/bench.py fairness                 # a small job beside a million rows: two minutes
python benchmarks/bench.py web                      # the API under load, by wrk: three minutes
python benchmarks/bench.py scaling                  # workers, file sizes, table sizes: a quarter of an hour
python benchmarks/bench.py scaling --huge           # with 5 million rows and a table of 10 million

Only ratios within one run tell anything: machines differ and are noisy, so that every load runs between two
runs of the limit. Tables go to stdout, plots and figures into --out.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import fairness
import models
import stand
import web
from limit import copy_blocks, pack_file
from plots import plot_load, plot_models, plot_scaling
from sqlalchemy import text

from pipeline.csvfile import plan_file
from pipeline.database import transaction
from pipeline.ingest.submit import submit_csv
from pipeline.jobviews import view_job
from pipeline.projects import ensure_project
from pipeline.settings import get_settings
from pipeline.sweeper import sweep
from schemas.enums import JobStatus, RecordType
from schemas.options import IngestOptions
from tasks import publish

MB = 1_000_000
_POLL_SECONDS = 0.25
_DIMENSIONS = (384, 1_536)
_PREFILL_STEP = 250_000


@dataclass(frozen=True)
class LoadRun:
    """One load by real workers. Rates are rows a second, from the end of planning to the end of loading."""

    rows: int
    workers: int
    table_rows: int
    rate: float
    plan_seconds: float
    load_seconds: float
    idle_share: float
    memory_mb: float


def make_file(rows: int) -> Path:
    """Write the sample of `rows` rows, once."""
    file = stand.HOME / f"rows-{rows}.csv"
    if not file.exists():
        with file.open("wb") as sink:
            maker = Path(__file__).with_name("make_rows.py")
            subprocess.run([sys.executable, maker, str(rows)], stdout=sink, check=True)
    return file


def measure_planning(file: Path, runs: int) -> float:
    """Give the median of MB/s at which a file is planned."""
    settings, rates = get_settings(), []
    for _ in range(runs):
        start = time.perf_counter()
        with file.open("rb") as source:
            plan_file(
                source,
                chunk_rows=settings.chunk_rows,
                chunk_bytes=settings.chunk_bytes,
                max_record_bytes=settings.max_record_bytes,
            )
        rates.append(file.stat().st_size / MB / (time.perf_counter() - start))
    return statistics.median(rates)


def measure_load(file: Path, rows: int, workers: int, table_rows: int = 0) -> LoadRun:
    """Submit a file and let workers load it."""
    with stand.workers(workers) as running:
        with transaction() as session:
            project_id = ensure_project(session, "bench").id
        options = IngestOptions(record_type=RecordType.TASK, embed=False)
        with file.open("rb") as source:
            job = submit_csv(project_id, source, file_name=file.name, options=options, force=True)
        stand.settle()
        publish([job.plan])
        _wait(job.job_id, rows)
    with transaction() as session:
        plan_seconds, load_seconds = session.execute(_STAGE, {"job_id": job.job_id}).one()
    return LoadRun(
        rows=rows,
        workers=workers,
        table_rows=table_rows,
        rate=rows / float(load_seconds),
        plan_seconds=float(plan_seconds),
        load_seconds=float(load_seconds),
        idle_share=running.idle_share(),
        memory_mb=(running.peak_bytes - running.idle_bytes) / MB,
    )


_STAGE = text("""
    SELECT extract(epoch FROM planned_at - started_at), extract(epoch FROM work_stages.ended_at - planned_at)
    FROM work_stages JOIN work_chunks USING (job_id, stage)
    WHERE job_id = :job_id AND number = 0
""")


def _wait(job_id: str, rows: int) -> None:
    while True:
        time.sleep(_POLL_SECONDS)
        publish(sweep())  # beat's part: a message may have gone with the worker before
        with transaction() as session:
            view = view_job(session, job_id)
        if view.is_ended:
            break
    if view.status is not JobStatus.COMPLETED or view.saved_count + view.skipped_count != rows:
        raise SystemExit(f"the load went wrong: {view}")


def measure_ratio(file: Path, rows: int, *, workers: int, runs: int) -> list[tuple[float, LoadRun]]:
    """Alternate the limit and the load; gives the rate of the limit around each load."""
    blocks = pack_file(file, stand.HOME / "blocks")
    limits, loads = [_limit(blocks, rows, workers)], []
    for run in range(runs):
        stand.empty()
        loads.append(measure_load(file, rows, workers))
        limits.append(_limit(blocks, rows, workers))
        print(f"run {run + 1}: limit {limits[-1]:,.0f}, load {loads[-1].rate:,.0f} rows/s", flush=True)
    return [
        ((before + after) / 2, load) for (before, after), load in zip(pairwise(limits), loads, strict=True)
    ]


def _limit(blocks: Sequence[Path], rows: int, connections: int) -> float:
    stand.empty()
    return rows / copy_blocks(blocks, connections=connections)


def prefill(rows: int) -> None:
    """Put small records with identities into the tables, as many as there are to be."""
    with transaction() as session:
        ensure_project(session, "bench")
        there: int = session.scalar(text("SELECT count(*) FROM data_records")) or 0
    for start in range(there, rows, _PREFILL_STEP):
        with transaction() as session:
            session.execute(text("SELECT set_config('opspipe.loading', 'on', true)"))
            session.execute(_PREFILL, {"start": start, "end": min(start + _PREFILL_STEP, rows) - 1})
    with stand.database.get_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE) data_records, record_identities"))
    stand.settle()


_PREFILL = text("""
    WITH filled AS (
        INSERT INTO data_records (id, "projectId", type, source, content, metadata)
        SELECT 'b' || lpad(number::text, 24, '0'), projects.id, 'TASK', 'prefill', 'a record of before',
               jsonb_build_object('task_id', 'old-' || number)
        FROM generate_series(CAST(:start AS bigint), CAST(:end AS bigint)) AS number, projects
        WHERE projects.name = 'bench'
        RETURNING id
    )
    INSERT INTO record_identities (digest, record_id)
    SELECT digest, id FROM (SELECT gen_random_uuid() AS digest, id FROM filled) AS new ORDER BY digest
""")


def bench_load(arguments: argparse.Namespace) -> dict[str, object]:
    """Planning, and the load against its limit."""
    file = make_file(arguments.rows)
    planning = measure_planning(file, arguments.runs)
    pairs = measure_ratio(file, arguments.rows, workers=2, runs=arguments.runs)
    ratios = [load.rate / limit for limit, load in pairs]
    limit = statistics.median(limit for limit, _ in pairs)
    median: Callable[[Callable[[LoadRun], float]], float] = lambda get: statistics.median(  # noqa: E731 - a shorthand
        get(load) for _, load in pairs
    )
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    size = f"{arguments.rows:,} rows, {file.stat().st_size / MB:,.0f} MB"
    print(f"""
| {size}, 2 workers, {arguments.runs} runs | median |
|---|---|
| planning | {planning:,.0f} MB/s |
| limit: COPY of packed rows, 2 connections | {limit:,.0f} rows/s |
| load | {median(lambda run: run.rate):,.0f} rows/s |
| load / limit of the same run | **{statistics.median(ratios):.2f}** ({each}) |
| time in which a worker had no chunk | {100 * median(lambda run: run.idle_share):.1f} % |
| memory of a worker beyond its idle size | {median(lambda run: run.memory_mb):,.0f} MB |
""")
    plot_load(pairs, arguments.out / "load.png")
    return {
        "planning_mb_per_second": planning,
        "pairs": [{"limit": limit, "load": asdict(load)} for limit, load in pairs],
    }


def bench_scaling(arguments: argparse.Namespace) -> dict[str, object]:
    """Rows a second against workers, file size and table size: one of them at a time."""
    sizes = [10_000, 100_000, 1_000_000] + [5_000_000] * arguments.huge
    tables = [0, 1_000_000] + [10_000_000] * arguments.huge
    series: dict[str, list[LoadRun]] = {"workers": [], "rows": [], "table_rows": []}
    for count in (1, 2, 4):
        stand.empty()
        series["workers"].append(_show(measure_load(make_file(arguments.rows), arguments.rows, count)))
    for rows in sizes:
        stand.empty()
        file = make_file(rows)
        series["rows"].append(_show(measure_load(file, rows, 2)))
        file.unlink()
    stand.empty()
    for table_rows in tables:
        prefill(table_rows)
        run = measure_load(make_file(arguments.rows), arguments.rows, 2, table_rows)
        series["table_rows"].append(_show(run))
        with transaction() as session:
            session.execute(text('DELETE FROM data_records WHERE "ingestJobId" IS NOT NULL'))
    plot_scaling(series, arguments.out / "scaling.png")
    return {name: [asdict(run) for run in runs] for name, runs in series.items()}


def _show(run: LoadRun) -> LoadRun:
    print(
        f"| {run.rows:,} | {run.workers} | {run.table_rows:,} | {run.rate:,.0f} | {run.plan_seconds:.1f} s "
        f"| {run.load_seconds:.1f} s | {100 * run.idle_share:.1f} % | {run.memory_mb:,.0f} MB |",
        flush=True,
    )
    return run


def bench_models(arguments: argparse.Namespace) -> dict[str, object]:
    """Servers of models kept busy, and embeddings written back."""
    saturations = [
        models.measure_embeddings(dimensions, 20_000, arguments.runs) for dimensions in _DIMENSIONS
    ]
    saturations.append(models.measure_completions(2_000, arguments.runs))
    write_backs = [
        (dimensions, *models.measure_write_back(dimensions, 20_000, arguments.runs))
        for dimensions in _DIMENSIONS
    ]
    print(models.report(saturations, write_backs))
    plot_models(saturations, write_backs, arguments.out / "models.png")
    return {"saturation": [asdict(found) for found in saturations], "write_back": write_backs}


def bench_fairness(arguments: argparse.Namespace) -> dict[str, object]:
    """A small job that comes while a large one is being loaded."""
    stand.empty()
    found = fairness.measure_fairness(make_file(1_000_000), make_file(1_000), arguments.runs)
    print(fairness.report(found))
    return asdict(found)


def bench_web(arguments: argparse.Namespace) -> dict[str, object]:
    """The API's answers, with and without jobs running, beside a route that does nothing."""
    stand.empty()
    found = web.measure_web(make_file(1_000_000), arguments.runs)
    print(web.report(found))
    return asdict(found)


BENCHES = {
    "fairness": bench_fairness,
    "load": bench_load,
    "models": bench_models,
    "scaling": bench_scaling,
    "web": bench_web,
}


def main() -> None:
    """Run the benches that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benches", nargs="*", choices=[*BENCHES, []], default=["load", "models"])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--huge", action="store_true", help="5 million rows, a table of 10 million records")
    parser.add_argument("--out", type=Path, default=stand.ROOT / "build" / "bench")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with stand.servers():
        for name in arguments.benches:
            figures = BENCHES[name](arguments)
            (arguments.out / f"{name}.json").write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
