"""Users, tokens and the audit log at the command line."""

import json
import os
import pwd
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from cli.app import app
from cli.output import console, errors
from pipeline.database import transaction
from pipeline.errors import PipelineError
from pipeline.sample import write_guidelines_pdf
from pipeline.tokens import note_use
from schemas.enums import UserRole
from tests.bearers import find_bearer

ME = f"cli:{pwd.getpwuid(os.getuid()).pw_name}"


class Commands:
    """Commands in this process, on the servers of the test."""

    def run(self, *arguments: str | Path, refused: str | None = None, code: int = 0) -> str:
        console.width = errors.width = 250
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if refused is None:
            assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
            assert result.exit_code == code, result.output
        else:
            assert isinstance(result.exception, PipelineError), result.output
            assert refused in str(result.exception)
        return result.stdout

    def json(self, *arguments: str | Path) -> Any:  # noqa: ANN401 - whatever the command prints
        return json.loads(self.run(*arguments, "--json"))


@pytest.fixture
def commands(session: Session) -> Commands:
    assert session
    return Commands()


def test_a_user_is_made_listed_changed_and_deleted(commands: Commands) -> None:
    made = commands.json("user", "create", "Ann@Example.com", "--role", "admin")
    assert (made["email"], made["role"]) == ("ann@example.com", "ADMIN")
    assert commands.run("user", "create", "bob@example.com") == "user bob@example.com is PENDING\n"
    commands.run("user", "create", "BOB@example.com", refused="there is a user 'bob@example.com' already")
    commands.run("user", "create", "bob", refused="'bob' is no e-mail address")
    assert [user["email"] for user in commands.json("user", "list")] == ["ann@example.com", "bob@example.com"]
    assert "ann@example.com" in commands.run("user", "list")
    commands.run("user", "delete", "ann@example.com", refused="ann@example.com is the last ADMIN")
    assert commands.run("user", "role", "bob@example.com", "ADMIN") == "user bob@example.com is ADMIN\n"
    assert commands.run("user", "delete", made["id"]) == "user ann@example.com is deleted\n"
    commands.run("user", "role", "bob@example.com", "KING", code=2)
    commands.run("user", "role", "ann@example.com", "USER", refused="there is no user 'ann@example.com'")


def test_a_token_with_an_end_is_made_and_listed_with_its_last_use(commands: Commands) -> None:
    commands.run("user", "create", "ann@example.com", "--role", "USER")
    commands.run("user", "create", "bob@example.com", "--role", "USER")
    token = commands.run("token", "create", "ann@example.com", "--name", "ci", "--expires", "30").strip()
    commands.run("token", "create", "bob@example.com")
    with transaction() as session:
        bearer = find_bearer(session, token)
        assert bearer is not None
        note_use(session, bearer.token_id)
    assert bearer.role is UserRole.USER
    of_ann, of_bob = commands.json("token", "list")
    created, expires = (datetime.fromisoformat(of_ann[name]) for name in ("created_at", "expires_at"))
    assert abs(expires - created - timedelta(days=30)) < timedelta(minutes=1)
    assert of_ann["last_used_at"] is not None
    assert (of_bob["expires_at"], of_bob["last_used_at"]) == (None, None)
    assert commands.json("token", "list", "--user", "bob@example.com") == [of_bob]
    assert token not in commands.run("token", "list")
    commands.run("token", "create", "ann@example.com", "--expires", "0", code=2)
    commands.run("token", "create", "nobody@example.com", refused="there is no user")


def test_a_token_is_revoked_by_its_id(commands: Commands) -> None:
    commands.run("user", "create", "ann@example.com")
    made = commands.json("token", "create", "ann@example.com")
    commands.run("token", "revoke", made["id"])
    with transaction() as session:
        assert find_bearer(session, made["token"]) is None


def test_what_was_done_is_listed_with_who_did_it(commands: Commands, tmp_path: Path) -> None:
    write_guidelines_pdf(tmp_path / "g.pdf")
    commands.run("guidelines", "p", tmp_path / "g.pdf")
    commands.run("settings", "set", "ai_key", "sk-very-secret")
    commands.run("settings", "set", "ai_host", "nowhere", refused="ai_host cannot be 'nowhere'")
    page = commands.json("audit")
    acts = page["acts"]
    assert [act["action"] for act in acts] == ["setting.set", "guidelines.set", "project.create"]
    assert {act["actor"] for act in acts} == {ME}
    assert page["next_cursor"] is None
    of_project = commands.json("audit", "--project", "p")["acts"]
    assert of_project == acts[1:] == commands.json("audit", "--project", acts[1]["project_id"])["acts"]
    assert commands.json("audit", "--thing", "ai_key")["acts"] == acts[:1]
    assert commands.json("audit", "--actor", "nobody@example.com")["acts"] == []
    assert commands.json("audit", "--action", "project.create", "--actor", ME)["acts"] == acts[2:]
    table = commands.run("audit", "--limit", "2")
    assert "guidelines.set" in table
    assert "project.create" not in table
    assert "secret" not in table
    assert table.rstrip().endswith(f"more: --cursor {acts[1]['id']}")
    assert commands.json("audit", "--cursor", str(acts[1]["id"]))["acts"] == acts[2:]
    commands.run("audit", "--cursor", "x", refused="the cursor is none")
