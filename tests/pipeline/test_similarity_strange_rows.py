"""What other clients write to the same columns, and similarity must live with."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pipeline.database import get_engine, transaction
from pipeline.errors import InputError
from pipeline.ingest.submit import Submission
from pipeline.jobviews import view_job
from pipeline.projects import ProjectRef
from pipeline.similarity import (
    build_index,
    build_indexes,
    drop_indexes,
    find_pgvector,
    list_flags,
    nearest_records,
)
from pipeline.similarity.pgvector import Pgvector
from schemas.enums import JobStatus
from schemas.own import EmbeddingSpace
from tests.pipeline.vectors import store_vectors, write_embedding

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]

STRANGE = {
    "two dimensions, as many numbers": "array_fill(1::float8, ARRAY[4, 4])",
    "two dimensions": "'{{1,2},{3,4}}'",
    "three dimensions": "array_fill(1::float8, ARRAY[2, 2, 4])",
    "a null": "array_append(array_fill(1::float8, ARRAY[15]), NULL)",
    "not a number": "array_fill('NaN'::float8, ARRAY[16])",
    "infinite": "array_fill('-Infinity'::float8, ARRAY[16])",
    "beyond 32 bits": "array_fill(1e300::float8, ARRAY[16])",
    "whose squares are beyond 32 bits": "array_fill(-1e20::float8, ARRAY[16])",
    "zero": "array_fill(0::float8, ARRAY[16])",
    "as good as zero": "array_fill(1e-30::float8, ARRAY[16])",
}
WAYS = ("pgvector", "index", "numpy")


@pytest.fixture
def index(session: Session) -> Iterator[str]:
    """An index on vectors of sixteen numbers that is used whatever it costs."""
    pgvector = find_pgvector(session, dimensions=16)
    assert pgvector is not None
    session.commit()
    name = build_index(get_engine(), pgvector)
    yield name
    session.rollback()
    drop_indexes(get_engine())


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, session: Session, monkeypatch: pytest.MonkeyPatch) -> str:
    """One of the ways to find nearest records."""
    if request.param == "numpy":
        monkeypatch.setattr("pipeline.similarity.nearest.find_pgvector", lambda *_, **__: None)
    if request.param == "index":
        request.getfixturevalue("index")
        for kind in ("seqscan", "bitmapscan", "sort"):
            session.execute(text(f"SET enable_{kind} = off"))
    return str(request.param)


def texts(*entries: str, start: int = 0) -> str:
    """Make a file of one person's tasks."""
    lines = (f"{start + place},{entry},a@x.org\n" for place, entry in enumerate(entries))
    return "id,prompt,created_by_email\n" + "".join(lines)


@pytest.mark.parametrize("value", STRANGE.values(), ids=STRANGE)
@pytest.mark.usefixtures("way")
def test_what_no_vector_is_is_near_to_nothing(session: Session, project: ProjectRef, value: str) -> None:
    ids = store_vectors(session, project, np.random.default_rng(7).standard_normal((4, 16)))
    write_embedding(session, ids[2], value)
    assert {found.id for found in nearest_records(session, ids[0])} == {ids[1], ids[3]}
    with pytest.raises(InputError, match="no embedding to compare"):
        nearest_records(session, ids[2])


@pytest.mark.parametrize("value", STRANGE.values(), ids=STRANGE)
@pytest.mark.usefixtures("use_ai_server")
def test_what_no_vector_is_is_compared_with_nothing(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, value: str
) -> None:
    run_all(submit(texts("feed the cat", "feed the cat"), embed=True))
    (flag,) = list_flags(session, project.id)
    write_embedding(session, flag.record_id, value)
    session.execute(text("DELETE FROM similarity_flags"))
    session.commit()
    submission = submit(texts("feed the cat", start=5), embed=True)
    run_all(submission)
    assert view_job(session, submission.job_id).status == JobStatus.COMPLETED
    (flag_of_new,) = list_flags(session, project.id)
    assert flag_of_new.similar_id == flag.similar_id


def test_an_array_that_lost_its_null_is_a_vector(session: Session, project: ProjectRef) -> None:
    ids = store_vectors(session, project, np.eye(3) + 0.1)
    write_embedding(session, ids[1], "ARRAY[1, NULL, 2]")
    session.execute(text("UPDATE data_records SET embedding[2] = 1 WHERE id = :id"), {"id": ids[1]})
    assert {found.id for found in nearest_records(session, ids[0])} == {ids[1], ids[2]}


@pytest.mark.usefixtures("use_ai_server")
@pytest.mark.parametrize("moment", ["infinity", "-infinity", "20000-01-01 UTC", "4000-01-01 BC"])
def test_a_time_that_python_does_not_hold_is_before_or_after_all_others(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, moment: str
) -> None:
    run_all(submit(texts("feed the cat"), embed=True))
    old = session.scalar(text("SELECT id FROM data_records"))
    session.execute(text('UPDATE data_records SET "createdAt" = :moment'), {"moment": moment})
    session.commit()
    submission = submit(texts("feed the cat", start=5), embed=True)
    run_all(submission)
    assert view_job(session, submission.job_id).status == JobStatus.COMPLETED
    (flag,) = list_flags(session, project.id)
    is_first = moment.startswith("-") or moment.endswith("BC")
    assert (flag.similar_id if is_first else flag.record_id) == old
    assert (flag.similar_created_at.year if is_first else flag.created_at.year) == (1 if is_first else 9999)


@pytest.mark.usefixtures("use_ai_server")
def test_the_times_of_flags_are_those_of_their_records_whatever_the_sessions_time_zone(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll
) -> None:
    run_all(submit(texts("feed the cat", "feed the cat"), embed=True))
    stored = session.scalars(text('SELECT "createdAt" FROM data_records')).all()
    session.execute(text("SET LOCAL TIME ZONE 'America/New_York'"))
    (flag,) = list_flags(session, project.id)
    assert sorted((flag.created_at, flag.similar_created_at)) == sorted(stored)


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("value", STRANGE.values(), ids=STRANGE)
def test_other_clients_write_what_they_like_to_an_indexed_column(
    session: Session, project: ProjectRef, value: str
) -> None:
    ids = store_vectors(session, project, np.ones((1, 16)))
    write_embedding(session, ids[0], value)
    assert session.scalar(text("SELECT count(*) FROM data_records")) == 1


def test_an_index_is_made_whatever_rows_there_are(session: Session, project: ProjectRef) -> None:
    ids = store_vectors(session, project, np.random.default_rng(7).standard_normal((14, 16)))
    for record_id, value in zip(ids[4:], STRANGE.values(), strict=True):
        write_embedding(session, record_id, value)
    session.add(EmbeddingSpace(project_id=project.id, model="any", dimensions=16))
    session.commit()
    try:
        assert build_indexes(get_engine()).made == ["idx_record_embedding_16"]
        assert {found.id for found in nearest_records(session, ids[0])} == set(ids[1:4])
    finally:
        session.rollback()
        drop_indexes(get_engine())


def test_an_index_that_could_not_be_made_leaves_nothing(
    session: Session, project: ProjectRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_vectors(session, project, np.empty((1, 0)))
    monkeypatch.setattr(Pgvector, "takes", lambda *_: "1 / cardinality(embedding) = 1")
    pgvector = find_pgvector(session, dimensions=16)
    assert pgvector is not None
    session.commit()
    with pytest.raises(DBAPIError, match="division by zero"):
        build_index(get_engine(), pgvector)
    assert drop_indexes(get_engine()) == []


def test_vectors_too_long_for_an_index_do_not_keep_others_from_theirs(
    session: Session, project: ProjectRef
) -> None:
    with transaction() as other:
        other.execute(
            text("INSERT INTO projects (id, name) VALUES ('longer', 'longer'), ('longest', 'longest')")
        )
    for project_id, dimensions in ((project.id, 16), ("longer", 2_001), ("longest", 16_001)):
        session.add(EmbeddingSpace(project_id=project_id, model="any", dimensions=dimensions))
    session.commit()
    try:
        indexes = build_indexes(get_engine())
        assert indexes.made == ["idx_record_embedding_16"]
        assert ["2001 dimensions" in indexes.not_made[0], "16001 dimensions" in indexes.not_made[1]] == [
            True
        ] * 2
    finally:
        assert drop_indexes(get_engine()) == ["idx_record_embedding_16"]
