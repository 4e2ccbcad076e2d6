"""The `opspipe` command: its subcommands and what becomes of an error."""

import logging
import os
import pwd
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from cli import admin, analyze, audit, bonus, check, demo, ingest, jobs, records, up, users, vectorize
from pipeline.audit import acting
from pipeline.database import one_line
from pipeline.errors import PipelineError
from pipeline.servers import release

app = typer.Typer(
    help="Ingests, vectorizes and analyzes large CSV batches of tasks and feedback.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for module in (up, check, ingest, jobs, records, vectorize, analyze, demo, audit):
    module.register(app)
app.add_typer(bonus.app, name="bonus")
app.add_typer(admin.database_app, name="db")
app.add_typer(admin.settings_app, name="settings")
app.add_typer(users.user_app, name="user")
app.add_typer(users.token_app, name="token")
admin.register(app)

_options = {"debug": False}


def _show_version(asked: bool) -> None:  # noqa: FBT001 - Typer calls it with the flag's value
    if asked:
        typer.echo(f"opspipe {version('opspipe')}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logs.")] = False,
    version: Annotated[  # noqa: ARG001 - handled by its callback
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    _options["debug"] = debug
    context.with_resource(acting(f"cli:{_os_user()}"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.ERROR, format="%(levelname)s %(message)s")


def _os_user() -> str:
    """Name who runs the command by the system's word; the environment's could be anybody."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user needs no name
        return str(os.getuid())


def main() -> None:
    """Run the command; an error is one clear line on stderr and exit code 1 (usage: 2)."""
    try:
        app()
    except PipelineError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if _options["debug"]:
            raise
        _fail(f"unexpected {type(error).__name__}: {one_line(error)} (--debug shows more)")
    finally:
        release()


def _fail(message: str) -> None:
    if _options["debug"]:
        raise  # noqa: PLE0704 - called while the error is being handled
    sys.stderr.write(f"opspipe: {message}\n")
    sys.exit(1)
