"""Tasks of the schedule queue: what beat_schedule.py names."""

from datetime import UTC, datetime

from pipeline.bonus import refresh_open_windows
from pipeline.database import transaction
from pipeline.sweeper import sweep as sweep_ledger
from tasks.app import app
from tasks.publish import publish


@app.task(name="schedule.sweep")
def sweep() -> None:
    """Publish what nobody is working on."""
    publish(sweep_ledger())


@app.task(name="schedule.aggregate_bonus_windows")
def aggregate_bonus_windows() -> None:
    """Recount the open bonus windows and freeze those that ended a day ago."""
    with transaction() as session:
        refresh_open_windows(session, now=datetime.now(UTC))
