"""The installation that the fault suite breaks: all that `opspipe up` runs, under its supervisor."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from pipeline.sample import write_guidelines_pdf
from pipeline.settings import get_settings
from tests.ai_server import AiServer
from tests.faults.brokers import Broker, RabbitMQ, Valkey
from tests.faults.guarded import free_port
from tests.faults.installation import Installation
from tests.faults.rabbitmq import RabbitServer, why_not

# A dead worker's chunk waits for two seconds, and there are many small chunks.
ENVIRONMENT = {
    # What was committed stands, also after a crash of the database.
    "OPSPIPE_DURABLE": "true",
    "OPSPIPE_LEASE_SECONDS": "2",
    "OPSPIPE_CHUNK_ROWS": "100",
    "OPSPIPE_EMBED_BATCH": "20",
    "OPSPIPE_AI_PROCESSES": "2",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take what the suite is to run on, and how long it is to go on."""
    group = parser.getgroup("faults")
    group.addoption(
        "--broker", choices=("valkey", "rabbitmq"), default="valkey", help="what carries messages"
    )
    group.addoption("--rounds", type=int, default=1, help="how often each fault is tried, at other moments")
    group.addoption("--seed", type=int, default=1, help="of the first round; the next ones count on")
    group.addoption(
        "--outage-seconds", type=float, default=4.0, help="how long a server stays away in an outage"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes long, so that `make test` leaves it to `make test-faults` and `make soak`."""
    for item in items:
        if item.path.parent.name == "soak":
            item.add_marker(pytest.mark.soak)
        elif "faults" in item.path.parts:
            item.add_marker(pytest.mark.faults)
    # What looks into queues comes before the workers, who would empty them. They stay until the end.
    items.sort(key=lambda item: "installation" in getattr(item, "fixturenames", ()))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test of a fault the seeds of the rounds."""
    if "seed" in metafunc.fixturenames:
        first = metafunc.config.getoption("--seed", 1)
        rounds = metafunc.config.getoption("--rounds", 1)
        metafunc.parametrize("seed", range(first, first + rounds))


@pytest.fixture(scope="session")
def rabbit(request: pytest.FixtureRequest) -> Iterator[RabbitServer | None]:
    """RabbitMQ, where the suite is to run on it."""
    if request.config.getoption("--broker", "valkey") != "rabbitmq":
        yield None
        return
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    home = Path(tempfile.mkdtemp(prefix="opspipe-rabbitmq-"))
    server = RabbitServer(home)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def environment(rabbit: RabbitServer | None) -> Iterator[None]:
    """Set the suite's own settings, before the servers start."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("OPSPIPE_PORT", str(free_port()))
        if rabbit is not None:
            patch.setenv("OPSPIPE_BROKER_URL", rabbit.url)
        get_settings.cache_clear()
        yield
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def servers(environment: None, servers: None) -> None:
    """The servers, by these settings."""


@pytest.fixture(scope="session")
def broker(servers: None, rabbit: RabbitServer | None) -> Broker:  # noqa: ARG001 - it must run
    """The broker that the suite runs on."""
    return Valkey() if rabbit is None else RabbitMQ(rabbit)


@pytest.fixture(scope="session")
def everything(broker: Broker, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """Run workers, beat and the API."""
    installation = Installation(broker, request.config.getoption("--outage-seconds", 4.0))
    installation.start()
    yield installation
    installation.stop()


@pytest.fixture
def installation(
    everything: Installation,
    session: Session,  # noqa: ARG001 - it empties the tables
    use_ai_server: AiServer,
) -> Iterator[Installation]:
    """The same with empty tables and queues, and a server of models that takes its time."""
    use_ai_server.behaviour.latency = 0.03
    everything.begin(use_ai_server)
    yield everything
    everything.end()


@pytest.fixture
def guidelines(tmp_path: Path) -> Path:
    """A PDF of guidelines."""
    file = tmp_path / "guidelines.pdf"
    write_guidelines_pdf(file)
    return file
