"""Taking secrets over to another secret key at the command line."""

import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session
from typer.testing import CliRunner, Result

from cli.app import app
from pipeline.errors import InputError
from pipeline.settings import get_settings
from pipeline.system_settings import read_ai_config, write_setting
from tests.cli.conftest import OPSPIPE

OLD, NEW = "the-old-secret-key", "the-new-secret-key"


@pytest.fixture(autouse=True)
def _new_key(session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A secret is stored under the old key, and the environment has the new one."""
    monkeypatch.setenv("OPSPIPE_SECRET_KEY", OLD)
    get_settings.cache_clear()
    write_setting(session, "ai_provider", "lmstudio")
    write_setting(session, "ai_key", "sk-very-secret")
    session.commit()
    monkeypatch.setenv("OPSPIPE_SECRET_KEY", NEW)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def rotate(*arguments: str | Path, given: str | None = None) -> Result:
    return CliRunner().invoke(app, ["settings", "rotate-key", *map(str, arguments)], input=given)


@pytest.mark.parametrize("way", ["argument", "input", "file", "file with a line end"])
def test_the_old_key_is_given_by_argument_input_or_file(session: Session, tmp_path: Path, way: str) -> None:
    (tmp_path / "old").write_text(OLD + "\n" * way.endswith("end"))
    arguments: dict[str, tuple[str | Path, ...]] = {"argument": (OLD,), "input": ("-",)}
    chosen = arguments.get(way, ("--old-file", tmp_path / "old"))
    done = rotate(*chosen, given=f"{OLD}\n")
    assert done.exit_code == 0
    assert done.output == "ai_key is under the present secret key now\n"
    again = rotate(*chosen, given=f"{OLD}\n")
    assert again.output == "ai_key was under the present secret key already\n"
    assert read_ai_config(session).key == "sk-very-secret"


def test_a_wrong_key_is_refused_without_being_repeated() -> None:
    refused = rotate("-", given="another-key\n")
    assert isinstance(refused.exception, InputError)
    assert "nothing was changed" in str(refused.exception)
    assert "another-key" not in str(refused.exception) + refused.output


def test_one_of_the_two_ways_is_to_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "old").write_text(OLD)
    for arguments in ((), (OLD, "--old-file", tmp_path / "old"), ("--old-file", tmp_path / "none")):
        assert rotate(*arguments).exit_code == 2


def test_on_a_terminal_the_key_is_asked_for_and_not_shown(session: Session) -> None:
    ours, its = pty.openpty()
    with subprocess.Popen(
        [OPSPIPE, "settings", "rotate-key", "-"],
        stdin=its,
        stdout=its,
        stderr=its,
        env=os.environ | {"TERM": "dumb"},
        start_new_session=True,
    ) as process:
        os.close(its)
        shown = b""
        while b"the old secret key: " not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, f"{OLD}\n".encode())
        while b"present secret key now" not in shown:
            shown += os.read(ours, 1000)
        assert process.wait(timeout=30) == 0
    os.close(ours)
    assert OLD.encode() not in shown
    assert read_ai_config(session).key == "sk-very-secret"
