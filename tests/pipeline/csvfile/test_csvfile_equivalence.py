"""However a file is split, its records are those of one `csv.reader(strict=True)` over the whole of it."""

import csv
import io
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.csvfile import Row, plan_file, read_chunk, read_fields
from pipeline.csvfile.lines import complete_length
from pipeline.csvfile.reader import unclosed_quote
from pipeline.csvfile.records import find_records, read_records
from pipeline.csvfile.scan import RecordScanner
from pipeline.errors import InputError

LARGE = 10**9
HEADER = "h1,h2"
# What a reader stumbles over: quotes, every line end, delimiters, line ends of `str.splitlines` that are
# content here, characters of one to four bytes, NUL and byte order marks.
PIECES = ['"', '""', ",", ";", "\t", "|", "\n", "\r", "\r\n", "a", " ", "é", "€", "😀"]
PIECES += ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\0", "\ufeff", '"\r', '"\n', '"\r\n', '\n"']

noise = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
plain = st.text(alphabet=st.sampled_from("ab \u2028é😀"), max_size=6)
quoted = noise.map(lambda text: '"' + text.replace('"', '""') + '"')
stray = st.tuples(plain, plain).map(lambda parts: f'x{parts[0]}"{parts[1]}')
fields = st.one_of(plain, quoted, stray)
line_ends = st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\r\n\r\n", "\r\r"])
records = st.tuples(st.lists(fields, min_size=1, max_size=4).map(",".join), line_ends).map("".join)
bodies = st.one_of(noise, st.tuples(st.lists(records, max_size=8).map("".join), noise).map("".join))
# Long enough for the 64 bytes that the fast way takes at a step, and for what it carries to the next ones.
fillers = st.integers(55, 70).map("x".__mul__)
wide = st.lists(st.one_of(st.sampled_from(PIECES), fillers), max_size=200).map("".join)
well_formed = st.lists(
    st.tuples(st.lists(st.one_of(quoted, plain, fillers), min_size=1, max_size=4).map(",".join), line_ends),
    max_size=30,
).map(lambda records: "".join(map("".join, records)))
hostile = st.one_of(bodies, wide, well_formed, st.tuples(well_formed, noise, well_formed).map("".join))
first_line_ends = st.sampled_from(["\n", "\r\n", "\r"])


class Whole(NamedTuple):
    rows: list[Row]
    is_open_at_end: bool


def read_whole(text: str, delimiter: str) -> Whole:
    """Read as the rules say: `csv.reader`, strict, over lines split as `open(newline="")` splits them."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    line = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return Whole(rows, is_open_at_end=False)
        except csv.Error as error:
            if str(error) == "unexpected end of data":
                return Whole(rows, is_open_at_end=True)
            rows.append(Row(line, None))
        else:
            if fields:
                rows.append(Row(line, fields))
        line = reader.line_num + 1


def read_planned(data: bytes, delimiter: str, *, chunk_rows: int, chunk_bytes: int) -> list[Row]:
    plan = plan_file(
        io.BytesIO(data),
        chunk_rows=chunk_rows,
        chunk_bytes=chunk_bytes,
        max_record_bytes=LARGE,
        delimiter=delimiter,
    )
    rows: list[Row] = []
    for chunk in plan.chunks:
        part = data[chunk.start : chunk.end]
        read = list(read_chunk(part, first_line=chunk.first_line, delimiter=plan.delimiter))
        assert list(read_fields(part, delimiter=plan.delimiter)) == [row.fields for row in read]
        assert len(read) == chunk.record_count
        assert 1 <= chunk.record_count <= chunk_rows
        assert chunk.end - chunk.start <= chunk_bytes or chunk.record_count == 1
        rows += read
    assert len(rows) == plan.total_records
    return rows


@settings(deadline=None, max_examples=400)
@given(
    body=bodies,
    end=first_line_ends,
    delimiter=st.sampled_from(",;\t|"),
    mark=st.booleans(),
    chunk_rows=st.integers(1, 5),
    chunk_bytes=st.one_of(st.integers(1, 40), st.just(LARGE)),
)
def test_chunks_give_the_records_of_the_whole_file(
    body: str, end: str, delimiter: str, *, mark: bool, chunk_rows: int, chunk_bytes: int
) -> None:
    text = HEADER + end + body
    whole = read_whole(text, delimiter)
    data = (b"\xef\xbb\xbf" if mark else b"") + text.encode()

    if whole.is_open_at_end or len(whole.rows) < 2:
        with pytest.raises(InputError):
            read_planned(data, delimiter, chunk_rows=chunk_rows, chunk_bytes=chunk_bytes)
    else:
        rows = read_planned(data, delimiter, chunk_rows=chunk_rows, chunk_bytes=chunk_bytes)
        assert rows == whole.rows[1:]


@pytest.fixture(scope="module")
def splitting() -> Iterator[None]:
    """Read by splitting however many quotes there are: these texts are full of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.csvfile.plain._CHARACTERS_A_QUOTE", 0)
        yield


@pytest.mark.usefixtures("splitting")
@settings(deadline=None, max_examples=600)
@given(body=bodies, delimiter=st.sampled_from(",;\t|"))
def test_fields_without_places_are_the_same_fields(body: str, delimiter: str) -> None:
    rows = list(read_whole(body, delimiter).rows)
    if not read_whole(body, delimiter).is_open_at_end:
        assert list(read_fields(body.encode(), delimiter=delimiter)) == [row.fields for row in rows]


@pytest.mark.usefixtures("splitting")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        '""',
        '""\n',
        '"","" \n',
        'a,"b ""c"" d"\r\n\r\n1,""\r\n',
        '"a"\n""\n\nb',
        ',\n"",\n',
        'a,b"c\n1,2\n',
        '"a"b\n1,2\n',
        'a\rb\n"c"\r"d"\n',
        '"x""y""""z",""""\n',
    ],
)
def test_fields_of_plain_and_other_texts(text: str) -> None:
    assert list(read_fields(text.encode(), delimiter=",")) == [
        row.fields for row in read_whole(text, ",").rows
    ]


@settings(deadline=None, max_examples=1000)
@given(body=hostile, delimiter=st.sampled_from(",;\t|x "))
def test_the_fast_way_finds_what_reading_every_record_finds(body: str, delimiter: str) -> None:
    data = body.encode()
    lines = data[: complete_length(data)]

    found, read = find_records(lines, delimiter), read_records(lines, delimiter)

    assert found.ends.tolist() == read.ends.tolist()
    assert found.line_counts.tolist() == read.line_counts.tolist()


@pytest.mark.parametrize(
    "fault", ['"a"b', '"a" ,b', '"a"",""b"c,d', '"a\n"b', 'a"b', 'a"', 'a,"b",c"', '"a"\r"b"c']
)
def test_one_fault_is_found_wherever_it_stands(fault: str) -> None:
    for before in range(140):
        text = "x" * before + f'\n"1","2"\n{fault}\n' + '"3","4"\n' * 20
        data = text.encode()

        assert find_records(data, ",").ends.tolist() == read_records(data, ",").ends.tolist()


@pytest.mark.parametrize(
    "row",
    [
        "1,2\n",
        "1,2\r\n",
        '"1","2"\r',
        '"a ""b""","","\n"\n\n',
        '5" disk,x "y" z\n',
        'wide 5",high 7"\n',
        '"a,"",""b",5"\n',
        'a"",b"""c\r\n',
    ],
)
def test_only_malformed_records_are_read_one_by_one(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.csvfile.records.read_records", None)
    body = row.encode() * 500

    assert len(find_records(body, ",").ends) == len(read_records(body, ",").ends) >= 500
    with pytest.raises(TypeError):
        find_records(body + b'"a"b\n', ",")


class ShortReads(io.BytesIO):
    """A file that gives at most `size` bytes at a time, as a pipe or an object store may."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self._size = size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self._size if size is None or size < 0 else min(size, self._size))


# Line, start and end of a record.
Place = tuple[int, int, int]


def place_all(scanner: RecordScanner) -> list[Place]:
    return [
        (int(line), int(start), int(end))
        for places in scanner.places()
        for line, start, end in zip(*places, strict=True)
    ]


def places_or_error(data: bytes, *, head: int, block: int, delimiter: str) -> list[Place] | str:
    source = ShortReads(data[head:], block)
    scanner = RecordScanner(
        source, data[:head], offset=7, line=3, delimiter=delimiter, max_record_bytes=LARGE
    )
    try:
        return place_all(scanner)
    except InputError as error:
        return str(error)


def places_by_reading(data: bytes, delimiter: str) -> list[Place] | str:
    """Place the records of a body at offset 7 and line 3 by reading each of them."""
    ended = data if data.endswith((b"\n", b"\r")) else data + b"\n"
    ends, line_counts = read_records(ended, delimiter)
    starts, before = [0, *ends.tolist()], [0, *line_counts.tolist()]
    if starts[-1] < len(data):
        return str(unclosed_quote(before[-1] + 3))
    return [
        (line + 3, start + 7, min(end, len(data)) + 7)
        for line, start, end in zip(before, starts, ends.tolist(), strict=False)
        if ended[start : start + 1] not in b"\r\n"
    ]


@settings(deadline=None, max_examples=500)
@given(
    body=hostile,
    head=st.integers(0, 20),
    block=st.one_of(st.integers(1, 9), st.integers(10, 200)),
    delimiter=st.sampled_from(",;\t|"),
)
def test_the_places_of_records_do_not_depend_on_where_blocks_end(
    body: str, head: int, block: int, delimiter: str
) -> None:
    data = body.encode()

    assert places_or_error(data, head=head, block=block, delimiter=delimiter) == places_by_reading(
        data, delimiter
    )


@settings(deadline=None, max_examples=200)
@given(
    body=bodies,
    limit=st.integers(1, 30),
    blocks=st.tuples(st.integers(1, 9), st.integers(1, 99)),
)
def test_a_record_is_refused_for_its_size_wherever_blocks_end(
    body: str, limit: int, blocks: tuple[int, int]
) -> None:
    data = body.encode()

    def outcome(block: int) -> list[Place] | None:
        source = ShortReads(data, block)
        scanner = RecordScanner(source, b"", offset=0, line=1, delimiter=",", max_record_bytes=limit)
        try:
            return place_all(scanner)
        except InputError:
            return None

    assert outcome(blocks[0]) == outcome(blocks[1])


@settings(deadline=None, max_examples=100)
@given(prefix=bodies, cut=st.sampled_from([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xe2\x28"]))
def test_the_first_invalid_byte_is_named_with_its_offset_and_line(prefix: str, cut: bytes) -> None:
    before = HEADER.encode() + b"\nx," + prefix.encode()
    line = len(io.StringIO(before.decode() + "x", newline="").readlines())

    with pytest.raises(InputError, match=rf"at offset {len(before)} \(line {line}\) is not UTF-8"):
        plan_file(io.BytesIO(before + cut + b"\n1,2\n"), chunk_rows=1, chunk_bytes=1, max_record_bytes=LARGE)
