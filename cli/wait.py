"""Waiting for a job that a command has started, and saying how it ended by the exit code."""

from typing import Annotated

import typer

from cli.output import console, errors
from cli.progress import describe, describe_failed, describe_skipped, describe_spent, watch_job
from cli.services import some_workers
from pipeline.jobviews import JobView
from schemas.enums import JobStatus

WaitOption = Annotated[bool, typer.Option("--wait", help="Show progress until the job has ended.")]
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Exit 1 also where single records could not be embedded or analyzed in a job that completed.",
    ),
]


def require_wait(*, wait: bool, strict: bool) -> None:
    """See that somebody waits for what is to be strict about.

    Raises:
        typer.BadParameter: nobody does.
    """
    if strict and not wait:
        raise typer.BadParameter("it says how a job has ended: add --wait", param_hint="--strict")


def follow_job(job_id: str, *, wait: bool, strict: bool) -> None:
    """Watch a job if that is asked for; exit 0 then only if it completed."""
    if not wait:
        console.print("Follow with [bold]opspipe watch JOB[/]; jobs run while `opspipe up` does.")
    elif not wait_for(job_id, follow=False, strict=strict):
        raise typer.Exit(1)


def wait_for(job_id: str, *, follow: bool, strict: bool) -> bool:
    """Watch a job until it ends, and say how.

    Args:
        job_id: the job.
        follow: watch the analysis that follows it, too.
        strict: count a job with failed records as one that did not complete.

    Returns:
        Whether all completed.
    """
    with some_workers() as on_poll:
        views = watch_job(job_id, follow=follow, on_poll=on_poll)
    for view in views:
        show_outcome(view)
    return all(view.status is JobStatus.COMPLETED and not (strict and view.failed_count) for view in views)


def show_outcome(view: JobView) -> None:
    """Say how a job ended: on stdout where it completed, on stderr where not."""
    target = console if view.status is JobStatus.COMPLETED else errors
    target.print(describe(view), highlight=False, markup=False, soft_wrap=True)
    for line in (describe_skipped(view), describe_spent(view)):
        if line:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    failed = describe_failed(view)
    if failed:
        errors.print(failed, highlight=False, markup=False, soft_wrap=True)
