"""Guidelines: the rules in a project's PDF, and the form in which the PDF is stored."""

import base64
import hashlib
import math
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from pipeline.errors import InputError
from pipeline.pdf_text import read_pdf_text

_MOST_RULES = 200
_SHORTEST, _LONGEST = 15, 600
# Headings, one below the other, that go with what they stand above.
_LONGEST_HEADING = 300
_ITEM = re.compile(
    r"^\s*(?:(?:\d{1,3}[.)]|\d{1,3}(?:\.\d{1,3})+[.)]?|\((?:\d{1,3}|[a-z])\)|[a-z][.)])"
    r"|(?:rule|guideline)\s+\d{1,3}\s*[:.)]"
    r"|[-*\u2022\u2023\u25e6\u00b7\u2013])\s+(?=\S)",
    re.IGNORECASE,
)
# Typeset lists often lose the full stop behind their numbers.
_BARE_NUMBER = re.compile(r"^(\d{1,3})\s+(?=[A-Z\"'(])")
_PAGE_NUMBER = re.compile(r"^\s*(?:page\s+)?\d+(?:\s*(?:/|of)\s*\d+)?\s*$", re.IGNORECASE)
_SENTENCE_BREAK = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")
_SENTENCE_END = re.compile(r"[.!?:][\"')\u201d\u2019]*$")
# A line that reaches this share of the text's width was wrapped; a shorter one ends its paragraph.
_WRAPPED_SHARE = 0.7
# The width is that of the ninth decile: one long line alone does not make all others short.
_WIDTH_QUANTILE = 0.9


@dataclass(frozen=True)
class Guidelines:
    """What was found in a guidelines PDF; the hash is that of the PDF's bytes."""

    sha256: str
    text: str
    rules: tuple[str, ...]


@dataclass(frozen=True)
class _Block:
    """Lines that belong together, the mark of an item left out, and the number of the first of them."""

    lines: list[str]
    start: int
    is_item: bool

    @property
    def text(self) -> str:
        return " ".join(self.lines)


def read_guidelines(pdf: bytes) -> Guidelines:
    """Read a guidelines PDF.

    Raises:
        InputError: the PDF cannot be read (see `read_pdf_text`), or no rule is found in its text.
    """
    text = read_pdf_text(pdf)
    rules = split_rules(text)
    if not rules:
        raise InputError("no rules were found in the PDF: it needs numbered items, bullets or full sentences")
    return Guidelines(hashlib.sha256(pdf).hexdigest(), text, tuple(rules))


def split_rules(text: str) -> list[str]:
    """Split a text into rules: its numbered items and bullets, or its sentences where it has none.

    Wrapped lines are joined, headings and page numbers dropped, repeated rules kept once. At most 200 rules
    of 15 to 600 characters; a longer one is split at its sentences, a longer sentence at white space.
    """
    blocks = _blocks(text)
    items = [block.text for block in blocks if block.is_item]
    rules = dict.fromkeys(
        part.strip()
        for entry in (items if len(items) > 1 else _sentences(text, [block.text for block in blocks]))
        for part in _shortened(entry)
        if len(part.strip()) >= _SHORTEST
    )
    return list(rules)[:_MOST_RULES]


@lru_cache(maxsize=8)
def split_passages(text: str) -> tuple[str, ...]:
    """Split a text into passages, in its order: each word of it is in one, whether a rule or not.

    A passage is a paragraph or an item of a list, with the heading before it, of at most 600 characters; a
    longer one is split at its sentences, a longer sentence at white space.
    """
    # As many as there are: a book of 1,000 pages has some 6,000, which are embedded once a process.
    lines = [line.strip() for line in text.split("\n")]
    blocks = _blocks(text)
    # What `_blocks` leaves out, page numbers, goes with the block before it.
    bounds = [0, *(block.start for block in blocks[1:]), len(lines)]
    passages: list[str] = []
    heading = ""
    for number, (start, end) in enumerate(pairwise(bounds), start=1):
        passage = " ".join(filter(None, (heading, *lines[start:end])))
        heading = ""
        is_heading = number < len(blocks) and _is_heading(blocks[number - 1], blocks[number])
        if is_heading and len(passage) < _LONGEST_HEADING:
            heading = passage
        else:
            passages += _pack(_shortened(passage))
    return tuple(passages)


def _is_heading(block: _Block, following: _Block) -> bool:
    """Tell whether a block is the heading of the one that follows; items of a list are none of each other."""
    return not _SENTENCE_END.search(block.text) and not (block.is_item and following.is_item)


def _pack(parts: Iterable[str]) -> list[str]:
    """Join parts that follow each other, as long as they make no passage that is too long."""
    packed: list[str] = []
    for part in parts:
        if packed and len(packed[-1]) + len(part) < _LONGEST:
            packed[-1] += f" {part}"
        else:
            packed.append(part)
    return packed


def _sentences(text: str, blocks: list[str]) -> list[str]:
    # A block without the end of a sentence is a heading. Where no block has one, each line is a rule.
    paragraphs = [block for block in blocks if _SENTENCE_END.search(block)]
    if not paragraphs:
        return [line.strip() for line in text.split("\n") if not _PAGE_NUMBER.match(line)]
    return [sentence for paragraph in paragraphs for sentence in _SENTENCE_BREAK.split(paragraph)]


def _shortened(entry: str) -> list[str]:
    if len(entry) <= _LONGEST:
        return [entry]
    return [piece for part in _SENTENCE_BREAK.split(entry) for piece in _wrap(part)]


def _wrap(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, _LONGEST, break_on_hyphens=False)


def _blocks(text: str) -> list[_Block]:
    """Join the lines that belong together; blank ones and page numbers are in none."""
    lines = _with_full_stops([line.strip() for line in text.split("\n")])
    width = _width(lines)
    blocks: list[_Block] = []
    is_open = False
    for number, line in enumerate(lines):
        if not line or _PAGE_NUMBER.match(line):
            # A page number within a paragraph does not end it, nor do the blank lines around a page's end.
            is_open = is_open and not _ends_block(blocks[-1].lines[-1], line, width)
            continue
        item = _ITEM.match(line)
        if item:
            blocks.append(_Block([line[item.end() :]], number, is_item=True))
        elif is_open and not _ends_block(blocks[-1].lines[-1], line, width):
            blocks[-1].lines.append(line)
        else:
            blocks.append(_Block([line], number, is_item=False))
        is_open = True
    return blocks


def _with_full_stops(lines: list[str]) -> list[str]:
    """Write `1 text` as `1. text` where such numbers count up from 1, which makes them a list's."""
    numbered: dict[int, str] = {}
    for index, line in enumerate(lines):
        found = _BARE_NUMBER.match(line)
        if found and int(found[1]) == len(numbered) + 1:
            numbered[index] = f"{found[1]}. {line[found.end() :]}"
    return [numbered.get(index, line) for index, line in enumerate(lines)] if len(numbered) > 1 else lines


def _width(lines: list[str]) -> int:
    lengths = sorted(len(line) for line in lines if line)
    return lengths[math.ceil(_WIDTH_QUANTILE * (len(lengths) - 1))] if lengths else 0


def _ends_block(previous: str, line: str, width: int) -> bool:
    """Tell whether a line begins something new, judged by how the line before it ended."""
    if len(previous) >= _WRAPPED_SHARE * width:
        return not line and bool(_SENTENCE_END.search(previous))
    # Text goes on in lower case after a short line: a narrow column, or a break before a long word.
    return not line[:1].islower()


def encode_guidelines(pdf: bytes) -> str:
    """Give the form that projects.guidelines holds: base64."""
    return base64.b64encode(pdf).decode()


def decode_guidelines(stored: str) -> bytes:
    """Give the PDF of a stored value: base64, wrapped in lines or not, plain or as a data URI.

    Raises:
        InputError: it is neither.
    """
    _, _, encoded = stored.rpartition(";base64,")
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except ValueError:  # binascii.Error, and what b64decode raises for characters beyond ASCII
        raise InputError("the stored guidelines are not base64: store the PDF again") from None
