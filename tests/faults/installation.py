"""An installation and what can be done to it: its processes, its servers, its messages."""

import os
from collections.abc import Callable

import psutil
import psycopg

from cli.services import web, workers
from pipeline.servers import endpoints
from pipeline.servers.supervisor import Supervisor
from pipeline.settings import get_settings
from tests.ai_server import AiServer
from tests.faults.brokers import Broker
from tests.faults.guarded import GuardedServer, find_process, runs, wait_for


class Installation:
    """Everything that `opspipe up` runs on one machine but Flower.

    Args:
        broker: what carries its messages.
        outage_seconds: how long a server stays away in an outage.
    """

    def __init__(self, broker: Broker, outage_seconds: float) -> None:
        self.broker = broker
        self.outage_seconds = outage_seconds
        self.database = GuardedServer(get_settings().home / "postgres")
        self.home = get_settings().home
        self.logs = self.home / "fault-logs"
        self._folder = self.home / "run" / f"faults-{os.getpid()}"
        self._supervisor: Supervisor | None = None
        self._ai_server: AiServer | None = None
        self._at_end: list[Callable[[], None]] = []

    def start(self) -> None:
        """Start the processes."""
        self.logs.mkdir(parents=True, exist_ok=True)
        settings = get_settings()
        services = [*workers(settings, self.logs), web(settings, self.logs)]
        self._supervisor = Supervisor(self._folder, services)
        self._supervisor.start()

    def stop(self) -> None:
        """Stop them, and see that none is left."""
        family = [process for name in self.names() for process in self.family(name)]
        assert self._supervisor is not None
        self._supervisor.stop()
        left = [process for process in family if runs(process)]
        assert not left, f"processes are left behind: {left}"

    def begin(self, ai_server: AiServer) -> None:
        """Begin a test: nothing on the queues, everybody at work."""
        self._ai_server = ai_server
        self.broker.empty()
        for name in self.names():
            self.wait_until_runs(name)

    def end(self) -> None:
        """End what a fault has begun."""
        while self._at_end:
            self._at_end.pop()()

    def at_end(self, action: Callable[[], None]) -> None:
        """Have something done at the end of the test."""
        self._at_end.append(action)

    @property
    def ai_server(self) -> AiServer:
        """The server of models."""
        assert self._ai_server is not None
        return self._ai_server

    # Processes

    def names(self) -> list[str]:
        """List the processes that are supervised."""
        assert self._supervisor is not None
        return list(self._supervisor.status())

    def process(self, name: str) -> psutil.Process | None:
        """Give a supervised process; None while it waits to be started again."""
        assert self._supervisor is not None
        return find_process(self._supervisor.status()[name]["pid"])

    def wait_until_runs(self, name: str) -> psutil.Process:
        """Wait until a supervised process is there."""
        wait_for(lambda: self.process(name) is not None, f"{name} runs again")
        process = self.process(name)
        assert process is not None
        return process

    def family(self, name: str) -> list[psutil.Process]:
        """List a supervised process and its children."""
        process = self.process(name)
        return [] if process is None else [process, *process.children(recursive=True)]

    def children(self, name: str) -> list[psutil.Process]:
        """List the pool processes of a worker."""
        wait_for(lambda: bool(self.family(name)[1:]), f"{name} has a pool")
        return self.family(name)[1:]

    def guards(self) -> list[psutil.Process]:
        """List the guards: every process of the installation is under one of them."""
        folders = [self._folder, self.database.folder, self.broker.server.folder]
        return [GuardedServer(folder).guard() for folder in folders]

    # Servers

    def wait_for_servers(self) -> None:
        """Wait until both servers answer."""
        wait_for(self._answer, "both servers answer")

    def _answer(self) -> bool:
        try:
            with self.connect():
                return self.broker.answers()
        except psycopg.OperationalError:
            return False

    def connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        """Open a connection of one's own to the database."""
        return psycopg.connect(
            endpoints().database_url, autocommit=True, connect_timeout=2, application_name="faults"
        )
