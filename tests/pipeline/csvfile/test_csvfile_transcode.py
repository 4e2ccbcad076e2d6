"""Files in other encodings: their form in UTF-8, the bytes that have none, and the records in it."""

import codecs
import io
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.csvfile import Row, Utf8Reader, inspect_head, needs_transcoding, plan_file, read_chunk
from pipeline.errors import InputError

MEGABYTE = 1024 * 1024
MARKED = ("utf-16", "utf-32")
ENCODINGS = (
    *MARKED,
    "utf-16-le",
    "utf-16-be",
    "utf-32-be",
    "cp1252",
    "gb18030",
    "shift_jis",
    "utf-7",
    "iso2022_jp",
)

characters = st.sampled_from('aé€漢字か😀+-~\\\ufeff,"\r\n') | st.characters(codec="utf-8")
texts = st.text(characters, max_size=60)
# Whatever bytes there are: mostly nothing that an encoding has.
noise = st.lists(
    st.sampled_from([b"\0", b"\xd8", b"\xdc", b"a", b"\n", b"\r", b"+", b"\x81"]), max_size=12
).map(b"".join)


class ShortReads(io.BytesIO):
    """A file that gives at most `size` bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self._size = size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self._size if size is None or size < 0 else min(size, self._size))


def transcode(data: bytes, encoding: str, *, block: int = MEGABYTE, read: int = MEGABYTE) -> bytes:
    reader = Utf8Reader(ShortReads(data, block), encoding)
    return b"".join(iter(lambda: reader.read(read), b""))


@settings(deadline=None, max_examples=500)
@given(
    text=texts,
    tail=noise,
    encoding=st.sampled_from(ENCODINGS),
    block=st.integers(1, 9),
    read=st.integers(1, 9),
)
def test_the_utf_8_form_is_that_of_the_whole_file(
    text: str, tail: bytes, encoding: str, block: int, read: int
) -> None:
    data = text.encode(encoding, "ignore") + tail
    if encoding in MARKED and not text:
        data = codecs.BOM_UTF16 if encoding == "utf-16" else codecs.BOM_UTF32
    errors = "surrogatepass" if encoding.startswith(("utf-16", "utf-32")) else "strict"
    try:
        whole = data.decode(encoding, errors)
    except UnicodeDecodeError as error:
        with pytest.raises(InputError, match=rf"0x{data[error.start]:02X} at offset {error.start} \(line"):
            transcode(data, encoding, block=block, read=read)
    else:
        expected = whole.removeprefix("\ufeff").encode("utf-8", "surrogatepass")
        assert transcode(data, encoding, block=block, read=read) == expected


@pytest.mark.parametrize("block", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        (b"a\r\n\rb\n\x81", "cp1252", r"0x81 at offset 6 \(line 4\) cannot be read as cp1252"),
        ("a\r\nb,é".encode("utf-16-le") + b"\0", "utf-16-le", r"at offset 12 \(line 2\).*truncated data"),
        (b"\n\x82\xa0\n\x82", "shift_jis", r"at offset 4 \(line 3\) .* shift_jis: incomplete"),
        (b"\n\x81\x30\x81", "gb18030", r"at offset 1 \(line 2\) .* gb18030: incomplete"),
        (codecs.BOM_UTF16_LE + b"a\0\r\0\n\0b", "utf-16", r"0x62 at offset 8 \(line 2\)"),
        (b"\0\0\0\n\0\x11\0\0", "utf-32-be", r"0x00 at offset 4 \(line 2\)"),
        (b"a\n\xe9", "ascii", r"0xE9 at offset 2 \(line 2\) cannot be read as ascii"),
    ],
)
def test_a_byte_that_the_encoding_does_not_have_is_named(
    data: bytes, encoding: str, message: str, block: int
) -> None:
    with pytest.raises(InputError, match=message):
        transcode(data, encoding, block=block)


def test_a_sequence_without_end_is_refused_and_not_held() -> None:
    data = b"a,b\n+" + b"AGEAYQBh" * (2 * MEGABYTE)

    with pytest.raises(InputError, match=r"line 2 has more than 1,048,576 bytes of utf-7"):
        transcode(data, "utf-7")


def test_utf_8_needs_no_transcoding() -> None:
    assert not needs_transcoding("utf-8")
    assert not needs_transcoding("utf-8-sig")
    assert all(map(needs_transcoding, ENCODINGS))


def test_a_file_is_transcoded_in_memory_of_a_few_blocks() -> None:
    source = io.BytesIO(("a,b\n" + "1,größer\n" * MEGABYTE).encode("cp1252"))
    tracemalloc.start()
    try:
        reader = Utf8Reader(source, "cp1252")
        size = sum(map(len, iter(lambda: reader.read(65536), b"")))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert size == 4 + MEGABYTE * len("1,größer\n".encode())
    assert peak < MEGABYTE


def test_closing_the_reader_leaves_the_file_open() -> None:
    source = io.BytesIO(b"a")
    Utf8Reader(source, "cp1252").close()

    assert not source.closed


def test_an_unpaired_surrogate_is_in_its_row_and_no_fault_of_the_file() -> None:
    original = "id,text\n1,\ud800\n2,😀\n3,\udc00x".encode("utf-16", "surrogatepass")
    utf8 = transcode(original, "utf-16", block=3)

    plan = plan_file(
        io.BytesIO(utf8), chunk_rows=2, chunk_bytes=100, max_record_bytes=100, transcoded_from="utf-16"
    )
    rows = [
        row
        for chunk in plan.chunks
        for row in read_chunk(
            utf8[chunk.start : chunk.end], first_line=chunk.first_line, delimiter=plan.delimiter
        )
    ]

    assert rows == [Row(2, ["1", "\ud800"]), Row(3, ["2", "😀"]), Row(4, ["3", "\udc00x"])]
    assert plan.encoding == inspect_head(io.BytesIO(original)).encoding == "utf-16"
    assert plan.chunks[0].start == inspect_head(io.BytesIO(original)).body_start


def test_an_unpaired_surrogate_in_utf_8_is_an_invalid_byte() -> None:
    data = "a,b\n1,\ud800\n".encode("utf-8", "surrogatepass")

    with pytest.raises(InputError, match=r"0xED at offset 6 \(line 2\) is not UTF-8"):
        plan_file(io.BytesIO(data), chunk_rows=1, chunk_bytes=1, max_record_bytes=100)


def test_an_unpaired_surrogate_in_the_header_is_refused_by_its_column() -> None:
    with pytest.raises(InputError, match=r"column 2.*unpaired surrogate"):
        inspect_head(io.BytesIO("a,\ud800\n1,2\n".encode("utf-16", "surrogatepass")))


def test_an_original_in_another_encoding_is_not_planned() -> None:
    with pytest.raises(InputError, match="the file is in utf-16: it is planned from its form in UTF-8"):
        plan_file(
            io.BytesIO("a,b\n1,2\n".encode("utf-16")), chunk_rows=1, chunk_bytes=1, max_record_bytes=100
        )
