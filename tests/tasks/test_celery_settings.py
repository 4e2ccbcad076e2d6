"""What Celery would ignore without a word: settings that do not exist, entries that name no task."""

import inspect
import runpy
from collections.abc import Iterator
from typing import Any

import amqp
import pytest
from celery.app.defaults import NAMESPACES, flatten
from kombu import Connection
from kombu.transport.redis import Channel

import celeryconfig
from beat_schedule import SCHEDULE
from pipeline.settings import get_settings
from schemas.enums import Stage
from tasks import app
from tasks.publish import TASKS
from tasks.workers import count_workers

OURS = {"Queue", "SCHEDULE", "endpoints", "get_settings"}


def test_every_setting_is_one_that_celery_knows() -> None:
    known = {name for name, _ in flatten(NAMESPACES)}
    assert _settings_of(vars(celeryconfig)) <= known


def _settings_of(module: dict[str, Any]) -> set[str]:
    return {name for name in module if not name.startswith("_")} - OURS


@pytest.fixture
def rabbitmq_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The settings by a URL of RabbitMQ; no server is asked."""
    monkeypatch.setenv("OPSPIPE_BROKER_URL", "amqp://nowhere//")
    get_settings.cache_clear()
    yield runpy.run_path(celeryconfig.__file__)
    get_settings.cache_clear()


def test_every_setting_for_rabbitmq_is_one_that_celery_or_its_client_knows(
    rabbitmq_settings: dict[str, Any],
) -> None:
    known = {name for name, _ in flatten(NAMESPACES)}
    assert _settings_of(rabbitmq_settings) <= known
    options = rabbitmq_settings["broker_transport_options"]
    assert set(options) <= set(inspect.signature(amqp.Connection).parameters)


def test_on_rabbitmq_every_queue_is_replicated_and_the_queues_are_the_same(
    rabbitmq_settings: dict[str, Any],
    servers: None,  # noqa: ARG001 - it must run
) -> None:
    queues = rabbitmq_settings["task_queues"]
    assert {queue.name for queue in queues} == {queue.name for queue in app.conf.task_queues}
    assert {queue.queue_arguments["x-queue-type"] for queue in queues} == {"quorum"}


def test_every_beat_entry_names_a_registered_task_and_expires_before_its_next_run() -> None:
    app.loader.import_default_modules()
    for name, entry in SCHEDULE.items():
        assert entry["task"] in app.tasks, name
        assert entry["options"]["expires"] <= entry["schedule"], name


def test_every_stage_has_registered_tasks_on_a_queue_that_exists(servers: None) -> None:  # noqa: ARG001
    app.loader.import_default_modules()
    queues = {queue.name for queue in app.conf.task_queues}
    assert set(TASKS) == set(Stage)
    for name in (name for pair in TASKS.values() for name in pair):
        assert name in app.tasks
        assert app.amqp.router.route({}, name)["queue"].name in queues


def test_tasks_take_ids_and_numbers_alone() -> None:
    app.loader.import_default_modules()
    for name, task in app.tasks.items():
        if not name.startswith("celery."):
            kinds = {parameter.annotation for parameter in inspect.signature(task.run).parameters.values()}
            assert kinds <= {str, int}, name


def test_every_option_of_the_transport_is_one_that_it_knows(servers: None) -> None:  # noqa: ARG001 - it must run
    known = {*Channel.from_transport_options, "global_keyprefix"}
    assert set(app.conf.broker_transport_options) <= known


def test_a_task_may_end_by_itself_before_it_is_ended(servers: None) -> None:  # noqa: ARG001 - it must run
    assert app.conf.task_soft_time_limit < app.conf.task_time_limit


@pytest.mark.parametrize("url", ["amqp://127.0.0.1:1//", "redis://127.0.0.1:1/0"])
def test_workers_of_a_broker_that_is_not_there_are_an_error_of_one_kind(
    servers: None,  # noqa: ARG001 - it must run
    monkeypatch: pytest.MonkeyPatch,
    url: str,
) -> None:
    monkeypatch.setattr(app, "connection_for_write", lambda **_: Connection(url))
    with pytest.raises(ConnectionError, match="the broker does not answer"):
        count_workers()


def test_a_broker_that_goes_away_while_workers_are_counted_is_an_error_of_the_same_kind(
    servers: None,  # noqa: ARG001 - it must run
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def break_down(connection: Connection, **_: object) -> None:
        connection.collect()
        raise OSError("connection reset")

    monkeypatch.setattr(Connection, "drain_events", break_down)
    with pytest.raises(ConnectionError, match="the broker does not answer"):
        count_workers()
