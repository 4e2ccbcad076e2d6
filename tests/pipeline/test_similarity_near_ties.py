"""Vectors nearer to each other than 32 bits tell, by pgvector, with an index and without, and by numpy."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import get_engine
from pipeline.projects import ProjectRef
from pipeline.similarity import build_index, drop_indexes, find_pgvector, nearest_records
from tests.pipeline.vectors import store_vectors

DIMENSIONS = 384


@pytest.fixture(params=["pgvector", "index", "numpy"])
def way(request: pytest.FixtureRequest, session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One of the ways to find nearest records."""
    if request.param == "numpy":
        monkeypatch.setattr("pipeline.similarity.nearest.find_pgvector", lambda *_, **__: None)
    if request.param == "index":
        pgvector = find_pgvector(session, dimensions=DIMENSIONS)
        assert pgvector is not None
        session.commit()
        build_index(get_engine(), pgvector)
        for kind in ("seqscan", "bitmapscan", "sort"):
            session.execute(text(f"SET enable_{kind} = off"))
    yield str(request.param)
    session.rollback()
    drop_indexes(get_engine())


def around(first: NDArray[np.float64], distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make a vector at each cosine distance of one, in a direction and of a length of its own."""
    random = np.random.default_rng(5)
    aside = random.standard_normal((len(distances), len(first)))
    aside -= np.outer(aside @ first, first)
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    cosines = 1 - distances[:, np.newaxis]
    vectors = cosines * first + np.sqrt(1 - cosines**2) * aside
    return np.asarray(vectors * random.uniform(0.1, 9, (len(distances), 1)))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("distance", [1e-9, 0.2])
def test_the_nearest_of_many_almost_as_near_are_those_of_brute_force(
    session: Session, project: ProjectRef, distance: float
) -> None:
    random = np.random.default_rng(1)
    first = random.standard_normal(DIMENSIONS)
    first /= np.linalg.norm(first)
    apart = random.permutation(300)
    vectors = around(first, distance + 1e-9 * apart)
    ids = store_vectors(session, project, np.vstack([first, vectors]))
    wanted = [ids[1 + int(place)] for place in np.argsort(apart)[:5]]
    found = nearest_records(session, ids[0], limit=5)
    assert [neighbour.id for neighbour in found] == wanted
    assert np.allclose(
        [neighbour.similarity for neighbour in found], 1 - distance - 1e-9 * np.arange(5), atol=1e-12
    )


@pytest.mark.usefixtures("way")
def test_of_many_equally_near_those_with_the_first_ids_are_given(
    session: Session, project: ProjectRef
) -> None:
    first = np.random.default_rng(1).standard_normal(DIMENSIONS)
    ids = store_vectors(session, project, np.tile(first, (204, 1)))
    found = nearest_records(session, ids[-1], limit=7)
    assert [neighbour.id for neighbour in found] == sorted(ids[:-1])[:7]
    assert [neighbour.id for neighbour in nearest_records(session, ids[0], limit=500)] == sorted(ids[1:])


@pytest.mark.usefixtures("way")
def test_what_is_well_apart_is_computed_once(
    session: Session, project: ProjectRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    stream = __import__("pipeline.similarity.nearest", fromlist=["stream_embeddings"]).stream_embeddings
    monkeypatch.setattr(
        "pipeline.similarity.nearest.stream_embeddings",
        lambda opened, query, *rest, **named: asked.append(query) or stream(opened, query, *rest, **named),
    )
    first = np.eye(DIMENSIONS)[0]
    ids = store_vectors(session, project, np.vstack([first, around(first, np.arange(1, 300) / 300)]))
    assert [found.id for found in nearest_records(session, ids[0], limit=9)] == ids[1:10]
    assert len(asked) == 1
