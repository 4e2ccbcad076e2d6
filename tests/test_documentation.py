"""The README, held against the code: every command and variable in it is real, and none is missing."""

import re
from pathlib import Path

from typer.main import get_command

from cli.app import app
from pipeline.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def _names(command: object) -> set[str]:
    return set(getattr(command, "commands", {}))


def test_every_command_is_in_the_readme_and_the_other_way_round() -> None:
    rows = re.findall(r"^\| (`[^|]*(?:\\\|[^|]*)*) \|", README.split("### ")[0], re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert documented == _names(get_command(app))


def test_subcommands_in_the_readme_are_real() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for group in ("bonus", "settings", "user", "token", "db"):
        (listed,) = re.findall(rf"^\| `{group} ([a-z|\\-]+)`", README, re.MULTILINE)
        assert set(listed.replace("\\", "").split("|")) == _names(commands[group]), group


def test_every_variable_is_in_the_readme_and_the_other_way_round() -> None:
    fields = Settings.model_fields.items()
    known = {str(field.validation_alias or f"OPSPIPE_{name.upper()}") for name, field in fields}
    documented = set(re.findall(r"`((?:OPSPIPE|AI|LLM|EMBEDDING|OPENROUTER|SIMILARITY)_\w+)`", README))
    assert documented == known


def test_every_make_target_in_the_readme_is_real() -> None:
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", README)) <= targets
