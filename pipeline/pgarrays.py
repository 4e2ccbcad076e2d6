"""Arrays in PostgreSQL's binary format, packed at once where the driver would take some µs for each element.

The format: array_recv in src/backend/utils/adt/arrayfuncs.c; of the elements: the receive functions of their
types, also pgvector's vector_recv.
"""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from psycopg import Cursor
from psycopg.adapt import Dumper
from psycopg.pq import Format

# Number of dimensions, whether it has nulls, the elements' type; then the only dimension and its first index.
_START = struct.Struct(">iiIii").pack
_NOTHING = struct.Struct(">iiI").pack
_LENGTH = struct.Struct(">i").pack

# Types of elements and of their arrays: src/include/catalog/pg_type.dat.
_SMALLINT, _SMALLINTS = 21, 1005
_TEXT, _TEXTS = 25, 1009
_XID, _XIDS = 28, 1011
_DOUBLE, _DOUBLES = 701, 1022
_UUID, _UUIDS = 2950, 2951
_UUID_START = _LENGTH(16)
# pgvector's are the database's own.
_FIND_VECTOR = """
    SELECT kind.oid::bigint, kind.typarray::bigint FROM pg_extension AS extension
    JOIN pg_type AS kind ON kind.typnamespace = extension.extnamespace AND kind.typname = 'vector'
    WHERE extension.extname = 'vector'
"""


class PackedArray:
    """An array that goes to the server as it is, given as a parameter to a cursor of `takes_packed`."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = data


class PackedSmallints(PackedArray):
    """A smallint[]."""


class PackedTexts(PackedArray):
    """A text[]."""


class PackedDoubles(PackedArray):
    """A double precision[]."""


class PackedUuids(PackedArray):
    """A uuid[]."""


class PackedXids(PackedArray):
    """An xid[]."""


class PackedVectors(PackedArray):
    """A vector[], of pgvector's type."""


class VectorType(NamedTuple):
    """What pgvector's type and that of its arrays are in a database."""

    element: int
    array: int


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: PackedArray) -> bytes | memoryview:
        return obj.data


class _SmallintsDumper(_PackedDumper):
    oid = _SMALLINTS


class _TextsDumper(_PackedDumper):
    oid = _TEXTS


class _DoublesDumper(_PackedDumper):
    oid = _DOUBLES


class _UuidsDumper(_PackedDumper):
    oid = _UUIDS


class _XidsDumper(_PackedDumper):
    oid = _XIDS


_DUMPERS: Sequence[tuple[type[PackedArray], type[_PackedDumper]]] = (
    (PackedSmallints, _SmallintsDumper),
    (PackedTexts, _TextsDumper),
    (PackedDoubles, _DoublesDumper),
    (PackedUuids, _UuidsDumper),
    (PackedXids, _XidsDumper),
)


def takes_packed(cursor: Cursor[Any]) -> Cursor[Any]:
    """Let a cursor take packed arrays as parameters; gives the cursor."""
    for kind, dumper in _DUMPERS:
        cursor.adapters.register_dumper(kind, dumper)
    return cursor


def takes_vectors(cursor: Cursor[Any]) -> VectorType | None:
    """Let a cursor take vectors of pgvector too, where its database has that; gives their type."""
    row = cursor.execute(_FIND_VECTOR, prepare=True).fetchone()
    if row is None:
        return None
    kind = VectorType(*row)
    cursor.adapters.register_dumper(
        PackedVectors, type("_VectorsDumper", (_PackedDumper,), {"oid": kind.array})
    )
    return kind


def pack_texts(values: Sequence[str]) -> PackedTexts:
    """Pack texts, none of them None."""
    encoded = [value.encode() for value in values]
    return PackedTexts(
        _joined(_TEXT, [part for value in encoded for part in (_LENGTH(len(value)), value)], len(values))
    )


def pack_uuids(values: Sequence[bytes]) -> PackedUuids:
    """Pack UUIDs, each given as its 16 bytes."""
    return PackedUuids(_joined(_UUID, [_UUID_START + value for value in values], len(values)))


def pack_smallints(values: Sequence[int]) -> PackedSmallints:
    """Pack whole numbers of 16 bits."""
    return PackedSmallints(_pack_numbers(_SMALLINT, np.asarray(values), ">i2"))


def pack_xids(values: Sequence[int]) -> PackedXids:
    """Pack numbers of transactions, as a row's `xmin` gives them."""
    return PackedXids(_pack_numbers(_XID, np.asarray(values), ">u4"))


def pack_doubles(values: NDArray[np.floating[Any]]) -> PackedDoubles:
    """Pack numbers of any shape as one flat array."""
    return PackedDoubles(_pack_numbers(_DOUBLE, values, ">f8"))


def pack_vectors(values: NDArray[np.float32], kind: VectorType) -> PackedVectors:
    """Pack n vectors, shape (n, dimensions)."""
    count, dimensions = values.shape
    row = np.dtype(
        [("length", ">i4"), ("dimensions", ">i2"), ("unused", ">i2"), ("values", ">f4", dimensions)]
    )
    packed, rows = _empty(kind.element, count, row)
    rows["length"] = row.itemsize - rows["length"].itemsize
    rows["dimensions"], rows["unused"], rows["values"] = dimensions, 0, values
    return PackedVectors(packed)


def _pack_numbers(element: int, values: NDArray[Any], kind: str) -> memoryview:
    packed, rows = _empty(element, values.size, np.dtype([("length", ">i4"), ("value", kind)]))
    rows["length"] = rows["value"].itemsize
    rows["value"] = values.reshape(-1)
    return packed


def _empty(element: int, count: int, row: np.dtype[Any]) -> tuple[memoryview, NDArray[Any]]:
    """Make room for an array and give it, with its elements to be filled in.

    In place: copies of some MB cost as much as the packing.
    """
    start = _start(element, count)
    packed = np.empty(len(start) + count * row.itemsize, dtype=np.uint8)
    packed[: len(start)] = np.frombuffer(start, dtype=np.uint8)
    return packed.data, packed[len(start) :].view(row)


def _joined(element: int, parts: Sequence[bytes], count: int) -> bytes:
    return b"".join((_start(element, count), *parts))


def _start(element: int, count: int) -> bytes:
    return _START(1, 0, element, count, 1) if count else _NOTHING(0, 0, element)
