"""`opspipe vectorize`, `similar` and `search`: embeddings of what is there already, and what they are for."""

from collections.abc import Sequence
from typing import Annotated

import typer

from cli.common import database
from cli.output import JsonOption, console, print_json, print_table, shorten
from cli.wait import StrictOption, WaitOption, follow_job, require_wait
from pipeline.errors import InputError
from pipeline.projects import find_project
from pipeline.similarity import Neighbour, list_flags, nearest_records, search_records
from pipeline.vectorize import start_vectorization
from tasks import publish

LimitOption = Annotated[int, typer.Option(min=1, max=10_000, help="How many, the nearest first.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (vectorize, similar, search):
        app.command()(command)


def vectorize(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id.")],
    *,
    is_all: Annotated[
        bool, typer.Option("--all", help="Every record anew, also those of the present model.")
    ] = False,
    wait: WaitOption = False,
    strict: StrictOption = False,
) -> None:
    """Embed a project's records that have no embedding, one of another model, or of an older text.

    Tasks of one person that are nearly the same are flagged anew. With --wait, exit 0 only if the job
    completed.
    """
    require_wait(wait=wait, strict=strict)
    with database() as session:
        start = start_vectorization(session, find_project(session, project).id, is_all=is_all)
    publish([start.plan])
    console.print(f"vectorization job [bold]{start.job_id}[/]")
    follow_job(start.job_id, wait=wait, strict=strict)


def similar(
    record: Annotated[
        str | None, typer.Argument(metavar="RECORD", help="A record's id, as listings give it.")
    ] = None,
    *,
    flags: Annotated[
        str | None,
        typer.Option(metavar="PROJECT", help="Instead: list tasks nearly the same as an earlier one."),
    ] = None,
    limit: LimitOption = 10,
    as_json: JsonOption = False,
) -> None:
    """Show the records of the same project that are nearest to a record, or a project's near-duplicates."""
    if (record is None) == (flags is None):
        raise InputError("say either a RECORD, or --flags PROJECT")
    if flags is not None:
        _show_flags(flags, limit, as_json=as_json)
        return
    with database() as session:
        found = nearest_records(session, record or "", limit=limit)
    _show_neighbours(found, as_json=as_json)


def search(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the records are to be like.")],
    *,
    limit: LimitOption = 10,
    as_json: JsonOption = False,
) -> None:
    """Show a project's records that are nearest to a text in meaning."""
    with database() as session:
        project_id = find_project(session, project).id
    _show_neighbours(search_records(project_id, text, limit=limit), as_json=as_json)


def _show_neighbours(found: Sequence[Neighbour], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_table(
        ("similarity", "record", "type", "content"),
        ((f"{entry.similarity:.4f}", entry.id, entry.type, shorten(entry.content)) for entry in found),
    )


def _show_flags(project: str, limit: int, *, as_json: bool) -> None:
    with database() as session:
        found = list_flags(session, find_project(session, project).id, limit=limit)
    if as_json:
        print_json(found)
        return
    if not found:
        console.print("no task of this project is nearly the same as an earlier one of the same person")
        return
    print_table(
        ("similarity", "by", "task", "earlier task", "content"),
        (
            (
                f"{flag.similarity:.4f}",
                flag.created_by,
                flag.record_id,
                flag.similar_id,
                shorten(flag.content, width=50),
            )
            for flag in found
        ),
    )
