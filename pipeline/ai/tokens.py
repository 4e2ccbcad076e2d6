"""How many tokens a text has, guessed from its characters and corrected by what servers count.

Only a model's own tokenizer knows. The guess is careful: a text is split rather once too often than silently
cut.
"""

import string
from collections.abc import Sequence

# English has about 4.2 characters a token, unusual words fewer. Digits and signs are often a token each, and
# the characters of other scripts as well.
_LETTERS_A_TOKEN = 3.0
_LETTERS_AND_SPACES = (string.ascii_letters + string.whitespace).encode()
# A measured ratio moves the guess, never by more than this, and some room is left above it.
_LOWEST, _HIGHEST, _ROOM = 0.5, 4.0, 1.15
_WEIGHT = 0.2
# A chat's count may leave out what the server had read before, or hold what it adds itself. Nor may one odd
# record make all others too long to be asked about: then no call would ever correct that.
_LOWEST_OF_CHATS, _HIGHEST_OF_CHATS = 0.75, 2.0
# What a call of a language model carries besides its texts: the schema, which some servers want within the
# prompt, and what a chat's form adds.
OVERHEAD_TOKENS = 250
# Texts must be so many times longer than what is counted besides.
_LEAST_SHARE = 4

_corrections: dict[str, float] = {}


def guess_tokens(text: str, model: str = "") -> int:
    """Guess how many tokens a model makes of a text."""
    return int(_raw(text) * _corrections.get(model, 1.0)) + 1


def learn(model: str, texts: Sequence[str], tokens: int, *, overhead: int = 0) -> None:
    """Take note of how many tokens a server counted in texts; 0 says nothing.

    Args:
        model: whose tokens they are.
        texts: all that a call carried.
        tokens: what the server counted.
        overhead: how many of these may be no text's; a chat has some. Of short texts it would say too much.
    """
    raw = sum(_raw(text) for text in texts)
    if tokens <= 0 or not raw or raw < _LEAST_SHARE * overhead:
        return
    lowest, highest = (_LOWEST_OF_CHATS, _HIGHEST_OF_CHATS) if overhead else (_LOWEST, _HIGHEST)
    seen = min(max(tokens / raw * _ROOM, lowest), highest)
    before = _corrections.get(model, 1.0)
    # More tokens than guessed is believed at once, fewer little by little.
    _corrections[model] = seen if seen > before else before + _WEIGHT * (seen - before)


def chars_within(text: str, tokens: int, model: str) -> int:
    """Give how many characters of a text go into so many tokens, at the text's own density."""
    return max(1, int(len(text) * tokens / guess_tokens(text, model))) if text else 1


def _raw(text: str) -> float:
    ascii_chars = text.encode("ascii", "ignore")
    dense = len(text) - len(ascii_chars) + len(ascii_chars.translate(None, _LETTERS_AND_SPACES))
    return dense + (len(text) - dense) / _LETTERS_A_TOKEN
