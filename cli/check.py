"""`opspipe check`: what a load would make of a file, before anything is submitted."""

from dataclasses import asdict, dataclass
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
from pipeline.analyze.estimate import guess_extent
from pipeline.analyze.needs import Extent
from pipeline.errors import InputError
from pipeline.guidelines import Guidelines, read_guidelines
from pipeline.ingest.check import CheckReport, check_file
from pipeline.settings import get_settings
from pipeline.system_settings import KNOWN
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


@dataclass(frozen=True)
class _Analysis:
    """What an analysis of a file's records would take; `cost_usd` is None where no price is known."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    # Whether their text is counted among what is read.
    has_guidelines: bool


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
    guidelines: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pdf",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Count these guidelines' text among what an analysis would read.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a load would make of a CSV file; nothing is stored, no server is needed. Exit 1 if refused."""
    options = make_options(
        record_type=record_type, keywords=keywords, mapping=mapping, encoding=encoding, delimiter=delimiter
    )
    read = read_guidelines(guidelines.read_bytes()) if guidelines else None
    report = _check(file, options)
    analysis = _estimate_analysis(report, read)
    if as_json:
        more = {
            "estimated_tokens": report.estimated_tokens,
            "estimated_cost_usd": _estimate_cost(report),
            "estimated_analysis": asdict(analysis),
        }
        print_json(asdict(report) | more)
    else:
        _show(file, report)
        for line in (_embedding_cost(report), _analysis_cost(analysis)):
            console.print(line, highlight=False, markup=False, soft_wrap=True)


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
        ("rows", "", "count", "lines"),
        [
            *(("type", kind, count, "") for kind, count in report.types.items()),
            *(("category", name, count, "") for name, count in report.categories.items()),
            *(
                ("skipped", reason, count, _lines(report.skipped_lines[reason], count))
                for reason, count in report.skipped.items()
            ),
        ],
    )


def _name(columns: list[str]) -> str:
    more = len(columns) - _SHOWN_COLUMNS
    return ", ".join(columns[:_SHOWN_COLUMNS]) + (f" and {more} more" if more > 0 else "")


def _lines(lines: list[int], count: int) -> str:
    return ", ".join(f"{line:,}" for line in lines) + (", ..." if count > len(lines) else "")


def _embedding_cost(report: CheckReport) -> str:
    tokens = f"About {report.estimated_tokens:,} tokens to embed"
    if _is_local():
        return f"{tokens}; the provider local costs nothing."
    cost = _estimate_cost(report)
    if cost is None:
        return f"{tokens}; what they cost is not known: EMBEDDING_PRICE says it (USD a million tokens)."
    return f"{tokens}; {format_usd(cost)}."


def _estimate_cost(report: CheckReport) -> float | None:
    """Give the price of the embeddings in USD as the environment says it; None where nobody does."""
    if _is_local():
        return 0.0
    price = _price("embedding_price")
    return None if price is None else report.estimated_tokens * price


def _analysis_cost(analysis: _Analysis) -> str:
    if _is_local():
        return "An analysis by the provider local asks no language model and costs nothing."
    without = "" if analysis.has_guidelines else ", without the guidelines' text (see --guidelines),"
    tokens = (
        f"An analysis would make {analysis.calls:,} calls, with about {analysis.input_tokens:,} tokens to "
        f"read{without} and {analysis.output_tokens:,} to write"
    )
    if analysis.cost_usd is None:
        prices = "LLM_INPUT_PRICE and LLM_OUTPUT_PRICE say it (USD a million tokens)"
        return f"{tokens}; what they cost is not known: {prices}."
    return f"{tokens}; {format_usd(analysis.cost_usd)}."


def _estimate_analysis(report: CheckReport, guidelines: Guidelines | None) -> _Analysis:
    """Estimate an analysis of all that would become records; the model's limit and prices are those set."""
    if _is_local():
        return _Analysis(0, 0, 0, 0.0, guidelines is not None)
    settings, count = get_settings(), report.saved_records
    tokens = guess_extent(
        Extent(count, count, 0, report.content_characters, 0),
        guidelines.text if guidelines else "",
        model=settings.llm_model,
        context=int(_number("llm_context") or 0) or None,
    )
    cost = tokens.cost_usd(_price("llm_input_price"), _price("llm_output_price"))
    return _Analysis(count, tokens.read, tokens.written, cost, guidelines is not None)


def _is_local() -> bool:
    return (get_settings().ai_provider or "local") == "local"


def _price(key: str) -> float | None:
    """Give a price in USD a token as the environment says it; None where it does not."""
    price = _number(key)
    return None if price is None else price / 1e6


def _number(key: str) -> float | None:
    value = getattr(get_settings(), key)
    try:
        KNOWN[key].check(value)
    except ValueError as error:
        raise InputError(f"{key.upper()} is {value!r}: {error}") from None
    return float(value) if value else None
