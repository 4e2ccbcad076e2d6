"""Packed arrays arrive as PostgreSQL itself would have made them."""

from uuid import UUID, uuid4

import numpy as np
import pytest
from sqlalchemy.orm import Session

from pipeline.database import driver_connection
from pipeline.pgarrays import PackedArray, pack_doubles, pack_smallints, pack_texts, pack_uuids, takes_packed

IDS = [uuid4(), UUID(int=0)]
TEXTS = ["", "plain", 'with "quotes", {braces} and \\', "日本 🎉"]
SMALL = [1, -(2**15), 2**15 - 1]
NUMBERS = [0.1, -1e300, 5e-324, 3.0]


@pytest.mark.parametrize(
    ("packed", "kind", "expected"),
    [
        (pack_texts(TEXTS), "text[]", TEXTS),
        (pack_texts([]), "text[]", []),
        (pack_uuids([entry.bytes for entry in IDS]), "uuid[]", IDS),
        (pack_uuids([]), "uuid[]", []),
        (pack_smallints(SMALL), "smallint[]", SMALL),
        (pack_smallints([]), "smallint[]", []),
        (pack_doubles(np.array(NUMBERS).reshape(2, 2)), "double precision[]", NUMBERS),
        (
            pack_doubles(np.array([0.5, 0.1], dtype=np.float32)),
            "double precision[]",
            [0.5, float(np.float32(0.1))],
        ),
        (pack_doubles(np.empty((0, 8))), "double precision[]", []),
    ],
)
def test_a_packed_array_is_the_array(
    session: Session, packed: PackedArray, kind: str, expected: list[object]
) -> None:
    with takes_packed(driver_connection(session).cursor()) as cursor:
        cursor.execute(f"SELECT %b::{kind}, pg_typeof(%b)::text, cardinality(%b)", (packed, packed, packed))
        assert cursor.fetchone() == (expected, kind, len(expected))
