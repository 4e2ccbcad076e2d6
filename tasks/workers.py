"""Asking the workers whether they are there."""

from tasks.app import app

_PING_SECONDS = 1.0


def count_workers() -> int:
    """Count the workers that answer within a second."""
    return len(app.control.ping(timeout=_PING_SECONDS))
