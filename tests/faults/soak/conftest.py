"""What the soak is told, and the server of models that it runs on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.ai import close_providers
from tests.faults.soak.models import CountingServer


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take how long the soak is to go on, and where its results go."""
    group = parser.getgroup("soak")
    group.addoption("--minutes", type=float, default=20.0, help="how long jobs are submitted")
    group.addoption("--out", type=Path, default=Path("build/soak"), help="the folder of plot and figures")


@pytest.fixture
def minutes(request: pytest.FixtureRequest) -> float:
    """How long jobs are submitted."""
    return float(request.config.getoption("--minutes", 20.0))


@pytest.fixture
def out(request: pytest.FixtureRequest) -> Path:
    """The folder of the results, made where it is missing."""
    folder = Path(request.config.getoption("--out", "build/soak"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def ai_server() -> Iterator[CountingServer]:
    """A server of models that counts what it is asked and keeps none of it."""
    server = CountingServer()
    server.start()
    yield server
    close_providers()
    server.stop()
