"""Writing embeddings back: each number as the model gave it, whatever way it takes to the database."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.embeddings import digest_text
from pipeline.pgarrays import takes_vectors
from pipeline.projects import ensure_project
from pipeline.vectorize.write import Origin, write_embeddings

# Both ways meet numbers that 32 bits cannot hold, the smallest and the largest that they can.
NUMBERS = [0.1, 1 / 3, -1e-45, 3.4e38, 1.0, -0.0]


@pytest.fixture
def origins(session: Session) -> list[Origin]:
    """Three records without embedding."""
    project_id = ensure_project(session, "write").id
    rows = session.execute(
        text(
            'INSERT INTO data_records (id, "projectId", type, source, content) '
            "SELECT 'record' || number, :project_id, 'TASK', 'test', 'text ' || number "
            "FROM generate_series(1, 3) AS number RETURNING id, content, xmin::text AS version"
        ),
        {"project_id": project_id},
    ).all()
    return [Origin(row.id, int(row.version), digest_text("embedder", row.content)) for row in rows]


def _write(session: Session, origins: list[Origin], vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    assert write_embeddings(session, origins, list(vectors), maker="embedder") == set()
    return np.array(session.scalars(text("SELECT embedding FROM data_records ORDER BY id")).all())


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("has_pgvector", [True, False])
def test_every_number_is_stored_with_all_of_its_bits(
    session: Session, origins: list[Origin], monkeypatch: pytest.MonkeyPatch, bits: int, *, has_pgvector: bool
) -> None:
    if not has_pgvector:
        monkeypatch.setattr("pipeline.vectorize.write.takes_vectors", lambda _cursor: None)
    vectors = np.array([np.roll(NUMBERS, shift) for shift in range(3)], dtype=f"f{bits // 8}")
    found = _write(session, origins, vectors)
    assert found.tobytes() == vectors.astype(np.float64).tobytes()


def test_vectors_longer_than_pgvector_takes_are_stored_too(session: Session, origins: list[Origin]) -> None:
    vectors = np.arange(3 * 16_001, dtype=np.float32).reshape(3, -1)
    assert np.array_equal(_write(session, origins, vectors), vectors)


def test_a_database_without_pgvector_has_no_type_of_vectors(session: Session) -> None:
    connection = session.connection().connection.driver_connection
    assert connection is not None
    with connection.cursor() as cursor:
        kind = takes_vectors(cursor)
        assert kind is not None
        cursor.execute("SELECT 'vector'::regtype::oid, 'vector[]'::regtype::oid")
        assert cursor.fetchone() == kind
        cursor.execute("DROP EXTENSION vector CASCADE")
        assert takes_vectors(cursor) is None
    session.rollback()
