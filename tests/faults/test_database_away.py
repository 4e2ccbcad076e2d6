"""PostgreSQL crashes at the worst moment for what a model is paid for, and nothing is paid for twice."""

import signal
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.orm import Session

from tests.faults.guarded import wait_for
from tests.faults.installation import Installation
from tests.faults.job import check_everything, count_repeats, submit
from tests.faults.observer import Observer


def _crash_when(installation: Installation, has_begun: Callable[[], bool], what: str) -> None:
    """Have PostgreSQL crash before the log of what nobody waited for is on the disk."""
    server = installation.database.process()
    wait_for(has_begun, what, pause=0.001)
    server.send_signal(signal.SIGQUIT)
    installation.wait_for_servers()


def test_a_crash_forgets_no_claim_on_what_is_paid_for(
    installation: Installation, session: Session, guidelines: Path
) -> None:
    seen, behaviour = installation.ai_server.seen, installation.ai_server.behaviour
    with Observer(installation) as observer:
        # So that whoever has the chunk is still at it when the database is back.
        behaviour.latency = 0.5
        job = submit(guidelines)
        _crash_when(installation, lambda: bool(seen.texts), "a text is embedded")
        _crash_when(installation, lambda: seen.chats > 0, "a record is analyzed")
        behaviour.latency = 0.0
        wait_for(job.is_ended, "the end of the job", seconds=90)
    # Without its claim, what an analysis has found would be there and not be counted.
    observer.check()
    check_everything(session, job)
    assert count_repeats(installation.ai_server) == (0, 0)
