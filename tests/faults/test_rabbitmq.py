"""What the settings for RabbitMQ are relied on for, each seen on a real server."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from pipeline.doctor import diagnose
from pipeline.ledger import ChunkRef
from pipeline.settings import get_settings
from schemas.enums import Stage
from tasks import app, publish
from tasks.queues import DEAD_LETTERS
from tasks.workers import count_workers
from tests.faults.brokers import QUEUES, Broker
from tests.faults.guarded import wait_for
from tests.faults.installation import Installation
from tests.faults.job import count_repeats, submit
from tests.faults.rabbitmq import RabbitServer

# It is on no ledger: a worker drops it.
_NOBODYS = ChunkRef("nobody", Stage.LOAD, 1)


@pytest.fixture
def rabbitmq(broker: Broker, rabbit: RabbitServer | None) -> RabbitServer:
    """RabbitMQ, with queues declared and empty."""
    if rabbit is None:
        pytest.skip("these are settings for RabbitMQ alone: --broker rabbitmq")
    _declare()
    broker.empty()
    return rabbit


@pytest.fixture
def connection(rabbitmq: RabbitServer) -> Iterator[Connection]:
    with Connection(rabbitmq.url) as opened:
        yield opened


def _declare() -> None:
    with app.connection_for_write() as connection:
        for queue in (*app.amqp.queues.values(), DEAD_LETTERS):
            queue(connection.default_channel).declare()


def _depth(connection: Connection, name: str) -> int:
    return int(connection.default_channel.queue_declare(name, passive=True).message_count)


def _take(connection: Connection, name: str) -> Any:  # noqa: ANN401 - py-amqp ships no types
    """Take a message from a queue, waiting for it."""
    found: list[Any] = []

    def is_there() -> bool:
        found.append(connection.default_channel.basic_get(name, no_ack=False))
        return found[-1] is not None

    wait_for(is_there, f"a message on {name}", seconds=10)
    return found[-1]


def test_queues_of_work_are_replicated_and_bounded_in_redeliveries(rabbitmq: RabbitServer) -> None:
    rows = rabbitmq.control(
        "list_queues", "--no-table-headers", "name", "type", "durable", "arguments"
    ).splitlines()
    found = {row.split("\t")[0]: row for row in rows}
    for name in (*QUEUES, DEAD_LETTERS.name):
        assert "\tquorum\ttrue\t" in found[name]
    for name in QUEUES:
        assert '{"x-delivery-limit",100}' in found[name]
        assert ('"x-dead-letter-exchange"' in found[name]) == (name != "schedule")


def test_what_is_given_back_too_often_becomes_a_dead_letter(connection: Connection) -> None:
    channel = connection.default_channel
    channel.queue_purge(DEAD_LETTERS.name)
    publish([_NOBODYS])
    for _ in range(101):
        channel.basic_reject(_take(connection, "ingest").delivery_tag, requeue=True)
    letter = _take(connection, DEAD_LETTERS.name)
    assert letter.headers["task"] == "ingest.load_chunk"
    assert letter.headers["x-first-death-reason"] == "delivery_limit"
    channel.basic_ack(letter.delivery_tag)
    assert _depth(connection, "ingest") == 0


def test_what_no_task_is_named_for_becomes_a_dead_letter(
    installation: Installation,  # noqa: ARG001 - its workers must run
    connection: Connection,
) -> None:
    connection.default_channel.queue_purge(DEAD_LETTERS.name)
    app.send_task("ingest.of_another_version")
    letter = _take(connection, DEAD_LETTERS.name)
    assert letter.headers["x-first-death-reason"] == "rejected"
    connection.default_channel.basic_ack(letter.delivery_tag)


def test_ticks_of_beat_that_nobody_takes_are_no_dead_letters(connection: Connection) -> None:
    connection.default_channel.queue_purge(DEAD_LETTERS.name)
    app.send_task("schedule.sweep", queue="schedule", expires=0.2)
    wait_for(lambda: not _depth(connection, "schedule"), "the tick expires", seconds=10)
    time.sleep(0.3)
    assert _depth(connection, DEAD_LETTERS.name) == 0


def test_a_message_is_on_its_queue_when_publishing_returns(connection: Connection) -> None:
    for number in range(50):
        publish([_NOBODYS])
        assert _depth(connection, "ingest") == number + 1


def test_what_is_sent_over_a_connection_that_was_closed_meanwhile_arrives(
    connection: Connection, rabbitmq: RabbitServer
) -> None:
    publish([_NOBODYS])
    rabbitmq.control("close_all_connections", "for a test")
    time.sleep(0.5)
    publish([_NOBODYS])
    connection.collect()
    assert _depth(connection, "ingest") == 2


def test_a_broker_that_takes_no_messages_holds_nobody_up(
    rabbitmq: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    rabbitmq.control("set_vm_memory_high_watermark", "0.0000001")
    time.sleep(2)
    try:
        started = time.monotonic()
        publish([_NOBODYS])
        assert time.monotonic() - started < 20
        assert "the broker took no message" in caplog.text
        started = time.monotonic()
        (finding,) = [found for found in diagnose(count_workers) if found.part == "broker"]
        assert time.monotonic() - started < 10
        assert not finding.is_well
    finally:
        rabbitmq.control("set_vm_memory_high_watermark", "0.4")


def test_workers_are_counted_after_connections_were_closed(
    installation: Installation, rabbitmq: RabbitServer
) -> None:
    everybody = len([name for name in installation.names() if name.startswith("worker-")])
    for _ in range(2):
        wait_for(lambda: count_workers() == everybody, "all workers answer")
        rabbitmq.control("close_all_connections", "for a test")


def test_a_worker_that_lost_its_connection_works_on_and_takes_as_much_as_before(
    installation: Installation, rabbitmq: RabbitServer, guidelines: Path
) -> None:
    wait_for(lambda: set(_prefetch(rabbitmq)) == set(QUEUES), "all queues are read")
    before, server = _prefetch(rabbitmq), installation.ai_server
    assert before["analyze"] == get_settings().ai_processes
    server.behaviour.latency = 1.0
    job = submit(guidelines)
    wait_for(lambda: bool(server.seen.texts), "a chunk is at work")
    children = installation.children("worker-ai")
    rabbitmq.control("close_all_connections", "for a test")
    wait_for(lambda: _prefetch(rabbitmq) == before, "the same prefetch")
    server.behaviour.latency = 0.0
    wait_for(job.is_ended, "the end of the job")
    assert installation.children("worker-ai") == children
    assert count_repeats(server) == (0, 0)


def _prefetch(rabbitmq: RabbitServer) -> dict[str, int]:
    rows = rabbitmq.control(
        "list_consumers", "--no-table-headers", "queue_name", "prefetch_count"
    ).splitlines()
    return {name: int(count) for name, count in (row.split("\t") for row in rows) if name in QUEUES}


def test_queues_that_were_deleted_under_their_readers_are_made_anew(
    installation: Installation, connection: Connection, guidelines: Path
) -> None:
    job = submit(guidelines)
    job.wait_until(0.1)
    for name in (*QUEUES, DEAD_LETTERS.name):
        connection.default_channel.queue_delete(name)
    wait_for(job.is_ended, "the end of the job")
    installation.broker.queued()


def test_status_says_that_the_broker_is_there(installation: Installation, rabbitmq: RabbitServer) -> None:  # noqa: ARG001 - it must run
    url = f"http://127.0.0.1:{get_settings().port}/api/status"

    def is_well() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                body = json.load(answer)
        except OSError:
            return False
        return bool(body["broker"] == "ok" and body["workers"] == 3)

    wait_for(is_well, "the status is well", seconds=20)
