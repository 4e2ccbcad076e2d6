"""CUIDs as the application beside us makes them: `c`, time, counter, process fingerprint, randomness.

25 characters of base 36, sortable by time to the millisecond, unique without asking anybody. The libraries
at hand either stopped or make the newer kind, which is not sortable.
"""

import itertools
import os
import re
import secrets
import socket
import struct
import time
from functools import lru_cache

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PAIR = 36**2
_BLOCK = _PAIR**2
_counter = itertools.count(secrets.randbelow(_BLOCK))
CUID_LENGTH = 25
_CUID = re.compile(r"c[0-9a-z]{24}")


@lru_cache(maxsize=1)
def _pairs() -> list[str]:
    """Give two digits for every 16 bits: a load makes ids by the million, so they are made in pairs."""
    pairs = [first + second for first in _DIGITS for second in _DIGITS]
    return [pairs[number % _PAIR] for number in range(2**16)]


def _base36(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def _fingerprint() -> str:
    # Asked at every call: a forked worker has another process id than its parent.
    host = socket.gethostname()
    return _base36(os.getpid(), 2) + _base36(sum(map(ord, host)) + len(host) + 36, 2)


def new_cuids(count: int) -> list[str]:
    """Make `count` ids that sort in the order in which they are returned (within one counter's turn)."""
    head, fingerprint = f"c{_base36(int(time.time() * 1000), 8)}", _fingerprint()
    pairs = _pairs()
    noise = struct.iter_unpack("=HHHH", secrets.token_bytes(8 * count))
    return [
        f"{head}{pairs[turn // _PAIR]}{pairs[turn % _PAIR]}{fingerprint}"
        f"{pairs[a]}{pairs[b]}{pairs[c]}{pairs[d]}"
        for turn, (a, b, c, d) in zip(map(_BLOCK.__rmod__, _counter), noise, strict=False)
    ]


def new_cuid() -> str:
    """Make one id."""
    return new_cuids(1)[0]


def is_cuid(text: str) -> bool:
    """Tell whether `text` has the form of a CUID."""
    return _CUID.fullmatch(text) is not None
