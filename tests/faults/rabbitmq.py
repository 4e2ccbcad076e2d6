"""A RabbitMQ of the suite's own: Debian's package, run as a plain process on free ports of loopback."""

import os
import secrets
import subprocess
from pathlib import Path

import psutil

from pipeline.servers.supervisor import Service, Supervisor
from tests.faults.guarded import GuardedServer, free_port, runs, wait_for

# Debian's /usr/sbin/rabbitmq-server is a wrapper that insists on the package's own user and folders.
_PROGRAMS = Path("/usr/lib/rabbitmq/bin")
_START_SECONDS = 90.0
_STOP_SIGNALS = [("TERM", 20.0)]


def why_not() -> str | None:
    """Say why RabbitMQ cannot be run here; None where it can."""
    if not (_PROGRAMS / "rabbitmq-server").exists():
        return "RabbitMQ is not installed here: apt-get install rabbitmq-server"
    return None


class RabbitServer(GuardedServer):
    """RabbitMQ and epmd, which names its node, each under a guard; all files are under one folder.

    Args:
        home: the folder; it is made.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(home / "rabbitmq")
        self._home = home
        self._port, self._password = free_port(), secrets.token_hex(16)
        self._environment = self._make_environment(epmd_port=free_port(), dist_port=free_port())
        # A guard of its own, so that epmd is there before RabbitMQ looks for it: else that would start one
        # which nobody stops.
        self._epmd = Supervisor(home / "epmd", [self._describe_epmd()])
        self._rabbit = Supervisor(self.folder, [self._describe_rabbit()])

    @property
    def url(self) -> str:
        """The broker's URL, of the virtual host `/`."""
        return f"amqp://opspipe:{self._password}@127.0.0.1:{self._port}//"

    def start(self) -> None:
        """Start both; returns when RabbitMQ listens."""
        (self._home / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self._port}\n"
            f"default_user = opspipe\ndefault_pass = {self._password}\nlog.console = true\nlog.file = false\n"
        )
        (self._home / "plugins").write_text("[].\n")
        self._epmd.start()
        wait_for(lambda: _listens(int(self._environment["ERL_EPMD_PORT"])), "epmd listens")
        self._rabbit.start()
        wait_for(lambda: _listens(self._port), "RabbitMQ listens", seconds=_START_SECONDS)

    def stop(self) -> None:
        """Stop both, and see that none is left."""
        family = [self.process(), *self.process().children(recursive=True)]
        family.append(GuardedServer(self._home / "epmd").process())
        self._rabbit.stop()
        self._epmd.stop()
        wait_for(lambda: not any(runs(process) for process in family), "RabbitMQ is gone", seconds=10)

    def control(self, *command: str) -> str:
        """Run a command of rabbitmqctl's; gives what it says."""
        done = subprocess.run(
            [str(_PROGRAMS / "rabbitmqctl"), "--quiet", *command],
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout

    def _make_environment(self, *, epmd_port: int, dist_port: int) -> dict[str, str]:
        return {
            "PATH": f"{_PROGRAMS}:{os.defpath}",
            "LC_ALL": "C.UTF-8",
            # Erlang's cookie lies there.
            "HOME": str(self._home),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd_port),
            "RABBITMQ_NODENAME": f"opspipe-{os.getpid()}@localhost",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(self._home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._home / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self._home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._home / "log"),
            "RABBITMQ_PID_FILE": str(self._home / "rabbitmq.pid"),
            "RABBITMQ_DIST_PORT": str(dist_port),
            # The script becomes the server instead of waiting for it, so that signals reach the server.
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1} "
            f"inet_dist_listen_min {dist_port} inet_dist_listen_max {dist_port}",
        }

    def _describe_epmd(self) -> Service:
        return self._describe("epmd", ["epmd"])

    def _describe_rabbit(self) -> Service:
        return self._describe("rabbitmq", [str(_PROGRAMS / "rabbitmq-server")])

    def _describe(self, name: str, command: list[str]) -> Service:
        return Service(
            name=name,
            command=command,
            log_path=self._home / f"{name}.log",
            stop_signals=_STOP_SIGNALS,
            environment=self._environment,
            inherits_environment=False,
            cwd=self._home,
        )


def _listens(port: int) -> bool:
    return any(
        connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        for connection in psutil.net_connections("tcp4")
    )
