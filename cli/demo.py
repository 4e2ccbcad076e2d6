"""`opspipe demo`: the whole pipeline on a sample, on servers and workers of its own, with a report."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from cli.demo_report import check_invariants, print_report
from cli.output import console, errors
from cli.progress import watch_job
from cli.services import (
    check_services,
    flower,
    flower_password,
    logs_folder,
    supervised,
    web,
    workers,
)
from cli.signals import stop_on_signals, stop_with_parent
from pipeline.bonus import create_window, refresh_window, show_standings
from pipeline.database import transaction
from pipeline.errors import PipelineError
from pipeline.ingest.submit import submit_csv
from pipeline.jobviews import JobView
from pipeline.migrations import prepare_database
from pipeline.projects import ensure_project, set_guidelines
from pipeline.sample import SampleFacts, write_guidelines_pdf, write_sample_csv
from pipeline.servers import endpoints, release
from pipeline.servers.embedded import free_port
from pipeline.settings import get_settings
from schemas.enums import JobStatus, RecordType
from schemas.options import IngestOptions
from tasks import publish

_PROJECT = "demo"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(demo)


def demo(
    *,
    rows: Annotated[int, typer.Option(min=100, help="Rows of the sample batch.")] = 3000,
    seed: Annotated[int, typer.Option(help="The sample's seed.")] = 20260323,
) -> None:
    """Load, vectorize and analyze a sample, aggregate a bonus window, report, and stop all of it."""
    stop_on_signals()
    stop_with_parent()
    with _own_home() as home:
        facts, views, window_id = _run(home, rows=rows, seed=seed)
        with transaction() as session:
            standings = show_standings(session, window_id)
            faults = check_invariants(session, facts, views, standings)
            print_report(session, views, standings)
        settings = get_settings()
        console.print(
            f"\nWhile it ran, the API was at http://{settings.host}:{settings.port} "
            f"and Flower at http://{settings.host}:{settings.flower_port}; "
            "`.venv/bin/opspipe up` keeps them."
        )
        release()
    for fault in faults:
        errors.print(f"[red]invariant broken:[/] {fault}", highlight=False)
    if faults:
        raise typer.Exit(1)
    console.print("[green]Every invariant holds.[/]")


@contextmanager
def _own_home() -> Iterator[Path]:
    """Run on a folder of its own, so that every demo starts from nothing and leaves nothing."""
    home = Path(tempfile.mkdtemp(prefix="opspipe-demo-"))
    home.chmod(0o755)  # nothing secret lies in the open, and PostgreSQL may run as somebody else
    os.environ |= {
        "OPSPIPE_HOME": str(home),
        "OPSPIPE_TEMPORARY": "true",
        "OPSPIPE_PORT": str(free_port()),
        "OPSPIPE_FLOWER_PORT": str(free_port()),
    }
    for name in ("OPSPIPE_DATABASE_URL", "OPSPIPE_BROKER_URL", "OPSPIPE_STORAGE_URL", "AI_PROVIDER"):
        os.environ[name] = ""
    get_settings.cache_clear()
    try:
        yield home
    finally:
        release()
        shutil.rmtree(home, ignore_errors=True)


def _run(home: Path, *, rows: int, seed: int) -> tuple[SampleFacts, list[JobView], UUID]:
    settings = get_settings()
    with console.status("Starting PostgreSQL and Valkey"):
        _ = endpoints().database_url, endpoints().broker_url
        prepare_database()
    facts = write_sample_csv(home / "sample.csv", rows=rows, seed=seed)
    write_guidelines_pdf(home / "guidelines.pdf")
    with transaction() as session:
        project_id = ensure_project(session, _PROJECT).id
        rules = set_guidelines(
            session, project_id, (home / "guidelines.pdf").read_bytes(), file_name="guidelines.pdf"
        ).rules
    console.print(f"Sample: {rows:,} rows; guidelines: {len(rules)} rules read from a PDF")
    logs = logs_folder(settings)
    services = [
        *workers(settings, logs),
        flower(settings, logs, flower_password(settings)),
        web(settings, logs),
    ]
    with supervised(services) as supervisor:
        console.print(
            f"API http://{settings.host}:{settings.port}/api/status  "
            f"Flower http://{settings.host}:{settings.flower_port} (admin / {flower_password(settings)})"
        )
        views = _work(home, project_id, facts, lambda: check_services(supervisor))
        window_id = _aggregate(facts)
    return facts, views, window_id


def _work(home: Path, project_id: str, facts: SampleFacts, on_poll: Callable[[], None]) -> list[JobView]:
    options = IngestOptions(record_type=RecordType.TASK, keywords=facts.keywords, analyze=True)
    with (home / "sample.csv").open("rb") as source:
        submission = submit_csv(project_id, source, file_name="sample.csv", options=options)
    publish([submission.plan])
    views = watch_job(submission.job_id, follow=True, on_poll=on_poll)
    for view in views:
        if view.status is not JobStatus.COMPLETED:
            raise PipelineError(f"the {view.kind} job ended as {view.status}: {view.error}")
    return views


def _aggregate(facts: SampleFacts) -> UUID:
    with transaction() as session:
        window = create_window(
            session,
            name="Demo week",
            start_time=facts.window_start,
            end_time=facts.window_end,
            target_task_count=facts.record_count // 12,
            target_feedback_count=facts.record_count // 24,
            target_task_count_tier2=facts.record_count // 6,
            created_by=UUID(int=0),
        )
        refresh_window(session, window.id, now=datetime.now(UTC))
        return window.id
