"""A database that is away for a while: what was paid for is waited with, and no lease ends meanwhile."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from pipeline import database, ledger
from pipeline.database import retried, transaction
from pipeline.errors import TransientError
from pipeline.ingest.submit import Submission
from pipeline.lease import LeaseKeeper
from pipeline.ledger import Claim, conditions
from pipeline.runner import run_chunk
from pipeline.sweeper import sweep

_HERE = conditions.back_since
_CSV = "prompt\nwrite a story\n"


class Outage:
    """Raises what the database does while it is away, so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def look(self) -> None:
        if self.left:
            self.left -= 1
            raise OperationalError("", None, psycopg.OperationalError("connection refused"))


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.database._FIRST_PAUSE_SECONDS", 0.0)


@pytest.fixture
def held(submit: Callable[..., Submission]) -> Claim:
    with transaction() as session:
        claim = ledger.claim(session, submit(_CSV).plan, worker="first", lease_seconds=15)
    assert claim is not None
    return claim


def _be_back_since(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(conditions, "back_since", lambda: func.now() - timedelta(seconds=seconds))


@pytest.mark.usefixtures("no_pauses")
def test_what_is_dear_waits_until_the_database_is_back() -> None:
    outage, done = Outage(1000), []

    def work() -> str:
        with database.translate_errors():
            outage.look()
        done.append(True)
        return "done"

    assert retried(work) == "done"
    assert done == [True]


@pytest.mark.usefixtures("no_pauses")
def test_what_is_dear_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 0.05)

    def work() -> None:
        raise TransientError("connection refused")

    with pytest.raises(TransientError, match="connection refused"):
        retried(work)


@pytest.mark.usefixtures("no_pauses")
def test_whether_a_commit_was_done_is_asked_when_the_database_is_back(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {}
    for end in ("commit", "rollback"):
        numbers[end] = session.scalar(database._NUMBER)
        getattr(session, end)()
    engine, outage = database.get_engine(), Outage(5)

    def connect() -> Engine:
        outage.look()
        return engine

    monkeypatch.setattr(database, "get_engine", connect)
    assert database._is_committed(numbers["commit"])
    assert not outage.left
    assert not database._is_committed(numbers["rollback"])


def test_a_commit_whose_number_a_crash_has_forgotten_was_not_done(session: Session) -> None:
    number = session.scalar(database._NUMBER)
    session.rollback()
    assert not database._is_committed(str(int(number) + 1_000_000))


def test_a_lease_that_ended_while_the_database_was_away_begins_anew(
    session: Session, held: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.execute(text("UPDATE work_chunks SET leased_until = now() - interval '1 h'"))
    session.commit()
    _be_back_since(monkeypatch, 14)
    assert sweep() == []
    with transaction() as opened:
        assert ledger.claim(opened, held.ref, worker="second", lease_seconds=15) is None
        assert ledger.renew(opened, held, lease_seconds=15)
    session.execute(text("UPDATE work_chunks SET leased_until = now() - interval '1 h'"))
    session.commit()
    _be_back_since(monkeypatch, 16)
    assert sweep() == [held.ref]
    assert run_chunk(held.ref)


def test_a_stopping_job_waits_for_who_works_on_when_the_database_is_back(
    session: Session, held: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.begin_stop(session, held.ref.job_id, "the key is refused")
    session.execute(text("UPDATE work_chunks SET leased_until = now() - interval '1 h'"))
    _be_back_since(monkeypatch, 1)
    assert ledger.stop_reason(session, held.ref.job_id) is None
    _be_back_since(monkeypatch, 16)
    assert ledger.stop_reason(session, held.ref.job_id) == "the key is refused"


def test_a_database_is_back_when_it_takes_connections_and_any_role_may_ask(session: Session) -> None:
    started = session.scalar(text("SELECT pg_postmaster_start_time()"))
    back = session.scalar(select(_HERE()))
    assert started < back < datetime.now(UTC)
    session.execute(text("CREATE ROLE nobody_special; SET LOCAL ROLE nobody_special"))
    assert session.scalar(select(_HERE())) == started
    session.rollback()


def test_a_renewal_that_failed_is_tried_again_sooner(
    held: Claim, monkeypatch: pytest.MonkeyPatch, wait: Callable[..., None]
) -> None:
    outage, renew, tried_at = Outage(1), ledger.renew, list[float]()

    def stumble(session: Session, claim: Claim, *, lease_seconds: float) -> bool:
        tried_at.append(time.monotonic())
        outage.look()
        return renew(session, claim, lease_seconds=lease_seconds)

    monkeypatch.setattr(ledger, "renew", stumble)
    monkeypatch.setattr("pipeline.lease._TRY_AGAIN_SECONDS", 0.01)
    with LeaseKeeper(held, lease_seconds=6):
        wait(lambda: len(tried_at) > 1, what="the second try")
    assert tried_at[1] - tried_at[0] < 1
