"""What admins set: kept for all processes, secrets encrypted, with the environment behind it."""

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.errors import FatalError, InputError
from pipeline.settings import get_settings
from pipeline.system_settings import list_settings, read_ai_config, write_setting


def _set_environment(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    changed = get_settings().model_copy(update=values)
    monkeypatch.setattr("pipeline.system_settings.get_settings", lambda: changed)


@pytest.mark.parametrize("key", ["ai_key", "openrouter_key"])
def test_a_key_is_stored_encrypted(session: Session, key: str) -> None:
    write_setting(session, key, "sk-very-secret")
    stored = session.scalar(text("SELECT value FROM system_settings WHERE key = :key"), {"key": key})
    assert "secret" not in stored
    write_setting(session, "ai_provider", "openrouter" if key == "openrouter_key" else "lmstudio")
    assert read_ai_config(session).key == "sk-very-secret"


def test_the_environment_stands_behind_what_is_set(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    _set_environment(
        monkeypatch,
        ai_provider="lmstudio",
        ai_host="http://models:1/v1",
        llm_model="chatter",
        embedding_model="embedder",
        llm_context="9000",
        embedding_price="2",
        ai_key=SecretStr("sk-of-the-environment"),
    )
    config = read_ai_config(session)
    assert (config.provider, config.host) == ("lmstudio", "http://models:1/v1")
    assert (config.llm_model, config.embedding_model) == ("chatter", "embedder")
    assert (config.llm_context, config.embedding_price) == (9000, 2e-6)
    assert config.key == "sk-of-the-environment"
    write_setting(session, "llm_model", "another")
    write_setting(session, "ai_key", "sk-set")
    config = read_ai_config(session)
    assert (config.llm_model, config.key, config.embedding_model) == ("another", "sk-set", "embedder")


@pytest.mark.parametrize("key", ["ai_host", "openrouter_host"])
def test_a_password_in_an_address_is_refused_and_never_shown(session: Session, key: str) -> None:
    with pytest.raises(InputError, match="use ai_key") as refused:
        write_setting(session, key, "http://me:s3cr3t@host/v1")
    assert "s3cr3t" not in str(refused.value)
    assert "me" not in list_settings(session)[key]


def test_a_password_in_an_address_of_the_environment_is_refused_and_never_shown(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_environment(monkeypatch, ai_host="http://me:s3cr3t@host/v1")
    with pytest.raises(FatalError, match="use ai_key") as refused:
        read_ai_config(session)
    assert "s3cr3t" not in str(refused.value)
    assert list_settings(session)["ai_host"] == "http://***@host/v1"
