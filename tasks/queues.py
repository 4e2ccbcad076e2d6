"""The queues on RabbitMQ, and where it puts what no worker would keep; Redis and Valkey need none of this.

A dead letter was given back too often, or no task has its name. It is a hint like any other: the ledger
knows what is to be done, and nobody reads the queue but an admin who wants to know what was given back. So
anybody may purge or delete it at any time; a worker that connects makes it anew.
"""

from typing import Any

from celery import bootsteps
from kombu import Exchange, Queue

_DAY_MS = 24 * 3600 * 1000
_ARGUMENTS = {
    "x-queue-type": "quorum",
    # Far more than the ledger allows attempts: this is for what dies before it reaches the ledger.
    "x-delivery-limit": 100,
    # Else a chunk may hold its message for half an hour. Since RabbitMQ 3.12; before, it is the server's
    # consumer_timeout. A constant, as the arguments of a queue that exists cannot be changed.
    "x-consumer-timeout": _DAY_MS,
}
_DEAD = Exchange("opspipe.dead", type="topic")
DEAD_LETTERS = Queue(
    "dead",
    exchange=_DEAD,
    routing_key="#",
    # It is bounded by itself, as nobody has to look after it.
    queue_arguments={"x-queue-type": "quorum", "x-max-length": 10_000, "x-message-ttl": 7 * _DAY_MS},
)


def quorum_queue(name: str) -> Queue:
    """Describe a queue of work."""
    arguments: dict[str, object] = dict(_ARGUMENTS)
    # Beat's messages expire every few seconds while no worker runs: they would bury the dead letters.
    if name != "schedule":
        arguments["x-dead-letter-exchange"] = _DEAD.name
    return Queue(name, routing_key=name, queue_arguments=arguments)


class DeclareQueues(bootsteps.StartStopStep):
    """Declares all queues at each connection: a worker by itself declares those alone that it reads.

    Celery binds all of them for its delayed delivery, and complains of each that is not there.
    """

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, c: Any) -> None:  # noqa: ANN401 - Celery's consumer, which is untyped
        """Declare the queues, where the broker is RabbitMQ."""
        if c.connection.transport.driver_type == "amqp":
            with c.connection.channel() as channel:
                for queue in (*c.app.amqp.queues.values(), DEAD_LETTERS):
                    queue(channel).declare()
