"""`opspipe up`: everything on this machine until Ctrl-C."""

import fcntl
import time
from pathlib import Path
from typing import TextIO

import typer

from cli.output import console
from cli.services import (
    check_services,
    flower,
    flower_password,
    logs_folder,
    print_addresses,
    supervised,
    web,
    workers,
)
from cli.signals import stop_on_signals
from pipeline.database import transaction
from pipeline.errors import ConflictError
from pipeline.migrations import prepare_database
from pipeline.servers import endpoints
from pipeline.settings import get_settings
from pipeline.tokens import ensure_first_token

_held: list[TextIO] = []


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(up)


def up() -> None:
    """Run servers (where no URL is set), workers, beat, Flower and the API; Ctrl-C stops all of it."""
    stop_on_signals()
    settings = get_settings()
    _refuse_second(settings.home)
    with console.status("Starting the database and the broker"):
        _ = endpoints().database_url, endpoints().broker_url
        prepare_database()
    with transaction() as session:
        token = ensure_first_token(session)
    logs, password = logs_folder(settings), flower_password(settings)
    services = [*workers(settings, logs), flower(settings, logs, password), web(settings, logs)]
    with supervised(services) as supervisor:
        print_addresses(settings, password)
        console.print(f"Logs     {logs}")
        if token:
            console.print(f"Token    {token}  [dim](admin; shown this once)[/]")
        console.print("[dim]Ctrl-C stops everything.[/]")
        try:
            while True:
                time.sleep(1)
                check_services(supervisor)
        except KeyboardInterrupt:
            console.print("Stopping")


def _refuse_second(home: Path) -> None:
    """Hold the home for this process: a second `up` would fight for the ports.

    Raises:
        ConflictError: another `opspipe up` runs on it.
    """
    home.mkdir(parents=True, exist_ok=True)
    lock = (home / "up.lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConflictError(
            f"`opspipe up` runs on {home} already: use it, or set another OPSPIPE_HOME"
        ) from None
    # Held until the process ends.
    _held.append(lock)
