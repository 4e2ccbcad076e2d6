"""The hard cases of sharing an embedded server: removal, forks, secrets, and processes that just end."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from redis import Redis

from pipeline.servers import EmbeddedPostgres, EmbeddedValkey

ROOT = Path(__file__).parents[3]
Kind = type[EmbeddedPostgres] | type[EmbeddedValkey]
Processes = Callable[[Path], list[psutil.Process]]
Running = Callable[[list[psutil.Process]], list[psutil.Process]]
both = pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])


def test_after_its_only_user_was_killed_nothing_runs_and_nothing_is_left(
    folder: Path, other_user: Callable, processes: Processes, running: Running, wait: Callable
) -> None:
    user = other_user(EmbeddedValkey, folder, remove_at_end=True)
    user.url()
    all_processes = processes(folder)
    user.kill()
    wait(lambda: not running(all_processes), seconds=3, what="the end of the server")
    assert not folder.exists()


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's end"
)
def test_a_killed_guard_takes_the_server_along_and_a_new_start_brings_it_back(
    folder: Path, answers: Callable, processes: Processes, running: Running, wait: Callable
) -> None:
    server = EmbeddedValkey(folder, durable=False)
    server.start()
    guard, *others = processes(folder)
    guard.kill()
    wait(lambda: not running(others), seconds=5, what="the end of the server")
    assert answers(server.start())
    server.release()


def test_what_was_queued_is_there_after_a_restart_of_a_durable_valkey(folder: Path) -> None:
    with Redis.from_url(started(EmbeddedValkey, folder, durable=True)) as client:
        client.rpush("queue", "message")
    release(folder)
    with Redis.from_url(started(EmbeddedValkey, folder, durable=True)) as client:
        assert client.lrange("queue", 0, -1) == [b"message"]
    release(folder)


_started: dict[Path, EmbeddedPostgres | EmbeddedValkey] = {}


def started(kind: Kind, folder: Path, *, durable: bool = False) -> str:
    _started[folder] = kind(folder, durable=durable)
    return _started[folder].start()


def release(folder: Path) -> None:
    _started.pop(folder).release()


def test_a_taken_port_is_replaced_by_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch, answers: Callable
) -> None:
    with socket.socket() as taken, socket.socket() as probe:
        taken.bind(("127.0.0.1", 0))
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
        probe.close()
        ports = [taken.getsockname()[1], free]
        monkeypatch.setattr("pipeline.servers.embedded.free_port", lambda: ports.pop(0))
        url = started(EmbeddedValkey, folder)
        assert urlsplit(url).port == free
        assert answers(url)
        release(folder)


@both
def test_nobody_else_may_read_what_holds_a_password(kind: Kind, folder: Path) -> None:
    url = started(kind, folder)
    password = urlsplit(url).password
    assert password is not None
    secret = [path for path in folder.iterdir() if path.is_file() and password in path.read_text("latin-1")]
    assert secret
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    release(folder)


@both
def test_a_wrong_password_is_refused(kind: Kind, folder: Path, answers: Callable) -> None:
    url = started(kind, folder)
    assert not answers(url.replace(str(urlsplit(url).password), "wrong"))
    release(folder)


def test_the_terminals_ctrl_c_reaches_neither_guard_nor_server(folder: Path, processes: Processes) -> None:
    started(EmbeddedValkey, folder)
    assert os.getsid(0) not in {os.getsid(one.pid) for one in processes(folder)}
    release(folder)


@both
def test_a_folder_with_a_space_in_its_name_will_do(kind: Kind, folder: Path, answers: Callable) -> None:
    spaced = folder.with_name("my server")
    assert answers(started(kind, spaced))
    release(spaced)


FORK = """
import os, sys, time
from pathlib import Path
from pipeline.servers import EmbeddedValkey
server = EmbeddedValkey(Path(sys.argv[1]), durable=False)
print(server.start(), flush=True)
if os.fork() == 0:
    server.release()
    sys.stdin.read()
    os._exit(0)
server.release()
os._exit(0)
"""


def test_a_forked_child_keeps_the_server_and_its_release_takes_it_from_nobody(
    folder: Path, answers: Callable, processes: Processes, running: Running, wait: Callable
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", FORK, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    url = parent.stdout.readline().strip()
    parent.wait(20)
    # The guard looks ten times a second: three looks later it would have stopped the server.
    for _ in range(6):
        time.sleep(0.05)
        assert answers(url)
    all_processes = processes(folder)
    parent.communicate()
    wait(lambda: not running(all_processes), seconds=3, what="the end of the server")


def test_many_at_once_start_one_server(folder: Path, other_user: Callable) -> None:
    users = [other_user(EmbeddedValkey, folder) for _ in range(4)]
    assert len({user.url() for user in users}) == 1
    for user in users:
        user.leave()


def test_starting_and_releasing_again_and_again_never_fails(folder: Path, answers: Callable) -> None:
    for _ in range(4):
        assert answers(started(EmbeddedValkey, folder))
        release(folder)


def test_a_new_user_waits_for_the_removal_and_then_has_a_server_of_its_own(
    folder: Path, other_user: Callable, answers: Callable
) -> None:
    first = other_user(EmbeddedValkey, folder, remove_at_end=True)
    first.url()
    first.kill()
    url = started(EmbeddedValkey, folder)
    assert answers(url)
    second = other_user(EmbeddedValkey, folder)
    assert second.url() == url
    second.leave()
    release(folder)


ENDPOINTS = """
from pipeline.servers import endpoints
print(endpoints().broker_url, flush=True)
"""


def test_a_process_that_just_ends_lets_go_of_its_endpoints(folder: Path, answers: Callable) -> None:
    environment = os.environ | {"OPSPIPE_HOME": str(folder), "OPSPIPE_DATABASE_URL": "postgresql://given/one"}
    done = subprocess.run(
        [sys.executable, "-c", ENDPOINTS],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("redis://:")
    assert not answers(done.stdout.strip())
    assert not (folder / "postgres").exists()


GIVEN = """
from pipeline.servers import endpoints
print(endpoints().database_url, endpoints().broker_url)
"""


def test_given_urls_win_and_nothing_is_started(folder: Path) -> None:
    given = {"OPSPIPE_DATABASE_URL": "postgresql://given/one", "OPSPIPE_BROKER_URL": "redis://given/0"}
    done = subprocess.run(
        [sys.executable, "-c", GIVEN],
        cwd=ROOT,
        env=os.environ | given | {"OPSPIPE_HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [*given.values()]
    assert not folder.exists()


def test_servers_end_when_their_folder_was_deleted_under_them(
    folder: Path, processes: Processes, running: Running, wait: Callable
) -> None:
    started(EmbeddedValkey, folder)
    all_processes = processes(folder)
    shutil.rmtree(folder)
    wait(lambda: not running(all_processes), seconds=5, what="the end of the server")
    release(folder)
