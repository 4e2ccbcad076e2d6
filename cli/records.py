"""`opspipe records`: what is in a project, newest or by score."""

from typing import Annotated

import typer

from cli.common import database
from cli.output import CursorOption, JsonOption, console, print_cursor, print_json, print_table, shorten
from pipeline.projects import find_project
from pipeline.records import RecordFilter, RecordPage, list_records
from schemas.enums import RecordCategory, RecordOrder, RecordType, SortDirection


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(records)


def records(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id.")],
    *,
    record_type: Annotated[
        RecordType | None, typer.Option("--type", help="Only records of this type.")
    ] = None,
    category: Annotated[RecordCategory | None, typer.Option(help="Only records of this category.")] = None,
    search: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only records with this in them.")
    ] = None,
    sort: Annotated[
        RecordOrder, typer.Option(help="By score, only records that are analyzed are listed.")
    ] = RecordOrder.CREATED_AT,
    order: Annotated[
        SortDirection, typer.Option(help="asc: the oldest, or the lowest score, first.")
    ] = SortDirection.DESC,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 20,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a project's records with the scores of their analyses, newest first or by score."""
    with database() as session:
        page = list_records(
            session,
            RecordFilter(
                project_id=find_project(session, project).id,
                type=record_type,
                category=category,
                search=search,
            ),
            sort_by=sort,
            is_ascending=order is SortDirection.ASC,
            limit=limit,
            cursor=cursor,
        )
    if as_json:
        print_json(page)
    else:
        _show(page, sort)


def _show(page: RecordPage, sort: RecordOrder) -> None:
    if not page.records:
        is_by_score = sort is RecordOrder.ALIGNMENT_SCORE
        hint = (
            ": only those that are analyzed have a score (`opspipe analyze PROJECT`)" if is_by_score else ""
        )
        console.print(f"no such records{hint}", highlight=False, markup=False)
        return
    print_table(
        ("record", "score", "type", "category", "created (UTC)", "content"),
        (
            (
                record.id,
                record.alignment_score,
                record.type,
                record.category,
                f"{record.created_at:%Y-%m-%d %H:%M}",
                shorten(record.content, width=60),
            )
            for record in page.records
        ),
    )
    print_cursor(page.next_cursor)
