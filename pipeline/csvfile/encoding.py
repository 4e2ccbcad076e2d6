"""Which encoding a file is in: the one that is given, or that of its byte order mark, or UTF-8, strictly.

What is not UTF-8 then is refused, with the place and what else it may be. Nothing is guessed: charset
guessers were wrong on every real file that they were tried on.
"""

import codecs

from pipeline.csvfile.lines import count_line_ends
from pipeline.errors import InputError

UTF_8_NAMES = ("utf-8", "utf-8-sig")
# Text codecs of Python that no file is written in: for domain names, for source code, and for nothing.
_NOT_FOR_FILES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined", "charmap")
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What spreadsheets and databases write where they do not write UTF-8, the most common first.
_CANDIDATES = ("cp1252", "cp1250", "cp1251", "gb18030", "shift_jis", "euc_kr", "big5", "mac_roman")
_SHOWN_CANDIDATES = 4
_EXCERPT_BYTES = 30


def find_encoding(head: bytes, explicit: str | None) -> str:
    """Name the encoding of a file: `utf-8-sig` for UTF-8 with its mark, otherwise by Python's name.

    Args:
        head: the first bytes of the file.
        explicit: the encoding given with the job; it wins over a byte order mark.

    Raises:
        InputError: there is no encoding of the explicit name, or none that files are in.
    """
    name = find_mark(head) if explicit is None else _check_explicit(explicit)
    if name is None or name in UTF_8_NAMES:
        return "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8"
    return name


def find_mark(head: bytes) -> str | None:
    """Name the encoding that a byte order mark says."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def mark_length(encoding: str) -> int:
    """Count the bytes of the mark of UTF-8 that `find_encoding` found."""
    return len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0


def advise_encoding() -> str:
    """Say how to submit a file again with its encoding."""
    return (
        "Find out how the file was written and submit it again with that encoding, "
        "for example `--encoding cp1252` (over HTTP the field `encoding`), or convert it to UTF-8"
    )


def _check_explicit(encoding: str) -> str:
    try:
        codec = codecs.lookup(encoding)
        "".encode(codec.name)  # refused by codecs that are not between text and bytes
    except (LookupError, ValueError):
        codec = None
    if codec is None or codec.incrementaldecoder is None or codec.name in _NOT_FOR_FILES:
        raise InputError(
            f"there is no encoding {encoding!r} of text files: give a name such as utf-8, utf-16 or cp1252"
        )
    return codec.name


def check_utf8(data: bytes, start: int = 0, *, offset: int, line: int, final: bool) -> int:
    """Check that `data` is UTF-8 from `start` on; gives where a sequence begins that is cut off at its end.

    Args:
        data: bytes that start at a line's start.
        start: how many of them are known to be UTF-8.
        offset: where `data` starts in the file, for the message.
        line: the physical line that `data` starts in, from 1.
        final: whether the file ends with `data`; otherwise a sequence may be cut off at its end.

    Raises:
        InputError: names the first invalid byte, its line and the encodings that would read it.
    """
    part = data[start:]
    if part.isascii():
        return len(data)
    try:
        return start + codecs.utf_8_decode(part, "strict", final)[1]
    except UnicodeDecodeError as error:
        raise _invalid_byte(data, start + error.start, offset, line) from None


def _invalid_byte(data: bytes, position: int, offset: int, line: int) -> InputError:
    line += count_line_ends(data[:position])
    readings = _readings(_excerpt(data, position))
    likely = f" It would read {'; '.join(readings)}." if readings else ""
    return InputError(
        f"byte 0x{data[position]:02X} at offset {offset + position} (line {line}) is not UTF-8.{likely} "
        f"{advise_encoding()}"
    )


def _excerpt(data: bytes, position: int) -> bytes:
    """Cut what stands around a byte out of its line, from a word's start where there is one near."""
    before = data[max(0, position - _EXCERPT_BYTES) : position].splitlines(keepends=True)
    start = before[-1] if before and not before[-1].endswith((b"\n", b"\r")) else b""
    if len(start) == _EXCERPT_BYTES and b" " in start:
        start = start[start.index(b" ") + 1 :]
    return start + data[position : position + _EXCERPT_BYTES].splitlines()[0]


def _readings(excerpt: bytes) -> list[str]:
    readings: dict[str, str] = {}
    for name in _CANDIDATES:
        # An excerpt may end inside a character: only its whole characters count.
        try:
            text = codecs.getincrementaldecoder(name)().decode(excerpt)
        except UnicodeDecodeError:
            continue
        if text.replace("\t", " ").isprintable():
            readings.setdefault(text, name)
    return [f"{text!r} in {name}" for text, name in list(readings.items())[:_SHOWN_CANDIDATES]]
