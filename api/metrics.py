"""`GET /metrics`: figures for Prometheus, if OPSPIPE_METRICS allows it. They name no project and nobody."""

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from werkzeug.exceptions import NotFound

from pipeline.database import transaction
from pipeline.figures import Figures, read_figures
from pipeline.settings import get_settings

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
def metrics() -> Response:
    """Answer with jobs, chunks and records by state."""
    if not get_settings().metrics:
        raise NotFound("there are no metrics here: OPSPIPE_METRICS=true allows them")
    with transaction() as session:
        figures = read_figures(session)
    return Response(_write(figures), content_type=CONTENT_TYPE_LATEST)


def _write(figures: Figures) -> bytes:
    registry = CollectorRegistry()
    jobs = Gauge("opspipe_jobs", "Jobs by kind and status.", ("kind", "status"), registry=registry)
    for (kind, status), count in figures.jobs.items():
        jobs.labels(kind, status).set(count)
    chunks = Gauge(
        "opspipe_chunks", "Unfinished chunks by stage and state.", ("stage", "state"), registry=registry
    )
    for (stage, state), count in figures.chunks.items():
        chunks.labels(stage, state).set(count)
    waiting = Gauge(
        "opspipe_oldest_waiting_seconds",
        "How long the chunk that waits longest has waited since it was published, by stage.",
        ("stage",),
        registry=registry,
    )
    for stage, seconds in figures.oldest_waiting.items():
        waiting.labels(stage).set(seconds)
    paused = Gauge("opspipe_ai_servers_paused", "AI servers that nobody calls for now.", registry=registry)
    paused.set(figures.paused_servers)
    return generate_latest(registry)
