"""Encoding, delimiter and header: what the head of a file decides."""

import codecs
import io

import pytest

from pipeline.csvfile import FileHead, inspect_head, name_columns
from pipeline.errors import EmptyFileError, InputError

MEGABYTE = 1024 * 1024


def inspect(data: bytes | str, *, delimiter: str | None = None, encoding: str | None = None) -> FileHead:
    raw = data.encode() if isinstance(data, str) else data
    return inspect_head(io.BytesIO(raw), delimiter=delimiter, encoding=encoding)


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a,b\n1,2\n", ","),
        ("a;b\n1;2\n", ";"),
        ("a\tb\n1\t2\n", "\t"),
        ("a|b\n1|2\n", "|"),
        ("name;price;weight\nx;1,5;2,5\ny;2,5;3,5\n", ";"),  # decimal commas
        ("Income, EUR;Year\n100;2020\n200;2021\n", ";"),  # a comma in a name
        ('a,b\n"1;2;3","4;5;6"\n', ","),  # in quotes
        ('"a;x";"b\n;c"\n1;2\n', ";"),
        ("a,b,c\n1,2\n3\n4,5,6,7\n", ","),  # ragged
        ("a;b;c\n1;2\n3;4\n", ";"),  # no row is full
        ("question\thint, if any\nwhat\tno\n", "\t"),
        ("prompt\nWrite a poem; a short one\n", ","),  # one column: a comma, though there is none
        (";;\na;b;c\n1;2;3\n", ";"),
        ("a;b\n1\n", ";"),
    ],
)
def test_the_delimiter_is_found_in_the_head(text: str, delimiter: str) -> None:
    assert inspect(text).delimiter == delimiter


def test_an_explicit_delimiter_wins() -> None:
    assert inspect("a,b;c\n1,2;3\n", delimiter=";").header == ("a,b", "c")


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n", "\r", "\0", "§"])
def test_a_delimiter_that_cannot_be_one_is_refused(delimiter: str) -> None:
    with pytest.raises(InputError, match="cannot be a delimiter"):
        inspect("a,b\n1,2\n", delimiter=delimiter)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ([" id ", "\tname\n"], ("id", "name")),
        (["id", "", "  "], ("id", "column_2", "column_3")),
        (["a", "a", "a"], ("a", "a_2", "a_3")),
        (["a", " a", "A"], ("a", "a_2", "A")),
        (["a", "a", "a_2"], ("a", "a_3", "a_2")),
        (["a_2", "a", "a", "a"], ("a_2", "a", "a_3", "a_4")),
        (["", "column_1"], ("column_1_2", "column_1")),
        (["column_2", ""], ("column_2", "column_2_2")),
        (["a", "a", "a_2", "a_2"], ("a", "a_3", "a_2", "a_2_2")),
    ],
)
def test_names_are_trimmed_filled_and_made_unique(fields: list[str], names: tuple[str, ...]) -> None:
    assert name_columns(fields) == names


@pytest.mark.parametrize("name", ["a\0", "\ud800"])
def test_a_name_that_cannot_be_stored_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="column 2"):
        name_columns(["id", name])


@pytest.mark.parametrize("before", ["", "\n\r\n\r", ",,\n", " , \n\n", "  \n"])
def test_the_header_is_the_first_record_with_a_name(before: str) -> None:
    head = inspect(before + "id,text\n1,x\n")

    assert head.header == ("id", "text")
    assert head.body_start == len(before) + len("id,text\n")
    assert head.body_line == len(before.splitlines()) + 2


def test_a_header_may_hold_line_ends_and_any_script() -> None:
    head = inspect('"名\n前","\u2028é"\r\n1,2\n')

    assert head.header == ("名\n前", "é")
    assert head.body_line == 3


@pytest.mark.parametrize("data", [b"", b"\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b",,\n", b"  \n"])
def test_a_file_without_header_is_empty(data: bytes) -> None:
    with pytest.raises(EmptyFileError, match="no header"):
        inspect(data)


@pytest.mark.parametrize("data", ["a,b", "a,b\n", "a,b\r\n\r\n", "\ufeffa,b\r", '"a\nb",c\n\n'])
def test_a_file_without_data_record_is_empty(data: str) -> None:
    with pytest.raises(EmptyFileError, match="no data record"):
        inspect(data)


@pytest.mark.parametrize("data", ["a,b\n,\n", "a\n \n", 'a\n"x"y\n', 'a\n"never closed\n'])
def test_any_record_below_the_header_is_data(data: str) -> None:
    assert inspect(data).header[0] == "a"


def test_a_file_whose_first_row_is_beyond_the_head_is_left_to_the_plan() -> None:
    assert inspect("a,b\n" + "x" * MEGABYTE + ",1\n").header == ("a", "b")


def test_a_header_that_never_ends_is_refused() -> None:
    with pytest.raises(InputError, match="header in line 2 does not end"):
        inspect('\na,"b\n' + "x,y\n" * MEGABYTE)


def test_an_open_quote_in_the_header_is_named_by_its_line() -> None:
    with pytest.raises(InputError, match="starts in line 2 has a quoted field that is never closed"):
        inspect('\na,"b\nc\n')


@pytest.mark.parametrize("data", ['"a"b,c\n1,2\n', '"a"b,c'])
def test_text_after_a_closing_quote_in_the_header_is_refused(data: str) -> None:
    with pytest.raises(InputError, match="header in line 1 has text after a closing quote"):
        inspect(data)


@pytest.mark.parametrize(
    ("mark", "encoding"), [(b"", "utf-8"), (b"\xef\xbb\xbf", "utf-8-sig")], ids=["no mark", "mark"]
)
@pytest.mark.parametrize("explicit", [None, "utf-8", "UTF8", "utf-8-sig"])
def test_utf_8_is_read_with_and_without_mark(mark: bytes, encoding: str, explicit: str | None) -> None:
    head = inspect(mark + "é,b\n1,2\n".encode(), encoding=explicit)

    assert (head.header, head.encoding) == (("é", "b"), encoding)
    assert head.body_start == len(mark) + len("é,b\n".encode())


@pytest.mark.parametrize(
    ("mark", "codec", "name"),
    [
        (codecs.BOM_UTF16_LE, "utf-16-le", "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16-be", "utf-16"),
        (codecs.BOM_UTF32_LE, "utf-32-le", "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32-be", "utf-32"),
    ],
)
def test_a_byte_order_mark_says_the_encoding(mark: bytes, codec: str, name: str) -> None:
    head = inspect(mark + "é;b\r\n1;2\n".encode(codec))

    assert head == FileHead(("é", "b"), ";", name, body_start=len("é;b\r\n".encode()), body_line=2)


@pytest.mark.parametrize("name", ["cp1252", "windows-1252", "utf-16-le", "gb18030", "shift_jis", "cp437"])
def test_an_explicit_encoding_is_used(name: str) -> None:
    head = inspect("a,b\n1,2\n".encode(name), encoding=name)

    assert head == FileHead(("a", "b"), ",", codecs.lookup(name).name, body_start=4, body_line=2)


def test_an_explicit_encoding_wins_over_a_mark() -> None:
    data = "\ufeffa,b\n1,2\n".encode()

    assert inspect(data, encoding="cp1252").header == ("ï»¿a", "b")
    with pytest.raises(InputError, match=r"byte 0xFF at offset 0 \(line 1\) is not UTF-8"):
        inspect("a,b\n1,2\n".encode("utf-16"), encoding="utf-8")


def test_a_character_cut_off_by_the_end_of_the_head_is_not_invalid_in_any_encoding() -> None:
    text = "a,b\n" + "é😀" * MEGABYTE
    for shift in ("", "x"):
        assert inspect((shift + text).encode("utf-16")).encoding == "utf-16"


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_mark_is_refused_with_its_name(codec: str) -> None:
    data = ("täxt,漢字\n" + "1,漢字\n" * 20).encode(codec)

    with pytest.raises(InputError, match=f"UTF-16 without a byte order mark.*--encoding {codec}"):
        inspect(data)
    assert inspect(data, encoding=codec).header == ("täxt", "漢字")


def test_utf_16_asked_for_without_a_mark_is_refused_with_the_two_names() -> None:
    with pytest.raises(InputError, match="utf-16-le or utf-16-be"):
        inspect("a,b\n1,2\n".encode("utf-16-le"), encoding="utf-16")


@pytest.mark.parametrize(
    "name", ["klingon", "", "utf-8\0", "hex", "rot13", "base64", "zlib", "idna", "punycode", "undefined"]
)
def test_an_unknown_encoding_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="there is no encoding"):
        inspect("a,b\n1,2\n", encoding=name)


def test_an_invalid_byte_is_shown_as_other_encodings_would_read_it() -> None:
    data = "\ufeffid,city\n1,Rome\n".encode() + "2,Università di Forlì\n".encode("cp1252")

    with pytest.raises(InputError) as caught:
        inspect(data)

    message = str(caught.value)
    offset = data.index(b"\xe0")
    assert f"byte 0xE0 at offset {offset} (line 3) is not UTF-8" in message
    assert "'2,Università di Forlì' in cp1252" in message
    assert "in cp1251" in message
    assert "submit it again with that encoding, for example `--encoding cp1252`" in message


def test_a_character_cut_off_by_the_end_of_the_head_is_not_invalid() -> None:
    text = "a,b\n" + "é" * MEGABYTE
    for shift in ("", "x"):
        assert inspect(shift + text).delimiter == ","


def test_a_character_cut_off_by_the_end_of_the_file_is_invalid() -> None:
    with pytest.raises(InputError, match=r"offset 6 \(line 2\)"):
        inspect(b"a,b\n1,\xc3")
