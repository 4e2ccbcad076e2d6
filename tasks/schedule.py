"""Tasks of the schedule queue: what beat_schedule.py names."""

import logging
from datetime import UTC, datetime

from pipeline import upkeep
from pipeline.bonus import refresh_open_windows
from pipeline.database import transaction
from pipeline.removal import remove_batches, take_lost_removals
from pipeline.sweeper import sweep as sweep_ledger
from tasks.app import app
from tasks.publish import publish, publish_removals

log = logging.getLogger(__name__)

# Other tasks of the queue run between two such spells.
_REMOVAL_SECONDS = 2.0


@app.task(name="schedule.sweep")
def sweep() -> None:
    """Publish what nobody is working on."""
    publish(sweep_ledger())
    with transaction() as session:
        lost = take_lost_removals(session)
    publish_removals(lost)


@app.task(name="schedule.remove_job")
def remove_job(job_id: str) -> None:
    """Remove records of a deleted job for a while, and publish the rest."""
    if not remove_batches(job_id, seconds=_REMOVAL_SECONDS).is_over:
        publish_removals([job_id])


@app.task(name="schedule.tidy")
def tidy() -> None:
    """Remove what nobody needs any more."""
    log.info("%s", upkeep.tidy(datetime.now(UTC)))


@app.task(name="schedule.aggregate_bonus_windows")
def aggregate_bonus_windows() -> None:
    """Recount the open bonus windows and freeze those that ended a day ago."""
    with transaction() as session:
        refresh_open_windows(session, now=datetime.now(UTC))
