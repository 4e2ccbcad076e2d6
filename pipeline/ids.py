"""CUIDs as the application beside us makes them: `c`, time, counter, process fingerprint, randomness.

25 characters of base 36, sortable by time to the millisecond, unique without asking anybody. The libraries
at hand either stopped or make the newer kind, which is not sortable.
"""

import itertools
import os
import re
import secrets
import socket
import time

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_BLOCK = 36**4
_counter = itertools.count(secrets.randbelow(_BLOCK))
_CUID = re.compile(r"c[0-9a-z]{24}")


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
    stamp = _base36(int(time.time() * 1000), 8)
    fingerprint = _fingerprint()
    return [
        f"c{stamp}{_base36(next(_counter) % _BLOCK, 4)}{fingerprint}{_base36(secrets.randbits(64), 8)}"
        for _ in range(count)
    ]


def new_cuid() -> str:
    """Make one id."""
    return new_cuids(1)[0]


def is_cuid(text: str) -> bool:
    """Tell whether `text` has the form of a CUID."""
    return _CUID.fullmatch(text) is not None
