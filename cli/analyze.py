"""`opspipe guidelines` and `analyze`: what records are held against, and holding them against it."""

from pathlib import Path
from typing import Annotated

import typer

from cli.common import database
from cli.ingest import show_outcome
from cli.output import JsonOption, console, print_json
from cli.progress import watch_job
from cli.services import some_workers
from pipeline.analyze import start_analysis
from pipeline.projects import ensure_project, find_project, set_guidelines
from schemas.enums import AnalysisScope, JobStatus
from schemas.options import AnalysisOptions
from tasks import publish


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(guidelines)
    app.command()(analyze)


def guidelines(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id; made if missing.")],
    file: Annotated[Path, typer.Argument(metavar="FILE.pdf", exists=True, dir_okay=False, readable=True)],
    *,
    as_json: JsonOption = False,
) -> None:
    """Store a project's guidelines PDF and show the rules found in it."""
    with database() as session:
        found = set_guidelines(
            session, ensure_project(session, project).id, file.read_bytes(), file_name=file.name
        )
    if as_json:
        print_json(found)
        return
    console.print(f"{len(found.rules)} rules found in {file.name}:")
    for number, rule in enumerate(found.rules, start=1):
        console.print(f"{number:>3}. {rule}", highlight=False, markup=False)


def analyze(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id.")],
    *,
    scope: Annotated[AnalysisScope, typer.Option(help="Which records to take up.")] = AnalysisScope.MISSING,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the job has ended.")] = False,
) -> None:
    """Hold a project's records against its guidelines. With --wait, exit 0 only if the job completed."""
    with database() as session:
        start = start_analysis(session, find_project(session, project).id, AnalysisOptions(scope=scope))
    publish([start.plan])
    console.print(f"analysis job [bold]{start.job_id}[/]")
    if not wait:
        return
    with some_workers() as on_poll:
        view = watch_job(start.job_id, on_poll=on_poll)[0]
    show_outcome(view)
    if view.status is not JobStatus.COMPLETED:
        raise typer.Exit(1)
