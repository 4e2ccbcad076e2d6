"""Records with given vectors, for the tests of similarity."""

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert, text
from sqlalchemy.orm import Session

from pipeline.ids import new_cuid
from pipeline.projects import ProjectRef
from schemas.reference import DataRecord


def store_vectors(
    session: Session, project: ProjectRef, vectors: NDArray[np.float64], **values: object
) -> list[str]:
    """Store a record for each vector, with the given values of columns; gives their ids."""
    ids = [new_cuid() for _ in vectors]
    session.execute(
        insert(DataRecord),
        [
            {
                "id": record_id,
                "project_id": project.id,
                "type": "TASK",
                "source": "test",
                "content": f"record {place}",
                "embedding": vector.tolist(),
            }
            | values
            for place, (record_id, vector) in enumerate(zip(ids, vectors, strict=True))
        ],
    )
    session.commit()
    return ids


def write_embedding(session: Session, record_id: str, value: str) -> None:
    """Give a record an embedding as another client may, by SQL."""
    session.execute(
        text(f"UPDATE data_records SET embedding = {value} WHERE id = :id"),  # noqa: S608 - the test's own
        {"id": record_id},
    )
    session.commit()
