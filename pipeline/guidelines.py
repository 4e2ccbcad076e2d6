"""Guidelines: the rules in a project's PDF, and the form in which the PDF is stored."""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from pipeline.errors import InputError
from pipeline.pdf_text import read_pdf_text

_MOST_RULES = 200
_SHORTEST, _LONGEST = 15, 600
_ITEM = re.compile(r"^\s*(?:\d{1,3}[.)]|[a-z][.)]|[-*\u2022\u2023\u25e6\u00b7\u2013])\s+(?=\S)")
_PAGE_NUMBER = re.compile(r"^\s*(?:page\s+)?\d+(?:\s*(?:/|of)\s*\d+)?\s*$", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")


@dataclass(frozen=True)
class Guidelines:
    """What was found in a guidelines PDF; the hash is that of the PDF's bytes."""

    sha256: str
    text: str
    rules: tuple[str, ...]


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
    of 15 to 600 characters; a longer one is split at its sentences.
    """
    blocks = _blocks(text)
    items = [block for block, is_item in blocks if is_item]
    chosen = items if len(items) >= 2 else [s for block, _ in blocks for s in _SENTENCE_END.split(block)]  # noqa: PLR2004 - one item is no list
    rules: dict[str, None] = {}
    for entry in chosen:
        parts = [entry] if len(entry) <= _LONGEST else _SENTENCE_END.split(entry)
        rules.update(
            dict.fromkeys(part[:_LONGEST].strip() for part in parts if len(part.strip()) >= _SHORTEST)
        )
    return list(rules)[:_MOST_RULES]


def _blocks(text: str) -> list[tuple[str, bool]]:
    """Join the lines that belong together; tells of each block whether it is an item of a list."""
    blocks: list[tuple[list[str], bool]] = []
    is_open = False
    for line in text.split("\n"):
        if not line.strip() or _PAGE_NUMBER.match(line):
            is_open = is_open and bool(_PAGE_NUMBER.match(line))
            continue
        item = _ITEM.match(line)
        if item:
            blocks.append(([line[item.end() :].strip()], True))
        elif is_open and not _ends_block(blocks[-1][0][-1], line):
            blocks[-1][0].append(line.strip())
        else:
            blocks.append(([line.strip()], False))
        is_open = True
    return [(" ".join(lines), is_item) for lines, is_item in blocks]


def _ends_block(previous: str, line: str) -> bool:
    """A short line without a full stop, after a finished one, is a heading and not a continuation."""
    return previous.endswith((".", "!", "?", ":")) and not line.rstrip().endswith((".", "!", "?", ",", ";"))


def encode_guidelines(pdf: bytes) -> str:
    """Give the form that projects.guidelines holds: base64."""
    return base64.b64encode(pdf).decode()


def decode_guidelines(stored: str) -> bytes:
    """Give the PDF of a stored value: plain base64 or a data URI.

    Raises:
        InputError: it is neither.
    """
    _, _, encoded = stored.rpartition(";base64,")
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise InputError("the stored guidelines are not base64: store the PDF again") from None
