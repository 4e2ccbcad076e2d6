"""Messages for chunks: in which order workers get them, and how many a small job needs."""

import io
from collections.abc import Callable

import pytest
from kombu import Queue
from redis import Redis
from sqlalchemy.orm import Session

from pipeline.database import transaction
from pipeline.ingest.submit import submit_csv
from pipeline.jobviews import view_job
from pipeline.ledger import PLAN, ChunkRef
from pipeline.projects import ensure_project
from pipeline.servers import endpoints
from schemas.enums import JobStatus, RecordType, Stage
from schemas.options import IngestOptions
from tasks import app, publish
from tasks.ingest import plan


@pytest.fixture
def received(empty_database: None) -> Callable[[], list[tuple[str, int]]]:  # noqa: ARG001 - it must run
    """Take all messages of the ingest queue, from an empty one on: job and chunk number, in order."""
    with Redis.from_url(endpoints().broker_url) as broker:
        broker.flushall()

    def receive() -> list[tuple[str, int]]:
        found = []
        with app.connection_for_read() as connection:
            queue = Queue("ingest")(connection.default_channel)
            while (message := queue.get(no_ack=True)) is not None:
                job_id, *number = message.payload[0]
                found.append((job_id, number[0] if number else PLAN))
        return found

    return receive


def test_a_small_job_comes_before_what_is_left_of_a_large_one(
    received: Callable[[], list[tuple[str, int]]],
) -> None:
    publish(ChunkRef("large", Stage.LOAD, number) for number in (4, 5, 6, 7))
    publish([ChunkRef("small", Stage.LOAD, 1), ChunkRef("new", Stage.LOAD, PLAN)])
    assert received() == [
        ("large", 4),
        ("small", 1),
        ("new", PLAN),
        ("large", 5),
        ("large", 6),
        ("large", 7),
    ]


def test_who_plans_a_small_job_loads_it_too(
    session: Session, received: Callable[[], list[tuple[str, int]]]
) -> None:
    project = ensure_project(session, "demo")
    session.commit()
    submission = submit_csv(
        project.id,
        io.BytesIO(b"prompt\nwrite a story about a whale\n"),
        file_name="batch.csv",
        options=IngestOptions(record_type=RecordType.TASK, embed=False),
    )
    plan(submission.job_id)
    with transaction() as opened:
        assert view_job(opened, submission.job_id).status is JobStatus.COMPLETED
    assert received() == []
