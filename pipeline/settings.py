"""The process's configuration, read from the environment (or `.env`) in this one class and nowhere else.

What admins change while the system runs is in the database: see `pipeline.system_settings`.
"""

import os
from functools import lru_cache
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.errors import InputError

BROKER_SCHEMES = ("redis://", "rediss://", "redis+socket://", "amqp://", "amqps://")


class Settings(BaseSettings):
    """Everything that the environment decides. Sizes are in bytes, times in seconds, counts in rows."""

    model_config = SettingsConfigDict(env_prefix="OPSPIPE_", env_file=".env", extra="ignore", frozen=True)

    # Empty: the embedded servers under `home`.
    database_url: str = ""
    broker_url: str = ""
    storage_url: str = ""
    home: Path = Path("~/.opspipe")
    # False for tests and demonstrations: the embedded servers do not wait for the disk.
    durable: bool = True
    # Embedded servers take their data along when the last user leaves, as in the demo.
    temporary: bool = False
    secret_key: SecretStr | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65535)
    flower_port: int = Field(default=5555, ge=1, le=65535)
    # Requests of a token, or of an address without one; empty: any number.
    rate_limit: str = "1200/minute"
    # Whether figures for Prometheus are told to everybody at /metrics.
    metrics: bool = False
    max_upload_bytes: int = Field(default=2 * 1024**3, gt=0)
    # A client that sends a file is taken to have hung up when nothing came for so long.
    upload_silence_seconds: int = Field(default=60, ge=1)
    # Days that an upload's file is kept after its jobs have ended.
    upload_retention_days: int = Field(default=30, ge=0)

    # Batches by URL: whether servers of one's own network may be asked, and how long a download may take.
    allow_private_urls: bool = False
    fetch_seconds: int = Field(default=1800, ge=1)

    # Rows a load chunk, most of a second of work. With 5,000 what a chunk itself costs is felt (a tenth of a
    # load), with more the memory of a worker, which is bounded by a chunk.
    chunk_rows: int = Field(default=20_000, ge=1)
    # A chunk ends earlier where rows are large, so that memory stays bounded.
    chunk_bytes: int = Field(default=32 * 1024**2, ge=1)
    max_record_bytes: int = Field(default=4 * 1024**2, ge=1)
    # Records a vectorize or analyze chunk: a fraction of a second of work for the local model.
    embed_batch: int = Field(default=64, ge=1)
    # Calls under way at a time on an AI server from this machine, all its processes taken together.
    ai_concurrency: int = Field(default=8, ge=1)
    # Worker processes of the AI stages; 0: two a core, so that some write while others call.
    ai_processes: int = Field(default=0, ge=0)
    # How long an AI server may fail every call before its jobs give up.
    ai_patience: int = Field(default=1800, ge=1)
    # The longest that one call of an AI server may take.
    ai_call_seconds: int = Field(default=300, ge=1)
    # How long a dead worker's chunk waits; a living one renews its lease three times in this time.
    lease_seconds: int = Field(default=15, ge=1)
    # Chunks of one job that wait for a worker at most, so that a large job does not hold up a small one.
    publish_window: int = Field(default=16, ge=1)
    timezone: str = "UTC"

    ai_provider: str = Field(default="", validation_alias="AI_PROVIDER")
    ai_host: str = Field(default="", validation_alias="AI_HOST")
    # Where another server embeds than answers.
    embedding_host: str = Field(default="", validation_alias="EMBEDDING_HOST")
    llm_model: str = Field(default="", validation_alias="LLM_MODEL")
    embedding_model: str = Field(default="", validation_alias="EMBEDDING_MODEL")
    openrouter_host: str = Field(default="", validation_alias="OPENROUTER_HOST")
    # Tokens that the models take; empty: what their server says.
    embedding_context: str = Field(default="", validation_alias="EMBEDDING_CONTEXT")
    llm_context: str = Field(default="", validation_alias="LLM_CONTEXT")
    # USD a million tokens; empty: what their server says.
    embedding_price: str = Field(default="", validation_alias="EMBEDDING_PRICE")
    llm_input_price: str = Field(default="", validation_alias="LLM_INPUT_PRICE")
    llm_output_price: str = Field(default="", validation_alias="LLM_OUTPUT_PRICE")
    similarity_threshold: str = Field(default="", validation_alias="SIMILARITY_THRESHOLD")
    ai_key: SecretStr | None = Field(default=None, validation_alias="AI_KEY")
    embedding_key: SecretStr | None = Field(default=None, validation_alias="EMBEDDING_KEY")
    openrouter_api_key: SecretStr | None = Field(default=None, validation_alias="OPENROUTER_API_KEY")

    @field_validator("home")
    @classmethod
    def _expand_home(cls, value: Path) -> Path:
        return Path(os.path.abspath(value.expanduser()))  # noqa: PTH100 - resolve() would follow links

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: str) -> str:
        if value and not value.startswith(("postgresql://", "postgres://")):
            raise ValueError("must start with postgresql://")
        return value

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, value: str) -> str:
        if value and not value.startswith(BROKER_SCHEMES):
            raise ValueError(f"must start with one of {', '.join(BROKER_SCHEMES)}")
        return value

    @field_validator("storage_url")
    @classmethod
    def _check_storage_url(cls, value: str) -> str:
        if value and not value.startswith("file:///"):
            raise ValueError("only file:///absolute/folder is supported so far")
        return value

    @property
    def uploads_folder(self) -> Path:
        """The folder that uploads are stored in."""
        return Path(self.storage_url.removeprefix("file://")) if self.storage_url else self.home / "uploads"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Read the settings once a process.

    Raises:
        InputError: a variable holds what it may not hold; names the variable and the reason.
    """
    try:
        return Settings()
    except ValidationError as error:
        reasons = "; ".join(f"{_variable(item['loc'])}: {item['msg']}" for item in error.errors())
        raise InputError(f"wrong configuration: {reasons}") from None


def _variable(loc: tuple[int | str, ...]) -> str:
    name = str(loc[0])
    return name.upper() if name.isupper() else f"OPSPIPE_{name.upper()}"
