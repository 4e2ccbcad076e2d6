"""Files that bytes are appended to by whoever knows where they end."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.errors import StorageError


@contextmanager
def writing() -> Iterator[None]:
    """Write to the storage in this block.

    Raises:
        StorageError: it takes no more, as a disk that is full.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"the storage takes no more: {error.strerror}") from error


class GrowingFile:
    """An open file whose lock holds for all threads and processes, and ends with them however they end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Unbuffered: what was appended is in the file, whatever becomes of this process.
        self._file = path.open("r+b", buffering=0)

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def modified_at(self) -> datetime:
        """When it was last written."""
        return datetime.fromtimestamp(os.fstat(self._file.fileno()).st_mtime, UTC)

    @property
    def is_there(self) -> bool:
        """Whether its name still leads to this file: not, once somebody else has removed it."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    @contextmanager
    def alone(self, *, wait: bool = True) -> Iterator[bool]:
        """Keep everybody else from the file as long as the block; False where somebody has it already.

        Args:
            wait: wait until the file is free, so that the block always has it.
        """
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def append(self, block: bytes) -> None:
        """Write a block to the end, all of it or as much as the disk takes before it says so.

        Raises:
            StorageError: it takes no more.
        """
        with writing():
            self._file.seek(0, os.SEEK_END)
            left = memoryview(block)
            while left:
                left = left[self._file.write(left) :]

    def sync(self) -> None:
        """See that what is there outlives a crash of the machine.

        Raises:
            StorageError: it does not take it.
        """
        with writing():
            os.fsync(self._file.fileno())

    def touch(self) -> None:
        """Make it a file that was written just now.

        Raises:
            StorageError: the storage does not take it.
        """
        with writing():
            os.utime(self._file.fileno())

    def digest(self) -> str:
        """Give the SHA-256 of all that is there."""
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()

    def link(self, name: str) -> None:
        """Give the file a second name in its folder; what has it already is replaced.

        Raises:
            StorageError: the storage does not take it.
        """
        with writing():
            target = self._path.with_name(name)
            target.unlink(missing_ok=True)
            target.hardlink_to(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
