"""`opspipe db`, `settings`, `doctor`: looking after the installation."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.common import database
from cli.output import JsonOption, console, print_json, print_table
from pipeline.database import get_engine
from pipeline.doctor import diagnose
from pipeline.migrations import check as check_drift
from pipeline.migrations import prepare_database
from pipeline.migrations import upgrade as upgrade_schema
from pipeline.probe import ModelAnswer, probe_models
from pipeline.similarity import build_indexes, drop_indexes
from pipeline.system_settings import KNOWN, list_settings, read_ai_config, rotate_secrets, write_setting
from tasks.workers import count_workers

database_app = typer.Typer(no_args_is_help=True, help="The database's schema.")
settings_app = typer.Typer(no_args_is_help=True, help="What can be changed while the system runs.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module that stand by themselves."""
    app.command()(doctor)


@database_app.command("upgrade")
def db_upgrade() -> None:
    """Bring the database to the newest revision."""
    console.print(f"the database is at revision {upgrade_schema(get_engine())}")


@database_app.command("check")
def db_check() -> None:
    """Compare the database with the models; any difference is an error."""
    drift = check_drift(get_engine())
    for line in drift:
        console.print(line, markup=False, highlight=False)
    if drift:
        raise typer.Exit(1)
    console.print("the database is as the models say")


@database_app.command("index")
def db_index(
    *, drop: Annotated[bool, typer.Option("--drop", help="Take the indexes away instead.")] = False
) -> None:
    """Index the embeddings by pgvector: `similar` and `search` take less time, and embedding takes more."""
    prepare_database()
    if drop:
        names = drop_indexes(get_engine())
        console.print(f"taken away: {', '.join(names) or 'there was none'}", highlight=False)
        return
    indexes = build_indexes(get_engine())
    for name in indexes.made:
        console.print(f"made: {name}", highlight=False)
    for reason in indexes.not_made:
        console.print(f"not made: {reason}", highlight=False)


@settings_app.command("list")
def settings_list(*, as_json: JsonOption = False) -> None:
    """Show every setting; of a secret only whether it is set."""
    with database() as session:
        values = list_settings(session)
    if as_json:
        print_json(values)
        return
    print_table(
        ("setting", "value", "what it is"), ((key, values[key], KNOWN[key].description) for key in KNOWN)
    )


@settings_app.command("set")
def settings_set(
    key: str,
    value: Annotated[
        str,
        typer.Argument(
            metavar="VALUE|-",
            help="- reads it from the input, or asks for it: on the command line other users of the machine "
            "see a secret.",
        ),
    ],
) -> None:
    """Change a setting for all processes; it takes effect at the next chunk."""
    given = _read_unseen(key).strip() if value == "-" else value
    with database() as session:
        write_setting(session, key, given)
    console.print(f"{key} is set")


@settings_app.command("rotate-key")
def settings_rotate_key(
    old: Annotated[
        str | None,
        typer.Argument(
            metavar="[OLD|-]",
            help="The secret key that was set before; - reads it from the input, or asks for it. On the "
            "command line other users of the machine see it.",
        ),
    ] = None,
    *,
    old_file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Read it from a file, such as the home's secret.key.",
        ),
    ] = None,
) -> None:
    """Encrypt stored secrets under the present OPSPIPE_SECRET_KEY, where they are under an old one."""
    if (old is None) is (old_file is None):
        raise typer.BadParameter("give either OLD (- for the input) or --old-file")
    before = old_file.read_text() if old_file else old or ""
    if before == "-":
        before = _read_unseen("the old secret key")
    with database() as session:
        done = rotate_secrets(session, before)
    for key in done.rotated:
        console.print(f"{key} is under the present secret key now")
    for key in done.kept:
        console.print(f"{key} was under the present secret key already")
    if not done.rotated and not done.kept:
        console.print("no secret is stored: there is nothing to do")


def _read_unseen(what: str) -> str:
    """Read what nobody else is to see, from the input, or typed by who is asked for it."""
    if sys.stdin.isatty():
        return str(typer.prompt(what, hide_input=True, err=True))
    return sys.stdin.read()


@settings_app.command("test")
def settings_test(*, as_json: JsonOption = False) -> None:
    """Call the configured models once each; exit 0 only if both answer."""
    with database() as session:
        config = read_ai_config(session)
    answers = probe_models(config)
    if as_json:
        print_json(answers)
    else:
        for answer in answers:
            console.print(_answer_line(answer), highlight=False, soft_wrap=True)
    if any(answer.error for answer in answers):
        raise typer.Exit(1)


def _answer_line(answer: ModelAnswer) -> str:
    name = escape(answer.model or "(not set)")
    if answer.error:
        return f"[red]BAD [/] {answer.purpose:<10} {name}: {escape(answer.error)}"
    detail = f"{escape(answer.detail or '')}, {answer.milliseconds:,.0f} ms"
    return f"[green]ok  [/] {answer.purpose:<10} {name}: {detail}"


def doctor(*, as_json: JsonOption = False) -> None:
    """Look at every part and say what to do; exit 0 only if all is well."""
    findings = diagnose(count_workers)
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            mark = "[green]ok  [/]" if finding.is_well else "[red]BAD [/]"
            console.print(f"{mark} {finding.part:<10} {finding.message}", highlight=False, soft_wrap=True)
    if not all(finding.is_well for finding in findings):
        raise typer.Exit(1)
