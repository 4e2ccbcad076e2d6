"""One active analysis a project: whoever starts at the same moment, the database lets one through."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.analyze import AnalysisStart, start_analysis
from pipeline.database import get_engine, transaction
from pipeline.errors import ConflictError
from pipeline.jobs import cancel_job
from pipeline.projects import ProjectRef
from schemas.options import AnalysisOptions
from tests.pipeline.analyses import number_of

Wait = Callable[..., None]

_WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


def _start(project: ProjectRef) -> AnalysisStart:
    with transaction() as session:
        return start_analysis(session, project.id, AnalysisOptions())


def _is_anybody_waiting() -> bool:
    with get_engine().connect() as connection:
        return bool(connection.scalar(_WAITING))


@contextmanager
def _second_start(project: ProjectRef, wait: Wait) -> Iterator[Future[AnalysisStart]]:
    """Start a second analysis at the side, and go on once it waits for the first."""
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(_start, project)
        wait(_is_anybody_waiting, what="the second start waiting for the first")
        yield second


def test_of_many_that_start_at_once_one_wins_and_the_others_are_told_which(
    session: Session, guided: ProjectRef
) -> None:
    together = threading.Barrier(8)

    def start() -> AnalysisStart | ConflictError:
        together.wait()
        try:
            return _start(guided)
        except ConflictError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        found = [future.result() for future in [pool.submit(start) for _ in range(8)]]
    winners = [entry for entry in found if isinstance(entry, AnalysisStart)]
    refused = [entry for entry in found if isinstance(entry, ConflictError)]
    assert (len(winners), len(refused)) == (1, 7)
    for error in refused:
        assert error.job_id == winners[0].job_id
        assert winners[0].job_id in str(error)
    for table in ("analytics_jobs", "work_jobs", "work_stages"):
        assert number_of(session, table) == 1


def test_a_start_waits_for_one_that_is_not_committed_yet_and_is_refused_after_it(
    session: Session, guided: ProjectRef, wait: Wait
) -> None:
    first = start_analysis(session, guided.id, AnalysisOptions())
    with _second_start(guided, wait) as second:
        session.commit()
        with pytest.raises(ConflictError, match=first.job_id) as refused:
            second.result()
    assert refused.value.job_id == first.job_id


def test_a_start_that_waited_for_one_that_came_to_nothing_wins(
    session: Session, guided: ProjectRef, wait: Wait
) -> None:
    start_analysis(session, guided.id, AnalysisOptions())
    with _second_start(guided, wait) as second:
        session.rollback()
        won = second.result()
    assert number_of(session, "analytics_jobs") == 1
    assert number_of(session, f"analytics_jobs WHERE id = '{won.job_id}'") == 1


def test_a_start_after_one_that_ended_at_this_moment_wins(
    guided: ProjectRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _start(guided)
    asked: list[str | None] = []

    def _active(session: Session, project_id: str) -> str | None:
        if not asked:
            with transaction() as other:
                cancel_job(other, first.job_id)
        asked.append(look(session, project_id))
        return asked[-1]

    from pipeline.analyze import start as module  # noqa: PLC0415 - the module, not the function beside it

    look = module._active_analysis
    monkeypatch.setattr(module, "_active_analysis", _active)
    assert _start(guided).job_id != first.job_id
    assert asked == [None]


def test_another_project_is_analyzed_at_the_same_time(session: Session, guided: ProjectRef) -> None:
    session.execute(
        text(
            "INSERT INTO projects (id, name, guidelines) "
            "SELECT 'another', 'another', guidelines FROM projects"
        )
    )
    session.commit()
    assert _start(guided).job_id != _start(ProjectRef("another", "another")).job_id
