"""What admins change while the system runs: rows of system_settings, with the environment behind them."""

import base64
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from pipeline.ai import AiConfig, Limits
from pipeline.audit import note
from pipeline.errors import FatalError, InputError
from pipeline.settings import Settings, get_settings
from schemas.reference import SystemSetting

T = TypeVar("T")

PROVIDERS = ("local", "lmstudio", "openrouter")
_SECRETS = ("openrouter_key", "ai_key", "embedding_key")


@dataclass(frozen=True)
class SettingKind:
    """A known key: what it is for, its default, and the field of Settings that stands behind it."""

    description: str
    default: str
    environment: str
    # What a value must be, for those who set it; raises a ValueError that says so.
    check: Callable[[str], object] = str


def _one_of(*names: str) -> Callable[[str], object]:
    def check(value: str) -> None:
        if value not in names:
            raise ValueError(f"choose from {', '.join(names)}")

    return check


def _url(value: str) -> None:
    if not value.startswith(("http://", "https://")):
        raise ValueError("it must start with http:// or https://")
    if _shown(value) != value:
        raise ValueError(
            "a name or password has no place in it, where it is seen: use ai_key (or openrouter_key)"
        )


def _optional_url(value: str) -> None:
    if value:
        _url(value)


def _shown(value: str) -> str:
    """Give a value as it may be shown: of a URL without the name and password of a user."""
    return re.sub(r"//[^/?#]*@", "//***@", value)


def _number(low: float, high: float, meaning: str) -> Callable[[str], object]:
    def check(value: str) -> None:
        try:
            is_within = not value or low <= float(value) <= high
        except ValueError:
            is_within = False
        if not is_within:
            raise ValueError(f"it must be {meaning}, from {low:g} to {high:g}, or empty")

    return check


_price = _number(0, 1e6, "a price in USD a million tokens")
_tokens = _number(64, 1e8, "a number of tokens")

KNOWN = {
    "ai_provider": SettingKind(
        f"who embeds and analyzes: {', '.join(PROVIDERS)}", "local", "ai_provider", _one_of(*PROVIDERS)
    ),
    "ai_host": SettingKind(
        "base URL of the OpenAI-compatible server", "http://localhost:1234/v1", "ai_host", _url
    ),
    "embedding_host": SettingKind(
        "base URL of the server that embeds, if it is another one; empty: the same",
        "",
        "embedding_host",
        _optional_url,
    ),
    "llm_model": SettingKind("model that analyzes", "", "llm_model"),
    "embedding_model": SettingKind("model that embeds", "", "embedding_model"),
    "ai_key": SettingKind("key of the server at ai_host, if it wants one; encrypted at rest", "", "ai_key"),
    "embedding_key": SettingKind(
        "key of the server at embedding_host, if it wants one; encrypted at rest", "", "embedding_key"
    ),
    "openrouter_key": SettingKind("OpenRouter's API key, encrypted at rest", "", "openrouter_api_key"),
    "openrouter_host": SettingKind(
        "base URL of OpenRouter's API", "https://openrouter.ai/api/v1", "openrouter_host", _url
    ),
    "embedding_context": SettingKind(
        "tokens that the embedding model takes; empty: as its server says, else 512",
        "",
        "embedding_context",
        _tokens,
    ),
    "llm_context": SettingKind(
        "tokens that the analyzing model takes; empty: as its server says, else 4096",
        "",
        "llm_context",
        _tokens,
    ),
    "embedding_price": SettingKind(
        "USD a million tokens embedded; empty: as its server says", "", "embedding_price", _price
    ),
    "llm_input_price": SettingKind(
        "USD a million tokens read by the analyzing model; empty: as its server says",
        "",
        "llm_input_price",
        _price,
    ),
    "llm_output_price": SettingKind(
        "USD a million tokens written by it; empty: as its server says", "", "llm_output_price", _price
    ),
    "similarity_threshold": SettingKind(
        "cosine from which two tasks of a person are flagged; empty: by the model",
        "",
        "similarity_threshold",
        _number(-1, 1, "a cosine"),
    ),
}


def read_ai_config(session: Session) -> AiConfig:
    """Read what the AI stages need; the database wins over the environment.

    Raises:
        FatalError: a value is none that it can have, or the key cannot be decrypted.
    """
    stored = _read_stored(session)
    values = {key: _checked(key, _value(key, stored)) for key in KNOWN if key not in _SECRETS}
    is_openrouter = values["ai_provider"] == "openrouter"
    return AiConfig(
        provider=values["ai_provider"],
        host=values["openrouter_host" if is_openrouter else "ai_host"],
        llm_model=values["llm_model"],
        embedding_model=values["embedding_model"],
        key=_secret("openrouter_key" if is_openrouter else "ai_key", stored),
        embedding_host=values["embedding_host"],
        embedding_key=_secret("embedding_key", stored),
        limits=Limits(batch_texts=get_settings().embed_batch),
        embedding_context=_optional(int, values["embedding_context"]),
        llm_context=_optional(int, values["llm_context"]),
        embedding_price=_token_price(values["embedding_price"]),
        llm_input_price=_token_price(values["llm_input_price"]),
        llm_output_price=_token_price(values["llm_output_price"]),
    )


def _optional(kind: Callable[[float], T], value: str) -> T | None:
    return kind(float(value)) if value else None


def _token_price(value: str) -> float | None:
    return float(value) / 1e6 if value else None


def _checked(key: str, value: str) -> str:
    try:
        KNOWN[key].check(value)
    except ValueError as error:
        raise FatalError(f"the setting {key} is {_shown(value)!r}: {error}") from None
    return value


def read_setting(session: Session, key: str) -> str:
    """Give a known setting's value that is no secret: from the database, the environment or the default."""
    _kind(key)
    if key in _SECRETS:
        raise InputError(f"{key} is a secret and is never shown")
    return _value(key, _read_stored(session))


def _read_stored(session: Session) -> dict[str, str]:
    rows = session.execute(
        select(SystemSetting.key, SystemSetting.value).where(SystemSetting.key.in_(list(KNOWN)))
    )
    return {row[0]: row[1] for row in rows}


def _value(key: str, stored: Mapping[str, str]) -> str:
    """Choose what holds: what the table says, else the environment, else the default."""
    kind = KNOWN[key]
    return stored[key] if key in stored else getattr(get_settings(), kind.environment) or kind.default


def list_settings(session: Session) -> dict[str, str]:
    """Show every known setting; of a secret only whether it is set."""
    stored = _read_stored(session)
    shown = {key: _shown(_value(key, stored)) for key in KNOWN if key not in _SECRETS}
    return shown | {key: "(set)" if _secret(key, stored) else "(not set)" for key in _SECRETS}


def write_setting(session: Session, key: str, value: str) -> None:
    """Change a setting for all processes; a secret is stored encrypted.

    Raises:
        InputError: the key is unknown, or the value is none that it can have.
    """
    kind = _kind(key)
    try:
        kind.check(value)
    except ValueError as error:
        raise InputError(f"{key} cannot be {_shown(value)!r}: {error}") from None
    _note_change(session, key, value)
    stored = _present_cipher().encrypt(value.encode()).decode() if key in _SECRETS else value
    row = {"value": stored, "description": kind.description, "updated_at": func.timezone("utc", func.now())}
    session.execute(
        upsert(SystemSetting)
        .values(key=key, **row)
        .on_conflict_do_update(
            index_elements=["key"],
            set_={"value": stored, "description": kind.description, "updatedAt": row["updated_at"]},
        )
    )


def _note_change(session: Session, key: str, value: str) -> None:
    """Write down the old and the new value; of a secret only that there is another one."""
    if key in _SECRETS:
        note(session, "setting.set", "setting", key)
        return
    # Of two who change it at once the second tells the first one's value as the old one.
    session.execute(select(SystemSetting.key).where(SystemSetting.key == key).with_for_update())
    old = _value(key, _read_stored(session))
    note(session, "setting.set", "setting", key, old=_shown(old), new=_shown(value))


def _secret(key: str, stored: Mapping[str, str]) -> str | None:
    """Give a key in clear, for the provider's eyes only; a FatalError where another key encrypted it."""
    if key not in stored:
        found = getattr(get_settings(), KNOWN[key].environment)
        return found.get_secret_value() if found is not None else None
    try:
        return _present_cipher().decrypt(stored[key].encode()).decode()
    except InvalidToken:
        raise FatalError(
            f"{key} was encrypted under another OPSPIPE_SECRET_KEY: take it over with `opspipe settings "
            "rotate-key` if that one is known, else set it again with `opspipe settings set`"
        ) from None


@dataclass(frozen=True)
class Rotation:
    """Which stored secrets were encrypted anew, and which were under the present key already."""

    rotated: Sequence[str]
    kept: Sequence[str]


def rotate_secrets(session: Session, old: str) -> Rotation:
    """Encrypt every stored secret under the present secret key; once more changes nothing.

    Args:
        session: the transaction to do it in: all of them or none.
        old: the secret key that was set before, with or without a line end behind it.

    Raises:
        InputError: one of them is under neither key; nothing is changed.
    """
    if not old.strip():
        raise InputError("the old secret key is empty: give the one that was set before")
    present, stored = _present_cipher(), _lock_secrets(session)
    # A file or a pipe mostly ends with a line end that the variable did not have.
    before = MultiFernet([_cipher(old), _cipher(old.rstrip("\r\n"))])
    kept = [key for key, value in stored.items() if _decrypt(present, value) is not None]
    found = {key: _decrypt(before, stored[key]) for key in stored if key not in kept}
    clear = {key: value for key, value in found.items() if value is not None}
    if lost := [key for key in found if key not in clear]:
        raise InputError(
            f"{', '.join(lost)}: encrypted under neither the old secret key given nor the present one, and "
            "nothing was changed. Give the key that was set before; where it is lost, set these again with "
            "`opspipe settings set` first"
        )
    for key, value in clear.items():
        row = {"value": present.encrypt(value).decode(), "updated_at": func.timezone("utc", func.now())}
        session.execute(update(SystemSetting).where(SystemSetting.key == key).values(row))
        note(session, "setting.rotate", "setting", key)
    return Rotation(list(clear), kept)


def _lock_secrets(session: Session) -> dict[str, str]:
    """Read the secrets that are stored; nobody writes a setting until the transaction ends."""
    # The table and not its rows: a secret that is set for the first time meanwhile has no row to wait for.
    session.execute(text("LOCK TABLE system_settings IN EXCLUSIVE MODE"))
    stored = _read_stored(session)
    return {key: stored[key] for key in _SECRETS if key in stored}


def _decrypt(cipher: Fernet | MultiFernet, value: str) -> bytes | None:
    try:
        return cipher.decrypt(value.encode())
    except InvalidToken:
        return None


def _kind(key: str) -> SettingKind:
    if key not in KNOWN:
        raise InputError(f"there is no setting {key!r}: the known ones are {', '.join(KNOWN)}")
    return KNOWN[key]


def _present_cipher() -> Fernet:
    return _cipher(_secret_key(get_settings()))


def _cipher(secret_key: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(secret_key.encode()).digest()))


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
