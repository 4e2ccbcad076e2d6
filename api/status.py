"""`GET /api/status`: whether the parts are there. Open to everybody, so it tells nothing else."""

from datetime import UTC, datetime

from flask import Blueprint

from api.openapi import answers
from pipeline.database import read
from pipeline.errors import PipelineError
from schemas.bodies import StatusAnswer
from tasks.workers import WorkerCount

blueprint = Blueprint("status", __name__)
_workers = WorkerCount()


@blueprint.get("/api/status")
@answers(StatusAnswer, also={503: StatusAnswer})
def status() -> tuple[StatusAnswer, int]:
    """Answer 200 where database and broker answer, 503 where one does not."""
    database, (broker, workers) = _database_answers(), _broker_answers()
    is_up = database and broker
    body = StatusAnswer(
        status="ok" if is_up else "down",
        database="ok" if database else "down",
        broker="ok" if broker else "down",
        workers=workers,
        timestamp=datetime.now(UTC),
    )
    return body, 200 if is_up else 503


def _database_answers() -> bool:
    try:
        read(lambda connection: connection.execute("SELECT 1"))
    except PipelineError:
        return False
    return True


def _broker_answers() -> tuple[bool, int]:
    try:
        return True, _workers.read()
    except OSError:  # kombu's connection errors are kinds of it
        return False, 0
