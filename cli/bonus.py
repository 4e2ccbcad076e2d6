"""`opspipe bonus`: windows and standings."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from cli.common import database
from cli.output import JsonOption, console, print_json, print_table
from pipeline.bonus import create_window, get_window, list_windows, refresh_open_windows, show_standings
from pipeline.bonus.standings import WindowStandings

app = typer.Typer(no_args_is_help=True, help="Bonus windows: who met which target.")

# Windows made at the command line belong to nobody in particular.
_NOBODY = UUID(int=0)
WindowArgument = Annotated[str, typer.Argument(metavar="WINDOW", help="Id, beginning of an id, or name.")]


@app.command("list")
def list_(*, as_json: JsonOption = False) -> None:
    """List the windows, latest first."""
    with database() as session:
        windows = [
            {
                "id": window.id,
                "name": window.name,
                "startTime": window.start_time,
                "endTime": window.end_time,
                "targetTaskCount": window.target_task_count,
                "targetFeedbackCount": window.target_feedback_count,
                "targetTaskCountTier2": window.target_task_count_tier2,
                "targetFeedbackCountTier2": window.target_feedback_count_tier2,
            }
            for window in list_windows(session)
        ]
    if as_json:
        print_json(windows)
        return
    print_table(
        ("window", "name", "from", "to", "tier 1 tasks/feedback", "tier 2 tasks/feedback"),
        (
            (
                window["id"],
                window["name"],
                window["startTime"],
                window["endTime"],
                f"{window['targetTaskCount']}/{window['targetFeedbackCount']}",
                f"{window['targetTaskCountTier2']}/{window['targetFeedbackCountTier2']}",
            )
            for window in windows
        ),
    )


@app.command()
def create(
    *,
    name: Annotated[str, typer.Option(help="Display name.")] = "Bonus Window",
    start: Annotated[datetime, typer.Option(help="First moment (UTC).")],
    end: Annotated[datetime, typer.Option(help="Last moment (UTC), inclusive.")],
    tasks: Annotated[int, typer.Option(help="Tier 1: tasks; 0 asks for none.")] = 0,
    feedback: Annotated[int, typer.Option(help="Tier 1: feedback; 0 asks for none.")] = 0,
    tasks_tier2: Annotated[int, typer.Option(help="Tier 2: tasks.")] = 0,
    feedback_tier2: Annotated[int, typer.Option(help="Tier 2: feedback.")] = 0,
) -> None:
    """Make a window."""
    with database() as session:
        window = create_window(
            session,
            name=name,
            start_time=start.replace(tzinfo=start.tzinfo or UTC),
            end_time=end.replace(tzinfo=end.tzinfo or UTC),
            target_task_count=tasks,
            target_feedback_count=feedback,
            target_task_count_tier2=tasks_tier2,
            target_feedback_count_tier2=feedback_tier2,
            created_by=_NOBODY,
        )
        window_id = window.id
    console.print(f"window [bold]{window_id}[/]")


@app.command()
def run() -> None:
    """Recount the open windows now, as beat does every minute."""
    with database() as session:
        count = refresh_open_windows(session, now=datetime.now(UTC))
    console.print(f"{count} windows recounted")


@app.command()
def show(window: WindowArgument, *, as_json: JsonOption = False) -> None:
    """Show a window's standings as they were last counted."""
    with database() as session:
        standings = show_standings(session, get_window(session, window).id)
    if as_json:
        print_json(standings)
        return
    print_standings(standings)


def print_standings(standings: WindowStandings) -> None:
    """Print the people of a window with their counts, progress and tier."""
    print_table(
        ("person", "tasks", "feedback", "tier 1", "tier 2", "tier"),
        (
            (
                row.person,
                row.task_count,
                row.feedback_count,
                _progress(row.task_progress, row.feedback_progress),
                _progress(row.task_progress_tier2, row.feedback_progress_tier2),
                f"tier {row.tier}" if row.tier else "-",
            )
            for row in standings.rows
        ),
        title=standings.name,
    )


def _progress(*percentages: int | None) -> str:
    return " / ".join("-" if percentage is None else f"{percentage}%" for percentage in percentages)
