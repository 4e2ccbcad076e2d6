"""What commands print: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import date
from typing import Annotated, Any, Literal
from uuid import UUID

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

console = Console()
errors = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CursorOption = Annotated[str | None, typer.Option(help="Where to go on: what the page before ended with.")]


# Narrower columns of text cannot be read.
_LEAST_WIDTH = 12


def print_json(value: object) -> None:
    """Print a value as JSON; dataclasses become objects, times ISO 8601."""
    json.dump(value, sys.stdout, default=_plain, indent=2)
    sys.stdout.write("\n")


def _plain(value: object) -> Any:  # noqa: ANN401 - whatever JSON can hold
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None
) -> None:
    """Print rows under column names; numbers stand to the right, and ids in one piece where there is room."""
    rows = [list(row) for row in rows]
    cells = [[format_cell(cell) for cell in row] for row in rows]
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    words = _find_words(columns, cells)
    for index, column in enumerate(columns):
        is_number = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        justify: Literal["left", "right"] = "right" if is_number else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=index in words)
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _find_words(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> set[int]:
    """Find the columns of single words, as ids are; none where the others would have no room beside them."""
    longest = [
        max(len(cell) for cell in (name, *column)) for name, *column in zip(columns, *cells, strict=True)
    ]
    words = {index for index in range(len(columns)) if all(" " not in row[index] for row in cells)}
    room = console.width - sum(longest[index] for index in words) - 3 * len(columns)
    return words if room >= _LEAST_WIDTH * (len(columns) - len(words)) else set()


def print_cursor(cursor: str | None) -> None:
    """Say how the next page of a listing is asked for, where there is one."""
    if cursor:
        console.print(f"more: --cursor {cursor}", highlight=False, markup=False, soft_wrap=True)


def format_cell(cell: object) -> str:
    """Write a value for people: thousands separated, nothing for None."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.2f}"
    return str(cell)


def shorten(content: str, *, width: int = 90) -> str:
    """Write a text in one line of at most `width` characters."""
    line = " ".join(content.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def format_usd(amount: float) -> str:
    """Write an amount of money with as many digits as small prices need."""
    return f"{amount:,.2f} USD" if amount >= 1 else f"{amount:.4f} USD"


def format_seconds(seconds: float | None) -> str:
    """Write a duration as m:ss or h:mm:ss; a dash where unknown."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
