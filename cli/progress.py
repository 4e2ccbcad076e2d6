"""Watching a job: a bar for each stage, until the job has ended."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime

from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from cli.output import console, errors, format_seconds, format_usd
from pipeline.database import transaction
from pipeline.jobviews import JobView, StageProgress, view_job
from schemas.enums import JobKind, JobStatus, Stage

_POLL_SECONDS = 0.25
# Without a terminal, as in a scheduler's log, a line is told so often.
_LINE_SECONDS = 30.0
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
        self._waits: dict[str, TaskID] = {}

    def update(self, view: JobView) -> None:
        """Show where the job's stages stand, and what it waits for."""
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
        self._show_wait(view)

    def _show_wait(self, view: JobView) -> None:
        if view.waiting_for is not None and view.id not in self._waits:
            self._waits[view.id] = self.progress.add_task("waiting", total=None, counts="", speed="")
        if view.id in self._waits:
            reason = escape(view.waiting_for or "")
            self.progress.update(
                self._waits[view.id], counts=f"[yellow]{reason}[/]", visible=view.waiting_for is not None
            )


class ProgressLines:
    """The same as lines, where there is no terminal: at every change of the status, and now and then."""

    def __init__(self) -> None:
        self._told: tuple[str, str] | None = None
        self._told_at = 0.0

    def update(self, view: JobView) -> None:
        """Say where a job stands, if there is something to say; its end is told by whoever waits for it."""
        told = (view.id, view.status)
        is_due = time.monotonic() - self._told_at > _LINE_SECONDS
        if view.is_ended or (told == self._told and not is_due):
            return
        self._told, self._told_at = told, time.monotonic()
        stage = view.stages[-1] if view.stages else None
        counts = f", {stage.done:,} of {stage.total:,} {_LABELS[stage.stage]}" if stage else ""
        counts += f", {stage.failed:,} failed" if stage and stage.failed else ""
        waits = f", waiting: {view.waiting_for}" if view.waiting_for else ""
        line = f"{datetime.now(UTC):%H:%M:%S} job {view.id} {view.status}{counts}{waits}"
        errors.print(line, highlight=False, markup=False, soft_wrap=True)


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
    with ExitStack() as stack:
        show = _open_display(stack)
        views = [_watch(job_id, show, on_poll)]
        if follow and views[0].status is JobStatus.COMPLETED:
            views.append(_watch(_wait_for_follower(job_id, on_poll), show, on_poll))
    return views


def _open_display(stack: ExitStack) -> Callable[[JobView], None]:
    if not console.is_terminal:
        return ProgressLines().update
    bars = StageBars()
    stack.enter_context(bars.progress)
    return bars.update


def _watch(job_id: str, show: Callable[[JobView], None], on_poll: Callable[[], None] | None) -> JobView:
    while True:
        with transaction() as session:
            view = view_job(session, job_id)
        show(view)
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
    return f"{_kind(view)} job {view.id} {view.status}, {describe_counts(view)}{reason}"


def _kind(view: JobView) -> str:
    """Name a job's kind as the command that starts one does."""
    if view.kind is JobKind.ANALYTICS:
        return "analysis"
    return "vectorization" if _starts_with_records(view) else "ingest"


def _starts_with_records(view: JobView) -> bool:
    return bool(view.stages) and view.stages[0].stage is not Stage.LOAD


def describe_counts(view: JobView) -> str:
    """Say how many records a job has dealt with, and with how many in vain."""
    if view.kind is JobKind.ANALYTICS:
        done = view.stages[0].done if view.stages else view.processed_count
        counts = f"{done:,} of {view.total_records:,} records analyzed"
    elif _starts_with_records(view):
        counts = f"{view.stages[0].done:,} of {view.stages[0].total:,} records embedded"
    else:
        counts = f"{view.saved_count:,} saved + {view.skipped_count:,} skipped = {view.total_records:,} rows"
    failed = [f"{stage.failed:,} not {_LABELS[stage.stage]}" for stage in view.stages if stage.failed]
    return ", ".join([counts, *failed])


def describe_failed(view: JobView) -> str | None:
    """Say where the records are listed that failed; None where none did."""
    if not view.failed_count:
        return None
    records = "1 record" if view.failed_count == 1 else f"{view.failed_count:,} records"
    return f"{records} failed: `opspipe failures {view.id}` says which, why, and what takes them up again"


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
