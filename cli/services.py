"""The processes that one machine runs: workers, beat, Flower, the web server; and their supervisor."""

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.output import console, errors
from pipeline.servers.supervisor import Service, Supervisor
from pipeline.settings import Settings, get_settings
from tasks.workers import count_workers

# The model's own threads would fight with the worker processes for the same cores.
_WORKER_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
# Soft shutdown first: a worker puts its message back and leaves within seconds.
_WORKER_SIGNALS = [("TERM", 8.0), ("QUIT", 4.0)]
_SERVER_SIGNALS = [("TERM", 8.0)]


def _celery(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "tasks", *arguments]


def worker(name: str, queues: str, *, concurrency: int, logs: Path, pool: str = "prefork") -> Service:
    """Describe a Celery worker for the queues, comma-separated."""
    command = _celery(
        "worker", "-n", f"{name}@%h", "-Q", queues, "-c", str(concurrency), "-P", pool, "-l", "INFO"
    )
    environment = _WORKER_ENVIRONMENT | {"REMAP_SIGTERM": "SIGQUIT"}
    return Service(
        name=f"worker-{name}",
        command=command,
        environment=environment,
        stop_signals=_WORKER_SIGNALS,
        log_path=logs / f"worker-{name}.log",
    )


def workers(settings: Settings, logs: Path) -> list[Service]:
    """Describe a worker per kind of work, and beat, which keeps the ledger swept."""
    cores = os.cpu_count() or 1
    return [
        worker("ingest", "ingest", concurrency=cores, logs=logs),
        worker("ai", "vectorize,analyze", concurrency=settings.ai_processes or 2 * cores, logs=logs),
        worker("schedule", "schedule", concurrency=1, logs=logs, pool="solo"),
        Service(
            name="beat",
            command=_celery("beat", "-s", str(logs / "beat-schedule"), "--pidfile=", "-l", "INFO"),
            environment={},
            stop_signals=_SERVER_SIGNALS,
            log_path=logs / "beat.log",
        ),
    ]


def flower(settings: Settings, logs: Path, password: str) -> Service:
    """Describe Flower, read-only and behind a password."""
    return Service(
        name="flower",
        command=_celery(
            "flower",
            f"--address={settings.host}",
            f"--port={settings.flower_port}",
            "--read_only",
            "--max_tasks=10000",
            "--persistent=True",
            f"--db={logs / 'flower'}",
            "--state_save_interval=60000",
        ),
        # Not on the command line, where every user of the machine could read it.
        environment={"FLOWER_BASIC_AUTH": f"admin:{password}"},
        stop_signals=_SERVER_SIGNALS,
        log_path=logs / "flower.log",
    )


def web(settings: Settings, logs: Path) -> Service:
    """Describe the web server with the API."""
    return Service(
        name="web",
        command=[
            sys.executable,
            "-m",
            "gunicorn",
            "--bind",
            f"{settings.host}:{settings.port}",
            "--workers",
            "1",
            "--worker-class",
            "api.worker.Worker",
            # Slow bodies and listeners to events hold one each, and one that waits costs next to nothing.
            "--threads",
            "256",
            "--timeout",
            "120",
            # It would lie in the user's home, the same one for every installation.
            "--no-control-socket",
            "api:create_app()",
        ],
        environment={},
        stop_signals=_SERVER_SIGNALS,
        log_path=logs / "web.log",
    )


def print_addresses(settings: Settings, password: str) -> None:
    """Say where the API and Flower are."""
    console.print(f"API      http://{settings.host}:{settings.port}/api/status", highlight=False)
    console.print(
        f"Flower   http://{settings.host}:{settings.flower_port}  (admin / {password})", highlight=False
    )


def logs_folder(settings: Settings) -> Path:
    """Give the folder of the processes' logs, made where it is missing."""
    folder = settings.home / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def flower_password(settings: Settings) -> str:
    """Give Flower's password, made once for this home."""
    path = settings.home / "flower.password"
    if not path.exists():
        handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as sink:
            sink.write(secrets.token_urlsafe(12))
    return path.read_text()


@contextmanager
def supervised(services: list[Service]) -> Iterator[Supervisor]:
    """Run services as long as the block, and no longer, however this process ends."""
    settings = get_settings()
    supervisor = Supervisor(settings.home / "run" / str(os.getpid()), services)
    supervisor.start()
    try:
        yield supervisor
    finally:
        supervisor.stop()


@contextmanager
def some_workers() -> Iterator[Callable[[], None] | None]:
    """Make sure that somebody works while a command waits: its own workers, where none answers."""
    if count_workers():
        yield None
        return
    settings = get_settings()
    errors.print("[dim]No worker answers, so this command runs its own (`opspipe up` keeps some running).[/]")
    with supervised(workers(settings, logs_folder(settings))) as supervisor:
        yield lambda: check_services(supervisor)


def check_services(supervisor: Supervisor) -> None:
    """Stop waiting when the supervised processes are gone for good.

    Raises:
        FatalError: the guard has ended.
    """
    supervisor.check()
