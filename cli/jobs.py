"""`opspipe jobs` and what is done with one of them: what is running and what became of it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from cli.common import database
from cli.output import (
    CursorOption,
    JsonOption,
    console,
    errors,
    format_usd,
    print_cursor,
    print_json,
    print_table,
    shorten,
)
from cli.progress import describe_counts
from cli.wait import StrictOption, wait_for
from pipeline.failures import count_failures, read_failures, take_up_command
from pipeline.ingest.rejects import write_rejects
from pipeline.jobs import cancel_job, retry_job
from pipeline.jobviews import JobView, resolve_job, view_jobs
from pipeline.projects import find_project
from pipeline.removal import count_records, delete_job, remove_batches
from pipeline.runner import publish_next
from schemas.enums import JobKind
from tasks import publish

JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="A job's id, or an unambiguous beginning of it.")
]

BudgetOption = Annotated[
    float | None,
    typer.Option(metavar="USD", min=0, help="What an analysis may cost in all, what it has cost included."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (jobs, watch, cancel, retry, rejects, failures, delete):
        app.command()(command)


def jobs(
    *,
    project: Annotated[str | None, typer.Option(help="Only this project's jobs.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of each kind.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with database() as session:
        project_id = find_project(session, project).id if project else None
        views = [
            view for kind in JobKind for view in view_jobs(session, kind, project_id=project_id, limit=limit)
        ]
    views.sort(key=lambda view: view.created_at, reverse=True)
    if as_json:
        print_json(views)
        return
    print_table(
        ("job", "project", "status", "counts", "cost", "created (UTC)"), (_row(view) for view in views)
    )
    for view in views:
        said = view.error or (f"waiting: {view.waiting_for}" if view.waiting_for else None)
        if said:
            console.print(f"{view.id}: {said}", highlight=False, markup=False, soft_wrap=True)


def _row(view: JobView) -> tuple[object, ...]:
    cost = format_usd(view.spent.cost_usd) if view.spent and view.spent.cost_usd else ""
    counts = describe_counts(view)
    return (view.id, view.project_name, view.status, counts, cost, f"{view.created_at:%m-%d %H:%M}")


def watch(job: JobArgument, *, strict: StrictOption = False) -> None:
    """Show a job's progress until it has ended; exit 0 only if it completed."""
    with database() as session:
        _, job_id = resolve_job(session, job)
    if not wait_for(job_id, follow=False, strict=strict):
        raise typer.Exit(1)


def cancel(job: JobArgument) -> None:
    """Cancel an unfinished job; what it loaded so far stays."""
    with database() as session:
        job_id = cancel_job(session, job)
    console.print(f"job {job_id} is cancelled")


def retry(job: JobArgument, *, budget: BudgetOption = None) -> None:
    """Take up what is unfinished in a failed or cancelled job."""
    with database() as session:
        job_id = retry_job(session, job, budget_usd=budget)
    publish(publish_next(job_id))
    console.print(f"job {job_id} is taken up again")


def rejects(
    job: JobArgument,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", dir_okay=False, help="A file; stdout if not given.")
    ] = None,
) -> None:
    """Write the rows that a job skipped as CSV: line and reason first; it can be corrected and ingested."""
    with database() as session:
        _, job_id = resolve_job(session, job)
        blocks = write_rejects(session, job_id)
    with output.open("wb") if output else nullcontext(sys.stdout.buffer) as sink:
        for block in blocks:
            sink.write(block)


def failures(
    job: JobArgument,
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 20,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the records that a job could not embed or analyze, with their reasons."""
    with database() as session:
        kind, job_id = resolve_job(session, job)
        page = read_failures(session, job_id, limit=limit, cursor=cursor)
        counts = count_failures(session, job_id)
        command = take_up_command(session, kind, job_id) if counts else ""
    if as_json:
        print_json(page)
        return
    if not counts:
        console.print(f"no record failed in job {job_id}", highlight=False)
        return
    print_table(
        ("record", "stage", "code", "reason", "content"),
        (
            (failed.record_id, failed.stage, failed.code, failed.message, shorten(failed.content, width=40))
            for failed in page.failures
        ),
    )
    print_cursor(page.next_cursor)
    reasons = ", ".join(f"{count:,} {code}" for code, count in counts.items())
    console.print(
        f"{sum(counts.values()):,} failed: {reasons}\n"
        f"`{command}` takes them up again, once the job has ended",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def delete(job: JobArgument) -> None:
    """Delete a job and every record that it loaded, without asking; others may work meanwhile."""
    with database() as session:
        job_id = delete_job(session, job)
        total = count_records(session, job_id)
    with _removal_bar(total) as update:
        deleted = remove_batches(job_id, on_progress=update).deleted
    console.print(f"job {job_id} is deleted with {deleted:,} records", highlight=False)


@contextmanager
def _removal_bar(total: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task(f"removing {total:,} records", total=total)
        yield lambda count: progress.update(task, completed=count)
