"""Whatever breaks at whatever moment: nothing is lost or doubled, and what is told meanwhile is true."""

from pathlib import Path
from random import Random

import pytest
from sqlalchemy.orm import Session

from tests.faults.faults import FROM_THE_START, SUDDEN, Cost
from tests.faults.guarded import wait_for
from tests.faults.installation import Installation
from tests.faults.job import (
    BATCH,
    CALLS_A_CHUNK,
    check_everything,
    check_messages,
    count_repeats,
    submit,
)
from tests.faults.observer import Observer


@pytest.mark.parametrize("fault", ["nothing", *FROM_THE_START, *SUDDEN])
def test_a_job_comes_to_its_whole_end(
    installation: Installation, session: Session, guidelines: Path, fault: str, seed: int
) -> None:
    rng, cost = Random(f"{fault} {seed}"), Cost()
    with Observer(installation) as observer:
        if fault in FROM_THE_START:
            cost = FROM_THE_START[fault](installation, rng)
        job = submit(guidelines)
        if fault in SUDDEN:
            job.wait_until(rng.uniform(0.0, 0.95))
            cost = SUDDEN[fault](installation, rng)
            installation.wait_for_servers()
        wait_for(job.is_ended, "the end of the job", seconds=90)
    installation.end()
    observer.check()
    check_everything(session, job)
    check_messages(installation)
    texts, questions = count_repeats(installation.ai_server)
    assert texts <= (cost.chunks * CALLS_A_CHUNK + cost.calls) * BATCH
    assert questions <= cost.chunks * BATCH + cost.calls
