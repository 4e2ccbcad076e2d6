"""Rows of a batch in JSON: made of its elements once, kept as lines, and read again chunk by chunk."""

import json
from collections.abc import Iterator
from typing import NamedTuple

import orjson

from pipeline.csvfile import ChunkSpan, name_columns
from pipeline.errors import InputError
from pipeline.jsonfile.elements import Element, NumberText, read_elements
from pipeline.storage import Readable
from schemas.enums import SkipReason

# The one column of a row that is no object.
VALUE = "value"


class JsonRow(NamedTuple):
    """One row: the line of the batch (from 1) that it starts in, its names and as many values.

    A string is its own value, null is None, and everything else its JSON text; `not_text` holds the places
    of the latter. `fault` is why the row cannot become a record; its values are then for showing only.
    """

    line: int
    names: tuple[str, ...]
    values: list[str | None]
    not_text: tuple[int, ...] = ()
    fault: SkipReason | None = None


class RowLines:
    """A batch as lines of rows, to be read and stored; knows its chunks when it was read to its end.

    Args:
        source: the batch; see `elements.read_elements`.
        chunk_rows: the most rows of a chunk.
        chunk_bytes: the most bytes of a chunk; a chunk of one row may have more.
        max_record_bytes: an element larger than this is refused.
    """

    def __init__(self, source: Readable, *, chunk_rows: int, chunk_bytes: int, max_record_bytes: int) -> None:
        self._elements = read_elements(source, max_record_bytes=max_record_bytes)
        self._chunk_rows, self._chunk_bytes = chunk_rows, chunk_bytes
        self._held = bytearray()
        self._chunks: list[ChunkSpan] = []
        self._start = self._end = self._count = self._first_line = 0

    @property
    def chunks(self) -> tuple[ChunkSpan, ...]:
        """The chunks of the lines that were read so far."""
        if not self._count:
            return tuple(self._chunks)
        return (*self._chunks, ChunkSpan(self._start, self._end, self._first_line, self._count))

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes of lines; nothing at the end.

        Raises:
            InputError: as `elements.read_elements`.
        """
        while len(self._held) < size:
            element = next(self._elements, None)
            if element is None:
                break
            self._add(element)
        block = bytes(self._held[:size])
        del self._held[:size]
        return block

    def _add(self, element: Element) -> None:
        try:
            row = _make_row(element)
        except RecursionError:
            row = JsonRow(element.line, (VALUE,), ["it is nested too deeply"], fault=SkipReason.MALFORMED)
        line = _pack(row)
        is_full = self._count == self._chunk_rows or self._end + len(line) - self._start > self._chunk_bytes
        if self._count and is_full:
            self._chunks = [*self.chunks]
            self._start, self._count = self._end, 0
        if not self._count:
            self._first_line = element.line
        self._count += 1
        self._end += len(line)
        self._held += line


def read_rows(data: bytes) -> Iterator[JsonRow]:
    """Read the rows of a chunk of lines again."""
    for line in data.splitlines():
        try:
            number, names, values, not_text, fault = orjson.loads(line)
        except orjson.JSONDecodeError:  # half a surrogate pair, which the standard library reads
            number, names, values, not_text, fault = json.loads(line)
        yield JsonRow(number, tuple(names), values, tuple(not_text), fault and SkipReason(fault))


def _make_row(element: Element) -> JsonRow:
    line, value, is_json = element
    if not is_json or not isinstance(value, dict):
        text = value if isinstance(value, str) and not is_json else _json_text(value)
        return JsonRow(line, (VALUE,), [text], fault=SkipReason.MALFORMED)
    values = [entry if entry is None or _is_text(entry) else _json_text(entry) for entry in value.values()]
    try:
        names = name_columns(tuple(value))
    except InputError:  # a name with a NUL or half of a surrogate pair
        return JsonRow(line, (VALUE,), [_json_text(value)], fault=SkipReason.INVALID_CHARACTERS)
    not_text = tuple(
        place for place, entry in enumerate(value.values()) if entry is not None and not _is_text(entry)
    )
    return JsonRow(line, names, values, not_text)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not isinstance(value, NumberText)


def _json_text(value: object) -> str:
    """Write a value as compact JSON, numbers as they were written."""
    if isinstance(value, NumberText):
        return str(value)
    if isinstance(value, dict):
        return f"{{{','.join(f'{_json_text(name)}:{_json_text(entry)}' for name, entry in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_json_text, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _pack(row: JsonRow) -> bytes:
    try:
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # half a surrogate pair: kept as an escape
        return json.dumps(row).encode() + b"\n"
