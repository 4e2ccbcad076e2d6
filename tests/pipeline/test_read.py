"""Questions by the driver alone: each by itself, and again where the connection was closed since."""

from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import read
from pipeline.errors import TransientError
from pipeline.jobviews import view_jobs
from schemas.enums import JobKind


def pid(connection: psycopg.Connection[Any]) -> int:
    assert connection.autocommit
    return connection.info.backend_pid


def cut(session: Session, process: int) -> None:
    """Close a connection from the other side, and wait until it is."""
    session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": process})
    session.rollback()


def test_a_connection_that_was_closed_meanwhile_is_not_noticed(session: Session) -> None:
    before = read(pid)
    cut(session, before)
    assert read(lambda connection: connection.execute("SELECT 7").fetchone()) == (7,)
    assert read(pid) != before


def test_one_that_is_closed_each_time_may_be_tried_again_later(session: Session) -> None:
    def ask(connection: psycopg.Connection[Any]) -> object:
        cut(session, connection.info.backend_pid)
        return connection.execute("SELECT 7").fetchone()

    with pytest.raises(TransientError, match="the database did not answer"):
        read(ask)
    assert read(lambda connection: connection.execute("SELECT 7").fetchone()) == (7,)


def test_a_wrong_question_is_told_and_the_connection_kept(session: Session) -> None:  # noqa: ARG001 - its database
    before = read(pid)
    with pytest.raises(psycopg.errors.UndefinedTable):
        read(lambda connection: connection.execute("SELECT FROM nowhere"))
    assert read(pid) == before


def test_what_was_not_committed_is_not_seen(session: Session) -> None:
    session.execute(
        text("""
        INSERT INTO projects (id, name) VALUES ('p', 'p');
        INSERT INTO ingest_jobs (id, "projectId", type) VALUES ('j', 'p', 'TASK')
    """)
    )
    assert [view.id for view in view_jobs(session, JobKind.INGEST)] == ["j"]
    assert read(lambda connection: view_jobs(connection, JobKind.INGEST)) == []
    session.commit()
    (found,) = read(lambda connection: view_jobs(connection, JobKind.INGEST, ids=["j"]))
    assert found == view_jobs(session, JobKind.INGEST, project_id="p")[0]
