"""Turning a file of any encoding into UTF-8 as it is read, so that everything else works on UTF-8."""

import codecs
import io
from typing import TYPE_CHECKING, BinaryIO

from pipeline.csvfile.encoding import UTF_8_NAMES, advise_encoding
from pipeline.errors import InputError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BLOCK_BYTES = 64 * 1024
# Only UTF-7 may hold back more than a character: a run of base64 up to its end.
_MAX_HELD_BYTES = 1024 * 1024
_MARK = "\ufeff"


def needs_transcoding(encoding: str) -> bool:
    """Tell whether a file of an encoding, named as in `FileHead.encoding`, is not UTF-8 already."""
    return codecs.lookup(encoding).name not in UTF_8_NAMES


class Utf8Reader(io.BufferedReader):
    """A file's text in UTF-8, without a byte order mark, read in memory of a few blocks.

    Unpaired surrogates of UTF-16 and UTF-32 come through (as `surrogatepass` writes them): they are a fault
    of a row and not of the file. Reading raises InputError for a byte that the encoding does not have, with
    its offset in the original and its line, and for a last character that is cut off.

    Args:
        source: the file's bytes, at its start; it is not closed with the reader.
        encoding: as `FileHead.encoding` names it.
    """

    def __init__(self, source: BinaryIO, encoding: str) -> None:
        super().__init__(_Utf8Blocks(source, encoding), _BLOCK_BYTES)


class _Utf8Blocks(io.RawIOBase):
    def __init__(self, source: BinaryIO, encoding: str) -> None:
        self._source, self._transcoder = source, Transcoder(encoding)
        self._ready, self._is_ended = memoryview(b""), False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        while not self._ready and not self._is_ended:
            data = self._source.read(_BLOCK_BYTES)
            self._is_ended = not data
            self._ready = memoryview(self._transcoder.transcode(data, final=self._is_ended))
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._ready))
        target[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


class Transcoder:
    """Turns a file's bytes into UTF-8, block by block from its start.

    Args:
        encoding: as `FileHead.encoding` names it.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        # Of UTF-8 itself, surrogates are as invalid as any other wrong byte.
        self._errors = "surrogatepass" if encoding.startswith(("utf-16", "utf-32")) else "strict"
        self._decoder = codecs.getincrementaldecoder(encoding)(self._errors)
        self._is_at_start, self._ends_with_return = True, False
        self._read_bytes, self._line = 0, 1

    def transcode(self, data: bytes, *, final: bool) -> bytes:
        """Give the UTF-8 form of the next bytes, as far as their characters are complete.

        Raises:
            InputError: a byte cannot be read, or `final` is set and the last character is cut off.
        """
        state = self._decoder.getstate()
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            raise self._unreadable(data, state, error) from None
        except UnicodeError:  # what the decoders of UTF-16 and UTF-32 say where there is no mark
            raise InputError(
                f"the file has no byte order mark of {self._encoding}: "
                f"submit it again with the encoding {self._encoding}-le or {self._encoding}-be"
            ) from None
        self._read_bytes += len(data)
        self._refuse_held()
        self._count_lines(text)
        if text and self._is_at_start:
            text, self._is_at_start = text.removeprefix(_MARK), False
        return text.encode("utf-8", "surrogatepass")

    def _unreadable(self, data: bytes, state: tuple[bytes, int], error: UnicodeDecodeError) -> InputError:
        # The decoder had the bytes that it held back put before the data.
        position = error.start - len(state[0])
        before = codecs.getincrementaldecoder(self._encoding)(self._errors)
        before.setstate(state)
        self._count_lines(before.decode(data[: max(0, position)]))
        return InputError(
            f"byte 0x{error.object[error.start]:02X} at offset {self._read_bytes + position} "
            f"(line {self._line}) cannot be read as {self._encoding}: {error.reason}. "
            f"The file is damaged or in another encoding. {advise_encoding()}"
        )

    def _refuse_held(self) -> None:
        if len(self._decoder.getstate()[0]) > _MAX_HELD_BYTES:
            raise InputError(
                f"line {self._line} has more than {_MAX_HELD_BYTES:,} bytes of {self._encoding} without an "
                f"end of their sequence. {advise_encoding()}"
            )

    def _count_lines(self, text: str) -> None:
        if not text:
            return
        self._line += text.count("\n") + text.count("\r") - text.count("\r\n")
        self._line -= self._ends_with_return and text.startswith("\n")
        self._ends_with_return = text.endswith("\r")
