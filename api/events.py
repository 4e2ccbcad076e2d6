"""`/api/ingest/jobs/<id>/events`: a job's status at each change, as Server-Sent Events."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

from flask import Blueprint, Response
from werkzeug.exceptions import TooManyRequests

from api.jobs import find_job, status_body
from pipeline.database import transaction
from pipeline.watching import TooManyError, Watch, Watched

blueprint = Blueprint("events", __name__, url_prefix="/api/ingest")

# Each listener holds a thread of the web server; the others are for everybody else.
_MOST_LISTENERS = 32
# A line to who has heard nothing for so long: only writing tells that a listener is gone.
_QUIET_SECONDS = 15.0


def _look(job_id: str) -> tuple[str, bool]:
    with transaction() as session:
        view = find_job(session, job_id)
    return status_body(view).model_dump_json(), view.is_ended


_watch = Watch(_look, most=_MOST_LISTENERS)


@blueprint.get("/jobs/<job_id>/events")
def events(job_id: str) -> Response:
    """Answer with the job's status now and at each change, until it has ended."""
    with transaction() as session:
        job_id = find_job(session, job_id).id
    stack = ExitStack()
    try:
        watched = stack.enter_context(_watch.watching(job_id))
    except TooManyError as error:
        raise TooManyRequests(str(error), retry_after=60) from error
    response = Response(_tell(watched), content_type="text/event-stream")
    # Whatever becomes of the answer, also where nothing of it was ever read.
    response.call_on_close(stack.close)
    # A proxy before us would collect what is told now.
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _tell(watched: Watched) -> Iterator[str]:
    number, told_at = 0, time.monotonic()
    while True:
        seen = watched.wait(number, _QUIET_SECONDS)
        if seen is not None:
            number, told_at = seen.number, time.monotonic()
            yield f"id: {number}\nevent: status\ndata: {seen.text}\n\n"
            if seen.is_last:
                return
        elif watched.is_over():
            yield "event: gone\ndata: {}\n\n"
            return
        elif time.monotonic() - told_at >= _QUIET_SECONDS:
            told_at = time.monotonic()
            yield ": nothing new\n\n"
