"""The head of a file: encoding, delimiter, header, and whether a data record follows.

This is the cheap check at submission and the first step of planning. The rest of the file is not read here.
"""

import csv
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.csvfile.dialect import check_delimiter, detect_delimiter
from pipeline.csvfile.encoding import check_utf8, find_encoding, find_mark, mark_length
from pipeline.csvfile.foreign import explain_refusal, refuse_other_formats
from pipeline.csvfile.header import name_columns
from pipeline.csvfile.lines import as_latin1, as_utf8, complete_length
from pipeline.csvfile.reader import EndAwareLines, make_reader, no_data_record, unclosed_quote
from pipeline.csvfile.transcode import Transcoder, needs_transcoding
from pipeline.errors import EmptyFileError, InputError

HEAD_BYTES = 1024 * 1024


@dataclass(frozen=True)
class FileHead:
    """How a file is to be read, and where its data starts: byte offset and physical line (from 1).

    Both are those of the file itself where it is UTF-8, and otherwise of its form in UTF-8, which has no byte
    order mark (see `Utf8Reader`). `encoding` is always the file's own.
    """

    header: tuple[str, ...]
    delimiter: str
    encoding: str
    body_start: int
    body_line: int


def inspect_head(source: BinaryIO, *, delimiter: str | None = None, encoding: str | None = None) -> FileHead:
    """Read the head of a file from where it stands and check it.

    Args:
        source: the file's bytes, at its start, in any encoding.
        delimiter: wins over detection.
        encoding: wins over a byte order mark.

    Raises:
        EmptyFileError: there is no header or no data record.
        InputError: the file is none of text, its head is not in its encoding, or the header or an option
            cannot be used.
    """
    head, complete = read_head(source)
    return parse_head(head, complete=complete, delimiter=delimiter, encoding=encoding)


def read_head(source: BinaryIO) -> tuple[bytes, bool]:
    """Read up to `HEAD_BYTES` bytes; tell whether the file ends with them."""
    head = b""
    while len(head) <= HEAD_BYTES and (block := source.read(HEAD_BYTES + 1 - len(head))):
        head += block
    return head, len(head) <= HEAD_BYTES


def parse_head(head: bytes, *, complete: bool, delimiter: str | None, encoding: str | None) -> FileHead:
    """Check the head of a file; see `inspect_head`.

    Args:
        head: the file's first bytes.
        complete: whether that is the whole file.
        delimiter: wins over detection.
        encoding: wins over a byte order mark.
    """
    refuse_other_formats(head)
    found = find_encoding(head, encoding)
    try:
        if needs_transcoding(found):
            body = Transcoder(found).transcode(head, final=complete)
        else:
            body = head[mark_length(found) :]
            check_utf8(body, offset=mark_length(found), line=1, final=complete)
        return parse_utf8_head(body, complete=complete, delimiter=delimiter, encoding=found)
    except InputError as error:
        is_known = encoding is not None or find_mark(head) is not None
        raise explain_refusal(error, head, is_encoding_known=is_known) from None


def parse_utf8_head(body: bytes, *, complete: bool, delimiter: str | None, encoding: str) -> FileHead:
    """Find the delimiter and the header of text that is known to be UTF-8.

    Args:
        body: the file's first bytes in UTF-8, behind a byte order mark.
        complete: whether that is the whole file.
        delimiter: wins over detection.
        encoding: the file's own encoding; of UTF-8 with a mark, the head's places count the mark.
    """
    lines = body[: len(body) if complete else complete_length(body)].splitlines(keepends=True)
    text = as_latin1(lines)
    chosen = detect_delimiter(text) if delimiter is None else check_delimiter(delimiter)
    fields, line_count = _read_header(text, chosen, complete=complete)
    length = sum(map(len, lines[:line_count]))
    # An unclosed quote further down is found by the plan, which says so; here it is a record like any other.
    if complete and not body[length:].strip(b"\r\n"):
        raise no_data_record()
    return FileHead(name_columns(fields), chosen, encoding, mark_length(encoding) + length, line_count + 1)


def _read_header(text: list[str], delimiter: str, *, complete: bool) -> tuple[list[str], int]:
    """Give the fields of the header and the number of lines up to its end.

    The header is the first record with a name in it: blank lines and records of blank fields may precede it.
    """
    lines = EndAwareLines(text)
    reader = make_reader(lines, delimiter)
    line = 1
    try:
        for record in reader:
            if any(map(str.strip, fields := [as_utf8(field) for field in record])):
                return fields, reader.line_num
            line = reader.line_num + 1
    except csv.Error:
        if not lines.ended:
            raise InputError(
                f"the header in line {line} has text after a closing quote: "
                'write a " that belongs to a name as "" and quote the whole name'
            ) from None
        if complete:
            raise unclosed_quote(line) from None
    if complete:
        raise EmptyFileError("the file has no header: its first line must name the columns")
    raise InputError(
        f"the header in line {line} does not end within the first {HEAD_BYTES:,} bytes: "
        f'look in line {line} for a " that is never closed, or add a first line that names the columns'
    )
