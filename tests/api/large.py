"""Files that are large enough to be felt in memory, and looking at memory meanwhile."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

MIB = 1024 * 1024
# How much more memory the web server may have during a large upload than before.
MOST_GROWTH = 16 * MIB


def rows(size: int) -> Iterator[bytes]:
    """Give at least `size` bytes of a CSV, a block at a time."""
    yield b"id,prompt\n"
    sent = 0
    for number in range(10**9):
        block = b"".join(b"%d-%d,%s\n" % (number, row, b"write a story " * 20) for row in range(200))
        yield block
        sent += len(block)
        if sent >= size:
            return


@contextmanager
def watched(process: psutil.Process) -> Iterator[list[int]]:
    """Look at a process's memory as long as the block; gives what was seen, first what was there before."""
    seen, over = [process.memory_info().rss], threading.Event()

    def _look() -> None:
        while not over.wait(0.02):
            seen.append(process.memory_info().rss)

    thread = threading.Thread(target=_look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
