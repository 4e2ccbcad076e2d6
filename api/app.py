"""The Flask application: routes put together."""

from flask import Flask

from api.access import register_access
from api.admin import blueprint as admin
from api.ai import blueprint as ai
from api.analytics import blueprint as analytics
from api.bonus import blueprint as bonus
from api.errors import register_errors
from api.events import blueprint as events
from api.failures import blueprint as failures
from api.guard import register_guard
from api.ingest import blueprint as ingest
from api.jobs import blueprint as jobs
from api.metrics import blueprint as metrics
from api.openapi import blueprint as docs
from api.projects import blueprint as projects
from api.records import blueprint as records
from api.requests import register_requests
from api.similarity import blueprint as similarity
from api.status import blueprint as status
from api.tus import blueprint as tus

_BLUEPRINTS = (
    status,
    metrics,
    docs,
    projects,
    ingest,
    tus,
    jobs,
    events,
    failures,
    analytics,
    records,
    similarity,
    ai,
    bonus,
    admin,
)
# Of bodies that are read whole; the largest is a PDF of guidelines as base64. Files have their own bound.
_BODY_BYTES = 70 * 1024 * 1024


def create_app() -> Flask:
    """Make the WSGI application."""
    app = Flask("api", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _BODY_BYTES
    register_requests(app)
    register_guard(app)
    register_access(app)
    register_errors(app)
    for blueprint in _BLUEPRINTS:
        app.register_blueprint(blueprint)
    return app
