"""Arrays in PostgreSQL's binary format, packed at once where the driver would take some µs for each element.

The format: array_recv in src/backend/utils/adt/arrayfuncs.c; of the elements: the receive functions of their
types.
"""

import struct
from collections.abc import Sequence
from typing import Any

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


def _pack_numbers(element: int, values: NDArray[Any], kind: str) -> memoryview:
    start = _start(element, values.size)
    row = np.dtype([("length", ">i4"), ("value", kind)])
    # In place: copies of some MB cost as much as the packing.
    packed = np.empty(len(start) + values.size * row.itemsize, dtype=np.uint8)
    packed[: len(start)] = np.frombuffer(start, dtype=np.uint8)
    rows = packed[len(start) :].view(row)
    rows["length"] = row["value"].itemsize
    rows["value"] = values.reshape(-1)
    return packed.data


def _joined(element: int, parts: Sequence[bytes], count: int) -> bytes:
    return b"".join((_start(element, count), *parts))


def _start(element: int, count: int) -> bytes:
    return _START(1, 0, element, count, 1) if count else _NOTHING(0, 0, element)
