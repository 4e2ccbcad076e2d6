"""What is particular to the embedded PostgreSQL: its settings, where its data lie, whom it runs as."""

import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pipeline.errors import FatalError
from pipeline.servers import EmbeddedPostgres

ROOT = Path(__file__).parents[3]


@pytest.fixture
def server(folder: Path) -> Iterator[EmbeddedPostgres]:
    made = EmbeddedPostgres(folder, durable=False, remove_at_end=True)
    yield made
    made.release()


def test_it_is_made_for_the_work(folder: Path) -> None:
    wanted = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "max_connections": "200",
        "max_wal_size": "4GB",
        "jit": "off",
        "TimeZone": "UTC",
        "server_encoding": "UTF8",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
    }
    durable = EmbeddedPostgres(folder, remove_at_end=True)
    with psycopg.connect(durable.start()) as connection:
        found = {name: connection.execute(f"SHOW {name}").fetchone() for name in wanted}
    durable.release()
    assert found == {name: (value,) for name, value in wanted.items()}


def test_an_initdb_that_was_killed_is_begun_again(
    server: EmbeddedPostgres, folder: Path, other_user: Callable, wait: Callable
) -> None:
    user = other_user(EmbeddedPostgres, folder)
    wait(lambda: list(folder.rglob("PG_VERSION")), seconds=10, what="the beginning of initdb")
    user.kill()
    assert not (folder / "data").exists()
    with psycopg.connect(server.start()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_one_that_cannot_start_says_why(folder: Path) -> None:
    broken = EmbeddedPostgres(folder, durable=False)
    broken.start()
    broken.release()
    with (folder / "data" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with pytest.raises(FatalError, match="no_such_setting"):
        broken.start()


def test_an_environment_made_for_another_postgres_does_not_matter(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("LC_ALL", "no_SUCH")
    with psycopg.connect(server.start()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.usefixtures("as_root")
def test_data_that_lie_elsewhere_are_found_again_when_the_folder_was_moved(folder: Path) -> None:
    folder.parent.chmod(0o700)
    server = EmbeddedPostgres(folder, durable=False)
    with psycopg.connect(server.start()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    server.release()
    moved = EmbeddedPostgres(folder.rename(folder.with_name("moved")), durable=False, remove_at_end=True)
    with psycopg.connect(moved.start()) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    moved.release()


@pytest.mark.usefixtures("as_root")
def test_a_deleted_folder_whose_data_lay_elsewhere_can_be_begun_anew(folder: Path) -> None:
    folder.parent.chmod(0o700)
    first = EmbeddedPostgres(folder, durable=False)
    first.start()
    first.release()
    data = (folder / "data").readlink()
    shutil.rmtree(folder)
    again = EmbeddedPostgres(folder, durable=False, remove_at_end=True)
    with psycopg.connect(again.start()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    again.release()
    assert not data.exists()


@pytest.mark.usefixtures("as_root")
def test_root_runs_it_as_nobody_and_changes_no_folder_above(server: EmbeddedPostgres, folder: Path) -> None:
    server.start()
    assert (folder / "data").owner() == "nobody"
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o755


ORDINARY = """
import sys
from pathlib import Path
import psycopg
from pipeline.servers import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), durable=False, remove_at_end=True)
with psycopg.connect(server.start()) as connection:
    print(connection.execute("SHOW data_directory").fetchone()[0])
"""


def can_run(python: str, account: dict[str, Any]) -> bool:
    try:
        done = subprocess.run(
            [python, "-c", "import psycopg, redis"], check=False, capture_output=True, **account
        )
    except (PermissionError, FileNotFoundError):
        return False
    return done.returncode == 0


@pytest.mark.usefixtures("as_root")
def test_an_ordinary_user_needs_nothing_special(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(folder.parent, nobody.pw_uid, nobody.pw_gid)
    account: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    account["env"] = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    account["cwd"] = "/"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidates = [str(Path(sys.executable).resolve()), f"/usr/bin/{version}"]
    python = next((one for one in candidates if can_run(one, account)), None)
    if python is None:
        pytest.skip(f"nobody cannot run any of {', '.join(candidates)}")
    done = subprocess.run(
        [python, "-c", ORDINARY, str(folder)], capture_output=True, text=True, check=False, **account
    )
    assert done.stdout.strip() == str(folder / "data"), done.stderr
