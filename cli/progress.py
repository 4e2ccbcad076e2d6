"""Watching a job: a bar for each stage, until the job has ended."""

import time
from collections.abc import Callable
from contextlib import ExitStack

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from cli.output import console, format_seconds, format_usd
from pipeline.database import transaction
from pipeline.jobs import JobView, StageProgress, view_job
from schemas.enums import JobKind, JobStatus, Stage

_POLL_SECONDS = 0.25
_LABELS = {
    Stage.LOAD: "loaded",
    Stage.VECTORIZE: "embedded",
    Stage.COMPARE: "compared",
    Stage.ANALYZE: "analyzed",
}


class StageBars:
    """The bars of one or more jobs, one for each stage that has begun."""

    def __init__(self) -> None:
        self.progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[counts]}"),
            TextColumn("[dim]{task.fields[speed]}"),
            console=console,
        )
        self._bars: dict[tuple[str, Stage], TaskID] = {}

    def update(self, view: JobView) -> None:
        """Show where the job's stages stand."""
        for stage in view.stages:
            key = (view.id, stage.stage)
            if key not in self._bars:
                self._bars[key] = self.progress.add_task(
                    _LABELS[stage.stage], total=None, counts="", speed=""
                )
            self.progress.update(
                self._bars[key],
                total=stage.total or (1 if stage.is_over else None),
                completed=stage.settled if stage.total else int(stage.is_over),
                counts=_counts(stage),
                speed=_speed(stage),
            )


def _counts(stage: StageProgress) -> str:
    parts = [f"{stage.done:,}/{stage.total:,}"]
    if stage.skipped:
        parts.append(f"[yellow]{stage.skipped:,} skipped[/]")
    if stage.failed:
        parts.append(f"[red]{stage.failed:,} failed[/]")
    return "  ".join(parts)


def _speed(stage: StageProgress) -> str:
    if stage.rate is None:
        return ""
    left = (
        f"in {format_seconds(stage.seconds)}"
        if stage.is_over
        else f"{format_seconds(stage.eta_seconds)} left"
    )
    return f"{stage.rate:,.0f}/s  {left}"


def watch_job(
    job_id: str, *, follow: bool = False, on_poll: Callable[[], None] | None = None
) -> list[JobView]:
    """Show a job's progress until it has ended, and with `follow` that of the analysis that follows it.

    Args:
        job_id: the job.
        follow: wait for the following analysis too.
        on_poll: called at every look, for whoever has to look after something meanwhile.

    Returns:
        The job as it ended, and its follower where there is one.
    """
    bars = StageBars()
    with ExitStack() as stack:
        if console.is_terminal:
            stack.enter_context(bars.progress)
        views = [_watch(job_id, bars, on_poll)]
        if follow and views[0].status is JobStatus.COMPLETED:
            views.append(_watch(_wait_for_follower(job_id, on_poll), bars, on_poll))
    return views


def _watch(job_id: str, bars: StageBars, on_poll: Callable[[], None] | None) -> JobView:
    while True:
        with transaction() as session:
            view = view_job(session, job_id)
        bars.update(view)
        if view.is_ended:
            return view
        if on_poll is not None:
            on_poll()
        time.sleep(_POLL_SECONDS)


def _wait_for_follower(job_id: str, on_poll: Callable[[], None] | None) -> str:
    while True:
        with transaction() as session:
            follower_id = view_job(session, job_id).follower_id
        if follower_id is not None:
            return follower_id
        if on_poll is not None:
            on_poll()
        time.sleep(_POLL_SECONDS)


def describe(view: JobView) -> str:
    """Say in one line how a job stands."""
    reason = f": {view.error}" if view.error else ""
    return f"{view.kind} job {view.id} {view.status}, {describe_counts(view)}{reason}"


def describe_counts(view: JobView) -> str:
    """Say how many records a job has dealt with."""
    if view.kind is JobKind.ANALYTICS:
        return f"{view.processed_count:,} of {view.total_records:,} records analyzed"
    if view.stages and view.stages[0].stage is not Stage.LOAD:
        return f"{view.stages[0].done:,} of {view.stages[0].total:,} records embedded"
    return f"{view.saved_count:,} saved + {view.skipped_count:,} skipped = {view.total_records:,} rows"


def describe_spent(view: JobView) -> str | None:
    """Say what a job's calls of models have used; None where there were none."""
    spent = view.spent
    if spent is None:
        return None
    cost = f", {format_usd(spent.cost_usd)}" if spent.cost_usd else ""
    budget = "" if view.budget_usd is None else f" of {format_usd(view.budget_usd)}"
    return (
        f"used: {spent.calls:,} calls, {spent.input_tokens:,} tokens read, "
        f"{spent.output_tokens:,} written{cost}{budget}"
    )


def describe_skipped(view: JobView) -> str | None:
    """Say why rows were skipped, most frequent reason first; None where none was."""
    if not view.skipped_details:
        return None
    reasons = sorted(view.skipped_details.items(), key=lambda item: (-item[1], item[0]))
    return "skipped: " + ", ".join(f"{count:,} {reason}" for reason, count in reasons)
