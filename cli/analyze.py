"""`opspipe guidelines`, `analyze` and `trends`: what records are held against, and what comes of it."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.markdown import Markdown

from cli.common import database
from cli.ingest import TypeOption
from cli.jobs import BudgetOption
from cli.output import JsonOption, console, format_usd, print_json
from cli.wait import StrictOption, WaitOption, follow_job, require_wait
from pipeline.analyze import analyze_trends, measure_analysis, price_analysis, start_analysis
from pipeline.errors import InputError
from pipeline.projects import ensure_project, find_project, set_guidelines
from schemas.enums import AnalysisScope
from schemas.options import AnalysisOptions
from tasks import publish


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (guidelines, analyze, trends):
        app.command()(command)


def guidelines(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id; made if missing.")],
    file: Annotated[Path, typer.Argument(metavar="FILE.pdf", exists=True, dir_okay=False, readable=True)],
    *,
    as_json: JsonOption = False,
) -> None:
    """Store a project's guidelines PDF and show the rules found in it."""
    with database() as session:
        found = set_guidelines(
            session, ensure_project(session, project).id, file.read_bytes(), file_name=file.name
        )
    if as_json:
        print_json(found)
        return
    console.print(f"{len(found.rules)} rules found in {file.name}:")
    for number, rule in enumerate(found.rules, start=1):
        console.print(f"{number:>3}. {rule}", highlight=False, markup=False)


def analyze(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id.")],
    *,
    scope: Annotated[AnalysisScope, typer.Option(help="Which records to take up.")] = AnalysisScope.MISSING,
    likert: Annotated[
        bool, typer.Option("--likert", help="Rate realism and quality from 1 to 7 as well.")
    ] = False,
    budget: BudgetOption = None,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many records, tokens and USD it would be.")
    ] = False,
    wait: WaitOption = False,
    strict: StrictOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON.")] = False,
) -> None:
    """Hold a project's records against its guidelines. With --wait, exit 0 only if the job completed."""
    require_wait(wait=wait, strict=strict)
    options = make_analysis_options(scope=scope, likert=likert, budget_usd=budget)
    if is_dry_run:
        _show_estimate(project, options, as_json=as_json)
        return
    with database() as session:
        start = start_analysis(session, find_project(session, project).id, options)
    publish([start.plan])
    console.print(f"analysis job [bold]{start.job_id}[/]")
    follow_job(start.job_id, wait=wait, strict=strict)


def trends(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id.")],
    *,
    record_type: TypeOption,
    as_json: JsonOption = False,
) -> None:
    """Say what distinguishes the records of TOP_10 from those of BOTTOM_10; kept with the project."""
    with database() as session:
        project_id = find_project(session, project).id
    report = analyze_trends(project_id, record_type)
    if as_json:
        print_json(report.model_dump())
    else:
        console.print(Markdown(report.to_markdown()))


def make_analysis_options(*, budget_usd: float | None, **others: object) -> AnalysisOptions:
    """Make an analysis's options of what the command line says.

    Raises:
        InputError: the budget is no amount that can be spent.
    """
    try:
        return AnalysisOptions.model_validate({"budget_usd": budget_usd, **others})
    except ValidationError:
        raise InputError(f"a budget of {budget_usd} USD allows no call: give more, or no --budget") from None


def _show_estimate(project: str, options: AnalysisOptions, *, as_json: bool) -> None:
    with database() as session:
        measured = measure_analysis(session, find_project(session, project).id, options)
    estimate = price_analysis(measured)
    if as_json:
        print_json(estimate)
        return
    cost = "at a price that nobody knows: set llm_input_price and llm_output_price"
    if estimate.cost_usd is not None:
        cost = f"about {format_usd(estimate.cost_usd)}"
    console.print(
        f"{estimate.record_count:,} records, {estimate.call_count:,} calls of {estimate.model}, about "
        f"{estimate.input_tokens:,} tokens to read and {estimate.output_tokens:,} to write, {cost}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
