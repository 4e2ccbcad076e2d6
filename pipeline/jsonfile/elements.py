"""The elements of a batch in JSON, one after the other, in memory bounded by the largest of them.

Each is parsed by the standard library's decoder, which can start anywhere in a text and says where the value
ends, so that a batch of any size is read in blocks. Numbers keep the text they are written with.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.errors import EmptyFileError, InputError
from pipeline.storage import Readable

BLOCK_BYTES = 256 * 1024
# What the decoder raises for a text that is no JSON, or is nested more deeply than it can follow.
_FAULTS = (ValueError, RecursionError)
_SPACE = re.compile(r"[ \t\n\r]*")
_SHOWN_CHARACTERS = 40
# Longer than any literal or escape of JSON: one that the end of a block cuts off begins this near to it.
_LONGEST_WORD = 16


class NumberText(str):
    """A number as it is written: 1.10 stays 1.10, and an integer of any size exact."""

    __slots__ = ()


class Element(NamedTuple):
    """A value and the line (from 1) that it starts in; where `is_json` is False, a text that is no JSON."""

    line: int
    value: object
    is_json: bool = True


class _Decoder:
    """The standard library's decoder, that keeps numbers as they are written and refuses what is no JSON."""

    def __init__(self) -> None:
        # NaN and the infinities, which the decoder would read although JSON has none.
        self._constants: list[str] = []
        self._decoder = json.JSONDecoder(
            parse_int=NumberText, parse_float=NumberText, parse_constant=self._constants.append
        )

    def decode(self, text: str, place: int = 0) -> tuple[object, int, bool]:
        """Read the value that starts at `place`; gives it, where it ends, and whether it is JSON.

        Raises:
            ValueError: there is no value, or no end of it.
            RecursionError: it is nested more deeply than can be followed.
        """
        self._constants.clear()
        value, end = self._decoder.raw_decode(text, place)
        return value, end, not self._constants


def read_elements(source: Readable, *, max_record_bytes: int) -> Iterator[Element]:
    """Read the elements of a batch: of an array, of JSON Lines, or one object.

    Args:
        source: UTF-8, with or without a byte order mark, from its start.
        max_record_bytes: an element larger than this is refused while it is being read.

    Raises:
        EmptyFileError: there is no element.
        InputError: the text is not UTF-8, no batch, broken outside of a line of JSON Lines, or an element is
            too large. The message names the line.
    """
    text = _Text(source, max_record_bytes)
    text.skip_space()
    if text.next() == "[":
        yield from _read_array(text)
    elif text.next() == "{":
        yield from _read_lines(text) if _is_whole(text.peek_line()) else _read_documents(text)
    elif text.next():
        raise InputError(
            f"line {text.line} begins with {text.peek_line()[:_SHOWN_CHARACTERS]!r}: a batch is a JSON array "
            "of objects, JSON Lines (an object a line), or one JSON object"
        )
    else:
        raise EmptyFileError("the batch is empty: it must hold at least one JSON object")


def _is_whole(line: str) -> bool:
    """Tell whether a first line is all of its object, so that the batch has an object a line."""
    line = line.rstrip()
    try:
        _, end, _ = _Decoder().decode(line)
    except json.JSONDecodeError as error:
        # The beginning of an object over several lines has its fault at its end, where it goes on.
        return line.endswith("}") and error.pos < len(line)
    except RecursionError:
        return line.endswith("}")
    return end == len(line)


def _read_lines(text: "_Text") -> Iterator[Element]:
    decoder = _Decoder()
    while line := text.take_line():
        number = text.line - 1 if line.endswith("\n") else text.line
        content = line.strip()
        if not content:
            continue
        try:
            value, end, is_json = decoder.decode(content)
        except _FAULTS:
            is_json = False
        if is_json and end == len(content):
            yield Element(number, value)
        else:
            yield Element(number, content, is_json=False)


def _read_documents(text: "_Text") -> Iterator[Element]:
    while text.next():
        yield text.take_value()
        text.skip_space()


def _read_array(text: "_Text") -> Iterator[Element]:
    text.skip(1)
    text.skip_space()
    if text.next() == "]":
        raise EmptyFileError("the batch is an empty array: it must hold at least one JSON object")
    while True:
        yield text.take_value()
        text.skip_space()
        mark = text.next()
        if mark not in {",", "]"}:
            raise text.error("a comma or the array's end is missing")
        text.skip(1)
        text.skip_space()
        if mark == "]":
            break
    if text.next():
        raise text.error("something follows the array's end")


class _Text:
    """A text that is read from its source as far as it is asked for; what was taken is let go."""

    def __init__(self, source: Readable, max_record_bytes: int) -> None:
        self._source, self._limit = source, max_record_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._held, self._place, self._is_ended = "", 0, False
        self._read_bytes = 0
        self._values = _Decoder()
        self.line = 1

    def next(self) -> str:
        """Give the next character; nothing at the end."""
        while self._place == len(self._held) and not self._is_ended:
            self._read(BLOCK_BYTES)
        return self._held[self._place : self._place + 1]

    def skip(self, count: int) -> None:
        """Let go of the next characters."""
        self.line += self._held.count("\n", self._place, self._place + count)
        self._place += count

    def skip_space(self) -> None:
        """Let go of the white space that stands here."""
        while self.next():
            found = _SPACE.match(self._held, self._place)
            self.skip(found.end() - self._place if found else 0)
            if self._place < len(self._held):
                break

    def peek_line(self) -> str:
        """Give the rest of the line, as far as it is no longer than a record may be."""
        while (end := self._held.find("\n", self._place)) < 0 and self._may_read():
            self._read_more()
        return self._held[self._place : end if end >= 0 else None]

    def take_line(self) -> str:
        """Take the rest of the line with its end; nothing at the text's end."""
        line = self.peek_line()
        self.skip(len(line))
        if self.next() == "\n":
            self.skip(1)
            return line + "\n"
        if self.next():
            raise self._too_large()
        return line

    def take_value(self) -> Element:
        """Take one value, which stands here."""
        while True:
            try:
                value, end, is_json = self._values.decode(self._held, self._place)
            except _FAULTS as error:
                if not self._may_be_cut_off(error):
                    raise self._broken(error) from None
            else:
                # A number may go on in what was not read yet.
                if end < len(self._held) or not self._may_read():
                    break
            self._read_more()
        element = Element(self.line, value if is_json else self._held[self._place : end], is_json)
        self.skip(end - self._place)
        return element

    def _may_be_cut_off(self, error: Exception) -> bool:
        """Tell whether the value may be whole once more was read: its fault is at the end of what is held."""
        if not self._may_read() or not isinstance(error, json.JSONDecodeError):
            return False
        return len(self._held) - error.pos < _LONGEST_WORD or error.msg.startswith("Unterminated string")

    def error(self, problem: str) -> InputError:
        """Make the error of a batch that is broken here."""
        shown = self._held[self._place : self._place + _SHOWN_CHARACTERS]
        return InputError(f"the batch is broken in line {self.line}, at {shown!r}: {problem}")

    def _may_read(self) -> bool:
        return not self._is_ended and len(self._held) - self._place <= self._limit

    def _read_more(self) -> None:
        # Doubled each time, because the value is parsed anew from its start.
        self._read(max(BLOCK_BYTES, len(self._held) - self._place))

    def _read(self, size: int) -> None:
        data = self._source.read(size)
        self._is_ended = not data
        try:
            text = self._decoder.decode(data, final=self._is_ended)
        except UnicodeDecodeError as error:
            offset = self._read_bytes + error.start
            raise InputError(
                f"byte 0x{error.object[error.start]:02X} near offset {offset} is not UTF-8, as JSON has to be"
            ) from None
        self._read_bytes += len(data)
        self._held, self._place = self._held[self._place :] + text, 0

    def _broken(self, error: Exception) -> InputError:
        if not isinstance(error, json.JSONDecodeError):
            return self.error("it is nested too deeply")
        if not self._is_ended and not self._may_read():
            return self._too_large()
        self.skip(error.pos - self._place)
        return self.error(error.msg)

    def _too_large(self) -> InputError:
        return InputError(
            f"the element that starts in line {self.line} is larger than {self._limit:,} bytes or broken: "
            "check its brackets and quotes, or raise OPSPIPE_MAX_RECORD_BYTES"
        )
