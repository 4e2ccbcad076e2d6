"""Where the records of a run of lines end: by their quotes, for a whole block of the file at a time.

The first and usual way takes 64 bytes at a step: an array of bits says which bytes are quotes, the exclusive
or of all bits up to each byte says whether it stands inside quotes, and a record ends at a line end outside.
That holds where every quote opens a field, closes one or belongs to a `""`. A block with other quotes is
taken quote by quote, still without a loop, and what is malformed is read by `csv.reader` itself.
"""

import csv
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.csvfile.lines import as_latin1
from pipeline.csvfile.reader import EndAwareLines, make_reader

_QUOTE, _FEED, _RETURN = b'"\n\r'
_DOUBLING_SHIFTS = tuple(np.uint64(1 << power) for power in range(6))
_ONE, _TOP, _ALL = np.uint64(1), np.uint64(63), np.uint64(2**64 - 1)

# One value a byte, one bit a byte, and one value a line or record.
_Mask = NDArray[np.bool_]
_Bits = NDArray[np.uint64]
Numbers = NDArray[np.int64]


class Records(NamedTuple):
    """For each record, in order: the offset behind it and how many lines end up to there.

    A blank line counts as one here, so that each record starts where the one before it ends.
    """

    ends: Numbers
    line_counts: Numbers


def find_records(data: bytes, delimiter: str) -> Records:
    """Find the records that end in `data`, as `csv.reader(strict=True)` ends them.

    Args:
        data: complete lines from a record's start on; the last record may be open at the end.
        delimiter: one ASCII character.
    """
    codes = np.frombuffer(data, np.uint8)
    line_ends = breaks = codes == _FEED
    if b"\r" in data:
        returns = codes == _RETURN
        line_ends, breaks = breaks.copy(), breaks | returns
        # A CR before a LF ends no line of its own.
        line_ends[:-1] |= returns[:-1] > line_ends[1:]
        line_ends[-1] = True
    ends = np.flatnonzero(line_ends)
    if b'"' not in data:
        return Records(ends + 1, np.arange(1, len(ends) + 1))
    inside, malformed_at = _find_quoted(codes == _QUOTE, breaks | (codes == ord(delimiter)))
    outside = np.flatnonzero(inside[ends] == 0)
    found = Records(ends[outside] + 1, outside + 1)
    return found if malformed_at is None else _read_on(found, malformed_at, data, delimiter)


def read_records(data: bytes, delimiter: str) -> Records:
    """Do what `find_records` does by reading every record, which is slow and right by definition."""
    lines = data.splitlines(keepends=True)
    text = EndAwareLines(as_latin1(lines))
    reader = make_reader(text, delimiter)
    counts: list[int] = []
    while True:
        try:
            counts.extend(reader.line_num for _ in reader)
        except csv.Error:
            if text.ended:
                break  # inside quotes: the record goes on behind `data`
            counts.append(reader.line_num)
        else:
            break
    edges = np.fromiter(accumulate(map(len, lines), initial=0), np.int64, len(lines) + 1)
    line_counts = np.array(counts, np.int64)
    return Records(edges[line_counts], line_counts)


def _read_on(found: Records, malformed_at: int, data: bytes, delimiter: str) -> Records:
    """Keep what ends before a malformed record and read from that record on."""
    kept = int(np.searchsorted(found.ends, malformed_at, side="right"))
    start, line_count = (int(found.ends[kept - 1]), int(found.line_counts[kept - 1])) if kept else (0, 0)
    read = read_records(data[start:], delimiter)
    return Records(
        np.concatenate((found.ends[:kept], read.ends + start)),
        np.concatenate((found.line_counts[:kept], read.line_counts + line_count)),
    )


def _find_quoted(quotes: _Mask, separators: _Mask) -> tuple[NDArray[np.uint8], int | None]:
    """Tell which bytes stand inside quotes, and where the first malformed record has its fault.

    Args:
        quotes: which bytes are quotes.
        separators: which bytes are delimiters or of a line end; the last byte is one.
    """
    quote_bits, separator_bits = _pack(quotes), _pack(separators)
    inside = _accumulate(quote_bits)
    opening, closing = quote_bits & inside, quote_bits & ~inside
    # A quote that would open a field directly behind a closing one is the second of a "".
    misplaced = opening & ~_move_up(separator_bits | closing) | closing & ~_move_down(
        separator_bits | quote_bits
    )
    malformed_at = None
    if misplaced.any():
        quotes, malformed_at = _drop_ordinary_quotes(quotes, separators)
        inside = _accumulate(_pack(quotes))
    return np.unpackbits(inside.view(np.uint8), bitorder="little"), malformed_at


def _drop_ordinary_quotes(quotes: _Mask, separators: _Mask) -> tuple[_Mask, int | None]:
    """Leave out the quotes inside unquoted fields, up to the first fault, whose place is given too.

    A run of adjacent quotes does one of four things to the state "inside quotes": it sets it, clears it,
    turns it round or leaves it. Which one depends on the run and its two neighbours alone, so the state
    behind any run is what the last run that set or cleared it left, turned round as often as was done since.
    """
    places = np.flatnonzero(quotes)
    is_first = np.ones(len(places), np.bool_)
    is_first[1:] = places[1:] != places[:-1] + 1
    firsts = np.flatnonzero(is_first)
    lengths = np.diff(firsts, append=len(places))
    starts = places[firsts]
    # The last byte ends a line, so index -1 says rightly that a field starts with the first byte.
    opens, ends = separators[starts - 1], separators[starts + lengths]
    odd = lengths % 2 == 1
    sets, clears, turns = opens & ~ends, ~opens & odd, opens & odd & ends
    decided = np.maximum.accumulate(np.where(sets | clears, np.arange(len(starts)), -1))
    turned = np.cumsum(turns)
    # Where nothing was decided yet, the state is "outside", and index -1 no answer.
    is_decided = decided >= 0
    turned_since = turned - np.where(is_decided, turned[decided], 0)
    after = (is_decided & sets[decided]) ^ (turned_since % 2 == 1)
    before = np.concatenate(([False], after[:-1]))
    # Text behind the closing quote: of a field that the run closes, or opens and closes.
    malformed = np.flatnonzero(sets & (before == odd) | clears & ~ends & before)
    kept = quotes.copy()
    kept[places[np.repeat(~opens & ~before, lengths)]] = False
    return kept, int(starts[malformed[0]]) if len(malformed) else None


def _pack(mask: _Mask) -> _Bits:
    """Give one bit a byte, the first the lowest, in whole words."""
    packed = np.packbits(mask, bitorder="little")
    words = np.zeros(-(-len(mask) // 64), "<u8")
    words.view(np.uint8)[: len(packed)] = packed
    return words


def _accumulate(bits: _Bits) -> _Bits:
    """Give the exclusive or of all bits up to and including each."""
    for shift in _DOUBLING_SHIFTS:
        bits = bits ^ (bits << shift)
    odd = bits >> _TOP
    before: _Bits = np.bitwise_xor.accumulate(odd) ^ odd
    return bits ^ (before * _ALL)


def _move_up(bits: _Bits) -> _Bits:
    """Move each bit to the next byte; the first byte gets one, as a field starts there."""
    moved = bits << _ONE
    moved[1:] |= bits[:-1] >> _TOP
    moved[0] |= _ONE
    return moved


def _move_down(bits: _Bits) -> _Bits:
    """Move each bit to the byte before."""
    moved = bits >> _ONE
    moved[:-1] |= bits[1:] << _TOP
    return moved
