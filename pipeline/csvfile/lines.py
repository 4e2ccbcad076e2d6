"""Physical lines in bytes: where they end and how many there are.

A line ends with LF, CRLF or a lone CR, as `open(newline="")` has it and as `bytes.splitlines` splits;
`str.splitlines` also splits at U+2028, U+0085 and others, which are content here.
"""


def complete_length(data: bytes) -> int:
    """Count the bytes up to the end of the last line that is surely complete.

    A CR at the very end may be the first half of a CRLF, so its line waits for what follows.
    """
    end = len(data) - data.endswith(b"\r")
    return max(data.rfind(b"\n", 0, end), data.rfind(b"\r", 0, end)) + 1


def count_line_ends(data: bytes) -> int:
    """Count the line ends in `data`, a CR at the very end included."""
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


def as_latin1(lines: list[bytes]) -> list[str]:
    """Turn lines into text of one character a byte, for finding records in UTF-8.

    Quotes, delimiters and line ends are ASCII, and no byte of a longer UTF-8 sequence is: records start and
    end at the same bytes, and a character's position is the byte's.
    """
    return [line.decode("latin-1") for line in lines]


def as_utf8(field: str) -> str:
    """Turn a field read from `as_latin1` lines into its real text."""
    return field.encode("latin-1").decode("utf-8", "surrogatepass")
