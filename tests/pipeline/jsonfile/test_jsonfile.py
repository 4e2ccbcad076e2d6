"""Batches in JSON: the same rows in whichever form, blocks and chunks they come."""

import io
import json
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import EmptyFileError, InputError
from pipeline.jsonfile import JsonRow, RowLines, read_rows
from pipeline.jsonfile.elements import BLOCK_BYTES
from schemas.enums import SkipReason

LARGE = 10**9
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))
values = st.recursive(
    st.one_of(scalars, st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4)
objects = st.lists(st.dictionaries(names, values, max_size=4), min_size=1, max_size=6)

FORMS: dict[str, Callable[[list[dict[str, object]]], str]] = {
    "array": json.dumps,
    "indented array": lambda rows: json.dumps(rows, indent=2, ensure_ascii=False),
    "lines": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    "lines with CRLF and blank ones": lambda rows: "\r\n \r\n".join(json.dumps(row) for row in rows),
}


class ShortReads(io.BytesIO):
    """Gives at most `size` bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self._size = size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self._size if size is None or size < 0 else min(size, self._size))


def read(
    text: str | bytes,
    *,
    block: int = BLOCK_BYTES,
    chunk_rows: int = 3,
    chunk_bytes: int = LARGE,
) -> list[JsonRow]:
    """Turn a batch into lines and read these chunk by chunk."""
    data = text if isinstance(text, bytes) else text.encode()
    lines = RowLines(
        ShortReads(data, block), chunk_rows=chunk_rows, chunk_bytes=chunk_bytes, max_record_bytes=LARGE
    )
    stored = b"".join(iter(lambda: lines.read(block), b""))
    rows: list[JsonRow] = []
    place = 0
    for chunk in lines.chunks:
        found = list(read_rows(stored[chunk.start : chunk.end]))
        assert (chunk.start, chunk.record_count, chunk.first_line) == (place, len(found), found[0].line)
        assert len(found) <= chunk_rows
        assert chunk.end - chunk.start <= chunk_bytes or len(found) == 1
        rows += found
        place = chunk.end
    assert place == len(stored)
    return rows


@pytest.mark.parametrize("form", FORMS)
@settings(deadline=None, max_examples=60)
@given(rows=objects, block=st.integers(1, 20), chunk_rows=st.integers(1, 4), chunk_bytes=st.integers(1, 200))
def test_every_form_gives_the_same_rows(
    form: str, rows: list[dict[str, object]], block: int, chunk_rows: int, chunk_bytes: int
) -> None:
    plain = read(FORMS["lines"](rows))
    found = read(FORMS[form](rows), block=block, chunk_rows=chunk_rows, chunk_bytes=chunk_bytes)

    assert [row[1:] for row in found] == [row[1:] for row in plain]
    assert len(found) == len(rows)
    for row, given_row in zip(found, rows, strict=True):
        if row.fault is None:
            for value, text in zip(given_row.values(), row.values, strict=True):
                assert (
                    text == value
                    if value is None or isinstance(value, str)
                    else json.loads(str(text)) == value
                )


@settings(deadline=None, max_examples=60)
@given(row=st.dictionaries(names, values, max_size=4), block=st.integers(1, 20))
def test_one_indented_object_is_one_row(row: dict[str, object], block: int) -> None:
    (found,) = read(json.dumps(row, indent=2), block=block)

    assert found[1:] == read(json.dumps(row))[0][1:]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1.10", "1.10"),
        ("1e2", "1e2"),
        ("-0", "-0"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("true", "true"),
        ('[1, {"a": "é", "b": 2.50}]', '[1,{"a":"é","b":2.50}]'),
    ],
)
def test_what_is_no_string_keeps_its_text(value: str, text: str) -> None:
    (row,) = read(f'{{"a": {value}, "b": "x"}}')

    assert (row.values, row.not_text) == ([text, "x"], (0,))


def test_rows_know_their_lines() -> None:
    assert [row.line for row in read('\n[\n {"a": 1},\n\n {"a":\n 2}, {"a": 3}\n]\n')] == [3, 5, 6]
    assert [row.line for row in read('{"a": 1}\n\n{"a": 2}\r\n{"a": 3}')] == [1, 3, 4]


def test_names_are_made_unique_as_those_of_columns() -> None:
    (row,) = read('{" a ": "1", "a": "2", "": "3"}')

    assert row.names == ("a", "a_2", "column_3")


@pytest.mark.parametrize(
    ("line", "value"),
    [("nope", "nope"), ('{"a": NaN}', '{"a": NaN}'), ("[1]", "[1]"), ("5", "5"), ('"x"', '"x"'), ("{", "{")],
)
def test_a_line_that_is_no_object_is_a_malformed_row_of_its_own(line: str, value: str) -> None:
    rows = read(f'{{"a": "1"}}\n{line}\n{{"a": "2"}}\n')

    assert rows[1] == JsonRow(2, ("value",), [value], fault=SkipReason.MALFORMED)
    assert [row.fault for row in rows] == [None, SkipReason.MALFORMED, None]


def test_a_faulty_first_line_of_json_lines_is_one_too() -> None:
    assert [row.fault for row in read('{"a": tru}\n{"a": "1"}\n')] == [SkipReason.MALFORMED, None]


def test_an_element_of_an_array_that_is_no_object_is_a_malformed_row() -> None:
    assert [row.fault for row in read('[{"a": "1"}, 5, null]')] == [None, *[SkipReason.MALFORMED] * 2]


def test_a_constant_that_json_has_not_is_a_fault_of_its_element() -> None:
    rows = read('[{"a": "1"}, {"a": NaN}, {"a": [-Infinity]}, {"a": "2"}]')

    assert [row.fault for row in rows] == [None, SkipReason.MALFORMED, SkipReason.MALFORMED, None]
    assert rows[1].values == ['{"a": NaN}']


def test_an_object_over_lines_whose_first_one_ends_with_a_bracket_is_one() -> None:
    assert [row.values for row in read('{"a": {"x": 1}\n}')] == [['{"x":1}']]


@pytest.mark.parametrize("form", ["[{}]", "{}\n{{}}"])
def test_what_is_nested_too_deeply_is_a_malformed_row(form: str) -> None:
    deep = '{"a": ' + "[" * 900 + "]" * 900 + "}"

    assert read(form.format(deep))[0].fault in {SkipReason.MALFORMED, None}
    assert len(read(f'{{"a": "1"}}\n{{"a": {"[" * 100_000}{"]" * 100_000}}}\n')) == 2


def test_half_a_surrogate_pair_comes_through() -> None:
    (row,) = read('{"a": "\\ud83d"}')

    assert row.values == ["\ud83d"]


def test_a_name_with_a_nul_is_a_row_with_invalid_characters() -> None:
    assert read('{"a\\u0000": "1"}')[0].fault is SkipReason.INVALID_CHARACTERS


def test_a_byte_order_mark_is_no_part_of_the_batch() -> None:
    assert read(b'\xef\xbb\xbf{"a": "1"}')[0].names == ("a",)


@pytest.mark.parametrize("text", ["", " \n", "[]", "[ ]\n"])
def test_a_batch_without_an_element_is_refused(text: str) -> None:
    with pytest.raises(EmptyFileError):
        read(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id,prompt\n1,x\n", "line 1 begins with 'id,prompt'"),
        ('[{"a": 1}\n {"b": 2}]', "line 2.*comma"),
        ('[{"a": 1}', "comma"),
        ('[{"a": 1},\n {"a": "x]', "line 2.*Unterminated string"),
        ('[{"a": 1}] {"b": 2}', "follows"),
        ('[{"a": 1},]', "Expecting value"),
        ('{"a":\n 1', "line 2"),
        (b'[{"a": "\xff"}]', "0xFF near offset 8"),
        ("[" * 100_000, "nested too deeply"),
        ('[{"a": 1}, {"b": tru}]', "line 1, at 'tru"),
        ('[{"a": 1}, {"b": tru}' + ', {"a": 1}' * 100_000, "line 1, at 'tru"),
    ],
)
def test_a_broken_batch_is_refused_and_says_where(text: str | bytes, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read(text)


@pytest.mark.parametrize("form", FORMS)
def test_an_element_that_is_too_large_is_refused_while_it_is_read(form: str) -> None:
    text = FORMS[form]([{"a": "x"}, {"a": "y" * 3 * BLOCK_BYTES}, {"a": "z" * 20 * BLOCK_BYTES}])
    source = io.BytesIO(text.encode())
    lines = RowLines(source, chunk_rows=9, chunk_bytes=LARGE, max_record_bytes=BLOCK_BYTES)

    with pytest.raises(InputError, match=r"larger than 262,144 bytes"):
        deque(iter(lambda: lines.read(BLOCK_BYTES), b""), maxlen=0)
    assert source.tell() < len(text) / 2
