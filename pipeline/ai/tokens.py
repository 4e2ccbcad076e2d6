"""How many tokens a text has, guessed from its characters and corrected by what servers count.

Only a model's own tokenizer knows. The guess is careful: a text is split rather once too often than silently
cut.
"""

from collections.abc import Sequence

# English has about 4.2 characters a token, code and unusual words fewer; other scripts down to one.
_ASCII_CHARS, _OTHER_CHARS = 3.0, 1.0
# A measured ratio moves the guess, never by more than this, and some room is left above it.
_LOWEST, _HIGHEST, _ROOM = 0.5, 4.0, 1.15
_WEIGHT = 0.2

_corrections: dict[str, float] = {}


def guess_tokens(text: str, model: str = "") -> int:
    """Guess how many tokens a model makes of a text."""
    return int(_raw(text) * _corrections.get(model, 1.0)) + 1


def learn(model: str, texts: Sequence[str], tokens: int) -> None:
    """Take note of how many tokens a server counted in texts; 0 says nothing."""
    raw = sum(_raw(text) for text in texts)
    if tokens <= 0 or not raw:
        return
    seen = min(max(tokens / raw * _ROOM, _LOWEST), _HIGHEST)
    before = _corrections.get(model, 1.0)
    # More tokens than guessed is believed at once, fewer little by little.
    _corrections[model] = seen if seen > before else before + _WEIGHT * (seen - before)


def chars_within(text: str, tokens: int, model: str) -> int:
    """Give how many characters of a text go into so many tokens, at the text's own density."""
    return max(1, int(len(text) * tokens / guess_tokens(text, model))) if text else 1


def _raw(text: str) -> float:
    ascii_chars = len(text.encode("ascii", "ignore"))
    return ascii_chars / _ASCII_CHARS + (len(text) - ascii_chars) / _OTHER_CHARS
