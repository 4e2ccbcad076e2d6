"""Uploads as they were submitted: stored whole once, read in ranges by any worker."""

import hashlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from pipeline.errors import FatalError, StorageError, TooLargeError
from pipeline.growing import GrowingFile, writing
from pipeline.settings import Settings, get_settings

_BLOCK = 1024 * 1024
# How the name of a file begins that is not stored whole yet.
INCOMING_PREFIX = ".incoming-"


class Readable(Protocol):
    """Anything that bytes can be read from, a block at a time; nothing at its end."""

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes."""


@dataclass(frozen=True)
class StoredFile:
    """Where a file is kept and what it is."""

    key: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class ListedFile:
    """A file in storage, whole or half stored, and when it was last written."""

    key: str
    modified_at: datetime


class ArrivedFile(ABC):
    """A file whose bytes are in storage already, but not under the key of anything that needs it."""

    @abstractmethod
    def store_as(self, key: str) -> StoredFile:
        """Put the file under `key`, durably and without copying it; what is stored there is replaced."""


class IncomingFile(ArrivedFile):
    """A file on its way into storage, hashed and counted as it is written.

    Whatever it holds is gone when the block ends, unless it was stored.
    """

    def __init__(self, folder: Path, *, max_bytes: int | None) -> None:
        with writing():
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=folder, prefix=INCOMING_PREFIX)
        self._path, self._sink = Path(name), os.fdopen(handle, "wb")
        self._max_bytes = max_bytes
        self._digest, self._size = hashlib.sha256(), 0

    @property
    def sha256(self) -> str:
        """The SHA-256 of what was written so far, in hexadecimal."""
        return self._digest.hexdigest()

    def write(self, block: bytes, /) -> None:
        """Append a block.

        Raises:
            TooLargeError: with it there are more than `max_bytes` bytes.
            StorageError: the storage takes no more, as a disk that is full.
        """
        self._size += len(block)
        if self._max_bytes is not None and self._size > self._max_bytes:
            raise TooLargeError(too_large(self._max_bytes))
        self._digest.update(block)
        with writing():
            self._sink.write(block)

    def store_as(self, key: str) -> StoredFile:
        """Put the file under `key`, durably; what is stored there is replaced.

        Raises:
            StorageError: the storage takes no more.
        """
        with writing():
            self._sink.flush()
            os.fsync(self._sink.fileno())
            self._sink.close()
            self._path.replace(self._path.with_name(key))
            _sync_folder(self._path.parent)
        return StoredFile(key, self._size, self._digest.hexdigest())

    def open(self) -> BinaryIO:
        """Open what has come so far for reading from its start.

        Raises:
            StorageError: the storage takes no more.
        """
        with writing():
            self._sink.flush()
            return self._path.open("rb")

    def discard(self) -> None:
        """Remove what came so far; of a stored file there is nothing left to remove."""
        # What is still buffered may not fit on a disk that is full.
        with suppress(OSError):
            self._sink.close()
        # What cannot be removed now is removed by upkeep, and hides no error that is on its way.
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()


class FileStorage:
    """A folder of uploads. Keys are relative to it and made by us, never by a user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, key: str, source: Readable, *, max_bytes: int | None = None) -> StoredFile:
        """Store a stream under `key`, hashed on the way; all of it or nothing.

        Args:
            key: where; what is stored there is replaced.
            source: read from where it stands.
            max_bytes: the most that may come.

        Raises:
            TooLargeError: the stream has more than `max_bytes` bytes.
            StorageError: the storage takes no more.
        """
        with self.begin(max_bytes=max_bytes) as incoming:
            while block := source.read(_BLOCK):
                incoming.write(block)
            return incoming.store_as(key)

    def begin(self, *, max_bytes: int | None = None) -> IncomingFile:
        """Begin a file that is written block by block, and stored under a key at its end or discarded.

        Args:
            max_bytes: the most that may be written.
        """
        return IncomingFile(self._folder, max_bytes=max_bytes)

    def open(self, key: str) -> BinaryIO:
        """Open a stored file for reading from its start.

        Raises:
            FatalError: the file is gone.
            StorageError: the storage cannot be read for the moment.
        """
        with self._opening(key) as path:
            return path.open("rb")

    def grow(self, key: str) -> GrowingFile:
        """Open a stored file for appending to it.

        Raises:
            FatalError: the file is gone.
            StorageError: the storage cannot be read for the moment.
        """
        with self._opening(key) as path:
            return GrowingFile(path)

    @contextmanager
    def _opening(self, key: str) -> Iterator[Path]:
        try:
            yield self._path(key)
        except FileNotFoundError:
            # Without its folder it is the storage that is away, as where a share is not mounted.
            if not self._folder.is_dir():
                raise StorageError(f"the storage {self._folder} is not there") from None
            raise FatalError(f"the upload {key} is no longer in storage: submit the file again") from None
        except OSError as error:
            raise StorageError(f"the upload {key} cannot be read for the moment: {error}") from error

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Read the bytes from `start` up to, not including, `end`.

        Raises:
            FatalError: the file is gone or shorter than it was.
            StorageError: the storage cannot be read for the moment.
        """
        with self.open(key) as source:
            try:
                source.seek(start)
                data = source.read(end - start)
            except OSError as error:
                raise StorageError(f"the upload {key} cannot be read for the moment: {error}") from error
        if len(data) != end - start:
            raise FatalError(f"the upload {key} ends before byte {end}: submit the file again")
        return data

    def delete(self, key: str) -> None:
        """Remove a stored file; a file that is gone is fine."""
        self._path(key).unlink(missing_ok=True)

    def delete_all(self, prefix: str) -> None:
        """Remove every file whose key begins with `prefix`: an upload's own and what was made of it."""
        for file in list(self.list_files()):
            if file.key.startswith(prefix):
                self.delete(file.key)

    def list_files(self) -> Iterator[ListedFile]:
        """List every file, half-stored ones included; one that goes meanwhile may be missing."""
        if not self._folder.exists():  # nothing was stored yet
            return
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # removed since it was listed
                    if entry.is_file(follow_symlinks=False):
                        modified = entry.stat(follow_symlinks=False).st_mtime
                        yield ListedFile(entry.name, datetime.fromtimestamp(modified, UTC))

    def sync_names(self) -> None:
        """See that the names of all files outlive a crash of the machine."""
        _sync_folder(self._folder)

    def _path(self, key: str) -> Path:
        return self._folder / key


def too_large(max_bytes: int) -> str:
    """Say that a file has more bytes than may come."""
    return f"the file is larger than {max_bytes:,} bytes: split it, or raise OPSPIPE_MAX_UPLOAD_BYTES"


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def get_storage(settings: Settings | None = None) -> FileStorage:
    """Give the storage that the configuration names."""
    return FileStorage((settings or get_settings()).uploads_folder)
