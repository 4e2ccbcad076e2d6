"""`opspipe audit`: who did what."""

from datetime import UTC
from typing import Annotated, Any

import typer

from cli.common import database
from cli.output import CursorOption, JsonOption, print_cursor, print_json, print_table, shorten
from pipeline.audit import list_acts
from pipeline.errors import NotFoundError
from pipeline.projects import find_project


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(audit)


def audit(
    *,
    project: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="Only in this project; by its id if it is gone.")
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Only by this e-mail address, or cli:USER.")] = None,
    thing: Annotated[
        str | None, typer.Option(metavar="ID", help="Only to this job, record, token, user or setting.")
    ] = None,
    action: Annotated[str | None, typer.Option(help="Only this, as job.submit.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what was asked for and by whom, newest first."""
    with database() as session:
        try:
            project_id = find_project(session, project).id if project else None
        except NotFoundError:
            project_id = project  # what was done in a project outlives it
        page = list_acts(
            session,
            actor=actor,
            project_id=project_id,
            thing_id=thing,
            action=action,
            limit=limit,
            cursor=cursor,
        )
    if as_json:
        print_json(page)
        return
    print_table(
        ("when (UTC)", "who", "what", "to", "details"),
        (
            (
                f"{act.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
                act.actor,
                act.action,
                f"{act.kind} {act.thing_id}",
                _describe(act.details),
            )
            for act in page.acts
        ),
    )
    print_cursor(page.next_cursor)


def _describe(details: dict[str, Any]) -> str:
    return shorten(", ".join(f"{key} {value}" for key, value in details.items()), width=120)
