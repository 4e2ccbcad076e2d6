"""What commands print: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import date
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

console = Console()
errors = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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
    """Print rows under column names; numbers stand to the right."""
    rows = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        is_number = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(format_cell(cell) for cell in row))
    console.print(table)


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
