"""`opspipe check`: what a load would make of a file, before anything is submitted."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from cli.ingest import (
    DelimiterOption,
    EncodingOption,
    KeywordsOption,
    MappingOption,
    TypeOption,
    make_options,
)
from cli.output import JsonOption, console, errors, format_usd, print_json, print_table
from pipeline.ingest.check import CheckReport, check_file
from pipeline.settings import get_settings
from schemas.options import IngestOptions

_DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_SHOWN_COLUMNS = 4
# What a record has where the file has no column for it.
_ELSE = {
    "content": "- (the longest value of the row, if it has more than 10 characters)",
    "type": "- (the job's type)",
    "rating": "- (no category)",
    "id": "- (no row is a duplicate of another)",
    "createdAt": "- (the time of loading)",
    "updatedAt": "- (the time of loading)",
}


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(check)


def check(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, metavar="FILE")],
    *,
    record_type: TypeOption,
    keywords: KeywordsOption = "",
    mapping: MappingOption = None,
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a load would make of a CSV file; nothing is stored, no server is needed. Exit 1 if refused."""
    options = make_options(
        record_type=record_type, keywords=keywords, mapping=mapping, encoding=encoding, delimiter=delimiter
    )
    report = _check(file, options)
    if as_json:
        more = {"estimated_tokens": report.estimated_tokens, "estimated_cost_usd": _estimate_cost(report)}
        print_json(asdict(report) | more)
    else:
        _show(file, report)


def _check(file: Path, options: IngestOptions) -> CheckReport:
    with file.open("rb") as source, _progress() as progress:
        task = progress.add_task(f"reading {file.name}", total=1.0)
        return check_file(source, options, on_progress=lambda share: progress.update(task, completed=share))


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    return Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal)


def _show(file: Path, report: CheckReport) -> None:
    delimiter = _DELIMITER_NAMES.get(report.delimiter, repr(report.delimiter))
    console.print(
        f"[bold]{file.name}[/]: {report.total_records:,} rows in {report.encoding}, delimiter {delimiter}, "
        f"{len(report.header)} columns, {file.stat().st_size:,} bytes; "
        f"{report.saved_records:,} would become records",
        highlight=False,
        soft_wrap=True,
    )
    for kind, columns in report.columns.items():
        rows = [(target, _name(names) or _ELSE.get(target, "-")) for target, names in columns.items()]
        print_table((f"{kind} takes", "from the first of these that has a value"), rows)
    print_table(
        ("rows", "", "lines"),
        [
            *(("type", kind, count, "") for kind, count in report.types.items()),
            *(("category", name, count, "") for name, count in report.categories.items()),
            *(
                ("skipped", reason, count, _lines(report.skipped_lines[reason], count))
                for reason, count in report.skipped.items()
            ),
        ],
    )
    console.print(_cost(report), highlight=False, soft_wrap=True)


def _name(columns: list[str]) -> str:
    more = len(columns) - _SHOWN_COLUMNS
    return ", ".join(columns[:_SHOWN_COLUMNS]) + (f" and {more} more" if more > 0 else "")


def _lines(lines: list[int], count: int) -> str:
    return ", ".join(f"{line:,}" for line in lines) + (", ..." if count > len(lines) else "")


def _cost(report: CheckReport) -> str:
    tokens = f"About {report.estimated_tokens:,} tokens to embed"
    cost = _estimate_cost(report)
    if cost is None:
        return f"{tokens}; what they cost is not known: EMBEDDING_PRICE says it (USD a million tokens)."
    return f"{tokens}; {format_usd(cost)}." if cost else f"{tokens}; the provider local costs nothing."


def _estimate_cost(report: CheckReport) -> float | None:
    """Give the price of the embeddings in USD as the environment says it; None where nobody does."""
    settings = get_settings()
    if (settings.ai_provider or "local") == "local":
        return 0.0
    price = settings.embedding_price
    return report.estimated_tokens * float(price) / 1e6 if price else None
