"""Servers as the providers call them, with pauses too short to be felt."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text

from pipeline.ai import AiConfig, Provider, open_provider, run
from pipeline.ai.http import HttpServer, Json
from pipeline.database import transaction
from pipeline.settings import get_settings
from tests.ai_server import AiServer

KEY = "sk-test-0123456789"


@pytest.fixture
def ai_settings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Change what the calls of this process are allowed: any of the settings, also below their bounds."""

    def _change(**values: object) -> None:
        changed = get_settings().model_copy(update=values)
        for module in ("gate", "http", "settled"):
            monkeypatch.setattr(f"pipeline.ai.{module}.get_settings", lambda: changed)

    return _change


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is followed by a pause all the same, and by one so short that nobody waits for it."""
    monkeypatch.setattr("pipeline.ai.health._SHORTEST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("pipeline.ai.retries._PAUSE_SECONDS", 0.0)


@pytest.fixture
def no_known_servers(servers: None) -> None:  # noqa: ARG001 - it must run
    """Forget how AI servers did: all of the database that a call by itself asks."""
    with transaction() as session:
        session.execute(text("DELETE FROM ai_servers"))


@pytest.fixture
def make_provider(
    no_known_servers: None,  # noqa: ARG001 - it must run
    ai_server: AiServer,
) -> Callable[..., Provider]:
    """Open providers of the server."""

    def _make(kind: str = "lmstudio", **values: object) -> Provider:
        config = {"llm_model": "chatter", "embedding_model": "embedder"} | values
        return open_provider(AiConfig(kind, ai_server.url, **config))  # type: ignore[arg-type]  # by name

    return _make


class Caller:
    """One server over HTTP, without a provider before it."""

    def __init__(self, url: str, key: str = KEY) -> None:
        self.server = HttpServer(url, key=key, headers={}, setting="ai_host", key_setting="ai_key")

    async def _post(self, entry: str) -> Json:
        async def account(_answer: Json) -> None:
            """Nobody pays."""

        body = {"model": "embedder", "input": [entry]}
        return await self.server.post("/embeddings", body, model="embedder", account=account)

    def post(self, entry: str = "a text") -> Json:
        return run(self._post(entry))

    def post_at_once(self, count: int) -> list[Json | BaseException]:
        async def work() -> list[Json | BaseException]:
            calls = [self._post(f"text {number}") for number in range(count)]
            return await asyncio.gather(*calls, return_exceptions=True)

        return run(work())


@pytest.fixture
def make_caller(no_known_servers: None) -> Iterator[Callable[..., Caller]]:  # noqa: ARG001 - it must run
    made = []

    def _make(url: str, key: str = KEY) -> Caller:
        made.append(Caller(url, key))
        return made[-1]

    yield _make
    for caller in made:
        run(caller.server.close())
