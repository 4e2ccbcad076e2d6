"""What admins set: kept for all processes, secrets encrypted, with the environment behind it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import get_engine, transaction
from pipeline.errors import FatalError, InputError
from pipeline.settings import get_settings
from pipeline.system_settings import Rotation, list_settings, read_ai_config, rotate_secrets, write_setting

SECRETS = ("openrouter_key", "ai_key", "embedding_key")


def _set_environment(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    changed = get_settings().model_copy(update=values)
    monkeypatch.setattr("pipeline.system_settings.get_settings", lambda: changed)


@pytest.mark.parametrize("key", ["ai_key", "openrouter_key", "embedding_key"])
def test_a_key_is_stored_encrypted(session: Session, key: str) -> None:
    write_setting(session, key, "sk-very-secret")
    stored = session.scalar(text("SELECT value FROM system_settings WHERE key = :key"), {"key": key})
    assert "secret" not in stored
    write_setting(session, "ai_provider", "openrouter" if key == "openrouter_key" else "lmstudio")
    config = read_ai_config(session)
    assert (config.embedding_key if key == "embedding_key" else config.key) == "sk-very-secret"
    assert "secret" not in repr(config)


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


@pytest.mark.parametrize("key", ["ai_host", "openrouter_host", "embedding_host"])
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


def _stored(session: Session) -> dict[str, str]:
    rows = session.execute(text("SELECT key, value FROM system_settings WHERE key LIKE '%key'"))
    return {row[0]: row[1] for row in rows}


def _rotations(session: Session) -> list[tuple[str, dict[str, object]]]:
    question = "SELECT thing_id, details FROM audit_log WHERE action = 'setting.rotate' ORDER BY id"
    return [(row[0], row[1]) for row in session.execute(text(question))]


@pytest.fixture
def _new_key(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """All secrets are stored under the key `old`, and the key is `new` now."""
    _set_environment(monkeypatch, secret_key=SecretStr("old"))
    for key in SECRETS:
        write_setting(session, key, f"sk-{key}")
    session.commit()
    _set_environment(monkeypatch, secret_key=SecretStr("new"))


@pytest.mark.usefixtures("_new_key")
@pytest.mark.parametrize("old", ["old", "old\n", "old\r\n"])
def test_secrets_are_taken_over_to_the_present_key_and_once_more_changes_nothing(
    session: Session, old: str
) -> None:
    with pytest.raises(FatalError, match="opspipe settings rotate-key"):
        list_settings(session)
    assert rotate_secrets(session, old) == Rotation(rotated=list(SECRETS), kept=[])
    session.commit()
    write_setting(session, "ai_provider", "lmstudio")
    config = read_ai_config(session)
    assert (config.key, config.embedding_key) == ("sk-ai_key", "sk-embedding_key")
    write_setting(session, "ai_provider", "openrouter")
    assert read_ai_config(session).key == "sk-openrouter_key"
    before = _stored(session)
    assert rotate_secrets(session, old) == Rotation(rotated=[], kept=list(SECRETS))
    assert _stored(session) == before
    assert _rotations(session) == [(key, {}) for key in SECRETS]


@pytest.mark.usefixtures("_new_key")
def test_only_what_is_under_the_old_key_is_encrypted_anew(session: Session) -> None:
    write_setting(session, "ai_key", "sk-set-since")
    assert rotate_secrets(session, "old") == Rotation(["openrouter_key", "embedding_key"], ["ai_key"])
    write_setting(session, "ai_provider", "lmstudio")
    assert read_ai_config(session).key == "sk-set-since"


@pytest.mark.usefixtures("_new_key")
@pytest.mark.parametrize("old", ["wrong", "new", " ", "\n", ""])
def test_a_wrong_old_key_is_refused_and_changes_nothing(session: Session, old: str) -> None:
    before = _stored(session)
    with pytest.raises(InputError, match=r"nothing was changed|is empty") as refused:
        rotate_secrets(session, old)
    assert "wrong" not in str(refused.value)
    session.commit()
    assert _stored(session) == before
    assert _rotations(session) == []


@pytest.mark.usefixtures("_new_key")
def test_one_secret_under_a_third_key_keeps_all_as_they_are(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_environment(monkeypatch, secret_key=SecretStr("third"))
    write_setting(session, "embedding_key", "sk-third")
    _set_environment(monkeypatch, secret_key=SecretStr("new"))
    session.commit()
    before = _stored(session)
    with pytest.raises(InputError, match=r"^embedding_key: encrypted under neither"):
        rotate_secrets(session, "old")
    session.commit()
    assert _stored(session) == before


def test_nothing_stored_is_nothing_to_do(session: Session) -> None:
    assert rotate_secrets(session, "anything") == Rotation([], [])


@pytest.mark.usefixtures("_new_key")
@pytest.mark.parametrize("is_first", [True, False])
def test_a_secret_that_is_set_meanwhile_stands(
    session: Session, wait: Callable[..., None], *, is_first: bool
) -> None:
    if is_first:
        session.execute(text("DELETE FROM system_settings WHERE key = 'ai_key'"))
        session.commit()
    rotate_secrets(session, "old")

    def set_another() -> None:
        with transaction() as other:
            write_setting(other, "ai_key", "sk-set-meanwhile")

    def waits() -> bool:
        question = (
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = to_regclass('system_settings')"
        )
        with get_engine().connect() as connection:
            return connection.scalar(text(question)) == 1

    with ThreadPoolExecutor() as pool:
        setting = pool.submit(set_another)
        wait(waits, what="another who waits")
        session.commit()
        setting.result()
    write_setting(session, "ai_provider", "lmstudio")
    assert read_ai_config(session).key == "sk-set-meanwhile"


def test_the_key_of_the_home_is_taken_over_by_its_file(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_setting(session, "ai_key", "sk-of-the-home")
    file = get_settings().home / "secret.key"
    _set_environment(monkeypatch, secret_key=SecretStr("new"))
    assert rotate_secrets(session, file.read_text()) == Rotation(["ai_key"], [])
    write_setting(session, "ai_provider", "lmstudio")
    assert read_ai_config(session).key == "sk-of-the-home"
