"""What admins change while the system runs: rows of system_settings, with the environment behind them."""

import base64
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from pipeline.errors import FatalError, InputError
from pipeline.settings import Settings, get_settings
from schemas.reference import SystemSetting

PROVIDERS = ("local", "lmstudio", "openrouter")
_SECRET = "openrouter_key"  # noqa: S105 - the name of a setting, not its value


@dataclass(frozen=True)
class SettingKind:
    """A known key: what it is for, its default, and the field of Settings that stands behind it."""

    description: str
    default: str
    environment: str


KNOWN = {
    "ai_provider": SettingKind(f"who embeds and analyzes: {', '.join(PROVIDERS)}", "local", "ai_provider"),
    "ai_host": SettingKind("base URL of the OpenAI-compatible server", "http://localhost:1234/v1", "ai_host"),
    "llm_model": SettingKind("model that analyzes", "", "llm_model"),
    "embedding_model": SettingKind("model that embeds", "", "embedding_model"),
    _SECRET: SettingKind("OpenRouter's API key, encrypted at rest", "", "openrouter_api_key"),
}


@dataclass(frozen=True)
class AiSettings:
    """Which provider and models the AI stages use now."""

    provider: str
    host: str
    llm_model: str
    embedding_model: str


def read_ai_settings(session: Session) -> AiSettings:
    """Read what the AI stages need; the database wins over the environment.

    Raises:
        FatalError: the provider is none that we know.
    """
    provider = read_setting(session, "ai_provider")
    if provider not in PROVIDERS:
        raise FatalError(f"ai_provider is {provider!r}: set it to one of {', '.join(PROVIDERS)}")
    return AiSettings(
        provider=provider,
        host=read_setting(session, "ai_host"),
        llm_model=read_setting(session, "llm_model"),
        embedding_model=read_setting(session, "embedding_model"),
    )


def read_setting(session: Session, key: str) -> str:
    """Give a known setting's value that is no secret: from the database, the environment or the default."""
    kind = _kind(key)
    if key == _SECRET:
        raise InputError(f"{key} is a secret and is never shown")
    stored = session.scalar(select(SystemSetting.value).where(SystemSetting.key == key))
    return stored if stored is not None else getattr(get_settings(), kind.environment) or kind.default


def list_settings(session: Session) -> dict[str, str]:
    """Show every known setting; of a secret only whether it is set."""
    shown = {key: read_setting(session, key) for key in KNOWN if key != _SECRET}
    return shown | {_SECRET: "(set)" if read_secret(session) else "(not set)"}


def write_setting(session: Session, key: str, value: str) -> None:
    """Change a setting for all processes; a secret is stored encrypted.

    Raises:
        InputError: the key is unknown, or the value is none that it can have.
    """
    kind = _kind(key)
    if key == "ai_provider" and value not in PROVIDERS:
        raise InputError(f"ai_provider cannot be {value!r}: choose from {', '.join(PROVIDERS)}")
    if key == "ai_host" and not value.startswith(("http://", "https://")):
        raise InputError(f"ai_host must start with http:// or https://, not {value!r}")
    stored = _cipher().encrypt(value.encode()).decode() if key == _SECRET else value
    row = {"value": stored, "description": kind.description, "updated_at": func.timezone("utc", func.now())}
    session.execute(
        upsert(SystemSetting)
        .values(key=key, **row)
        .on_conflict_do_update(
            index_elements=["key"],
            set_={"value": stored, "description": kind.description, "updatedAt": row["updated_at"]},
        )
    )


def read_secret(session: Session) -> str | None:
    """Give the OpenRouter key in clear, for the provider's eyes only; None where none is set.

    Raises:
        FatalError: it was encrypted under another secret key.
    """
    stored = session.scalar(select(SystemSetting.value).where(SystemSetting.key == _SECRET))
    if stored is None:
        key = get_settings().openrouter_api_key
        return key.get_secret_value() if key else None
    try:
        return _cipher().decrypt(stored.encode()).decode()
    except InvalidToken:
        raise FatalError(
            f"{_SECRET} was encrypted under another OPSPIPE_SECRET_KEY: "
            "set it again with `opspipe settings set`"
        ) from None


def _kind(key: str) -> SettingKind:
    if key not in KNOWN:
        raise InputError(f"there is no setting {key!r}: the known ones are {', '.join(KNOWN)}")
    return KNOWN[key]


def _cipher() -> Fernet:
    material = _secret_key(get_settings()).encode()
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(material).digest()))


def _secret_key(settings: Settings) -> str:
    if settings.secret_key is not None:
        return settings.secret_key.get_secret_value()
    if settings.database_url:
        raise InputError("OPSPIPE_SECRET_KEY must be set where the database is not the embedded one")
    return _own_secret_key(settings.home / "secret.key")


def _own_secret_key(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if not path.exists():
            handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(handle, "w") as sink:
                sink.write(secrets.token_urlsafe(32))
            # A link and not a rename: of two processes at once the first one's key stands.
            os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)
    return path.read_text()
