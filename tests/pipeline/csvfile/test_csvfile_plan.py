"""Planning a file: its chunks, its count and its faults."""

import io
import tracemalloc

import pytest

from pipeline.csvfile import ChunkSpan, FilePlan, Row, plan_file, read_chunk
from pipeline.csvfile.records import Records, find_records
from pipeline.errors import EmptyFileError, InputError

MEGABYTE = 1024 * 1024


def plan(
    data: bytes | str,
    *,
    chunk_rows: int = 1000,
    chunk_bytes: int = MEGABYTE,
    max_record_bytes: int = MEGABYTE,
) -> FilePlan:
    raw = data.encode() if isinstance(data, str) else data
    return plan_file(
        io.BytesIO(raw), chunk_rows=chunk_rows, chunk_bytes=chunk_bytes, max_record_bytes=max_record_bytes
    )


def rows(data: str) -> list[Row]:
    raw, found = data.encode(), plan(data)
    return [
        row
        for chunk in found.chunks
        for row in read_chunk(
            raw[chunk.start : chunk.end], first_line=chunk.first_line, delimiter=found.delimiter
        )
    ]


def test_a_chunk_holds_so_many_rows() -> None:
    found = plan("a,b\n1,2\n3,4\n\n5,6\n", chunk_rows=2)

    assert found.total_records == 3
    assert found.chunks == (ChunkSpan(4, 12, 2, 2), ChunkSpan(13, 17, 5, 1))


def test_a_chunk_ends_before_it_has_too_many_bytes() -> None:
    found = plan("a,b\n1,2\n3,4\n5,6\n", chunk_bytes=11)

    assert [chunk.record_count for chunk in found.chunks] == [2, 1]


def test_a_record_larger_than_a_chunk_is_a_chunk() -> None:
    found = plan("a,b\n1,2\n3,looooooong\n5,6\n", chunk_bytes=4)

    assert [chunk.record_count for chunk in found.chunks] == [1, 1, 1]


def test_blank_lines_make_no_chunk_large() -> None:
    found = plan("a,b\n1,2\n" + "\n" * 100 + "3,4\n" + "\n" * 100, chunk_bytes=20)

    assert [(chunk.start, chunk.end) for chunk in found.chunks] == [(4, 8), (108, 112)]
    assert found.chunks[1].first_line == 103


def test_every_record_says_the_line_that_it_starts_in() -> None:
    assert rows('a,b\n\n1,"x\ny"\r\n\r3,4\r"5",6') == [
        Row(3, ["1", "x\ny"]),
        Row(6, ["3", "4"]),
        Row(7, ["5", "6"]),
    ]


def test_text_after_a_closing_quote_costs_one_record() -> None:
    assert rows('a,b\n1,2\n"3"x,"4\n5,6\n7,"8\n"y\n9,10\n') == [
        Row(2, ["1", "2"]),
        Row(3, None),
        Row(4, ["5", "6"]),
        Row(5, None),
        Row(7, ["9", "10"]),
    ]


def test_a_malformed_last_line_is_a_record_and_no_open_quote() -> None:
    assert rows('a,b\n1,2\n"3"x')[-1] == Row(3, None)


def test_a_quote_inside_an_unquoted_field_is_a_character() -> None:
    assert rows('a,b\n5" disk,x "y" z\n') == [Row(2, ['5" disk', 'x "y" z'])]


def test_a_line_of_delimiters_is_a_record() -> None:
    assert rows("a,b\n,\n") == [Row(2, ["", ""])]


def test_a_nul_and_a_very_long_field_are_let_through() -> None:
    long = "x" * 200_000

    assert rows(f"a,b\n\0,{long}\n") == [Row(2, ["\0", long])]


def test_the_line_of_an_open_quote_is_named() -> None:
    with pytest.raises(
        InputError, match=r'record that starts in line 4 has a quoted field.*look in line 4 for a "'
    ):
        plan('a,b\n1,"x\ny"\n3,"4\n5,6\n')


def test_a_record_that_grows_too_large_in_quotes_is_named_by_its_first_line() -> None:
    data = "a,b\n1,2\n\n" + '3,"4\n' + "5,6\n" * MEGABYTE

    with pytest.raises(InputError, match=r"starts in line 4 is larger than 5,000 bytes.*never closed"):
        plan(data, max_record_bytes=5000)


def test_a_line_that_is_too_large_is_named() -> None:
    with pytest.raises(InputError, match=r"starts in line 2 is larger than 5,000 bytes.*line break"):
        plan("a,b\n" + "x" * 5001 + "\n1,2\n", max_record_bytes=5000)


def test_a_record_as_large_as_allowed_is_read() -> None:
    data = 'a,b\n1,"' + "x\n" * 5 + '"\n'

    assert plan(data, max_record_bytes=15).total_records == 1
    with pytest.raises(InputError):
        plan(data, max_record_bytes=14)


def test_a_file_of_header_and_many_blank_lines_is_empty() -> None:
    with pytest.raises(EmptyFileError):
        plan("a,b\n" + "\n" * (2 * MEGABYTE))


def test_an_invalid_byte_behind_the_head_is_found() -> None:
    lines = b"1,2\r\n" * MEGABYTE

    with pytest.raises(InputError, match=rf"offset {5 + len(lines)} \(line {MEGABYTE + 2}\)"):
        plan(b"a,b\r\n" + lines + b"\xe9,2\r\n")


def test_progress_is_told_up_to_the_last_byte() -> None:
    data = b"a,b\n" + b"1,2\n" * MEGABYTE
    told: list[int] = []

    plan_file(
        io.BytesIO(data),
        chunk_rows=10**6,
        chunk_bytes=MEGABYTE,
        max_record_bytes=MEGABYTE,
        on_progress=told.append,
    )

    assert told == sorted(told)
    assert told[-1] == len(data)
    assert len(told) >= 4


class Repeated(io.RawIOBase):
    """A file of the same line over and over, which is made as it is read."""

    def __init__(self, line: bytes, count: int) -> None:
        self._line, self._position, self._size = line, 0, len(line) * count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), self._size - self._position)
        first = self._position % len(self._line)
        buffer[:count] = (self._line * (count // len(self._line) + 2))[first : first + count]
        self._position += count
        return count


def test_memory_is_bounded_by_a_block_and_not_by_the_file() -> None:
    line = b'1,"some text, quoted\nover two lines ' + b"x" * 955 + b'"\n'
    source = io.BufferedReader(Repeated(line, 40_001))
    tracemalloc.start()
    try:
        found = plan_file(source, chunk_rows=5000, chunk_bytes=8 * MEGABYTE, max_record_bytes=4 * MEGABYTE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert found.total_records == 40_000
    assert found.chunks[-1].end > 35 * MEGABYTE
    assert peak < 12 * MEGABYTE


def test_a_record_of_many_blocks_is_not_searched_at_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []

    def find_and_note(data: bytes, delimiter: str) -> Records:
        searched.append(len(data))
        return find_records(data, delimiter)

    monkeypatch.setattr("pipeline.csvfile.scan.find_records", find_and_note)
    data = b'a,b\n1,"' + b"line\n" * (6 * MEGABYTE) + b'"\n'

    found = plan(data, chunk_bytes=100 * MEGABYTE, max_record_bytes=100 * MEGABYTE)

    assert found.total_records == 1
    assert sum(searched) < 3 * len(data)


def test_a_chunk_that_no_plan_made_is_refused() -> None:
    with pytest.raises(InputError, match="starts in line 9"):
        list(read_chunk(b'1,2\n3,"4\n', first_line=8, delimiter=","))
