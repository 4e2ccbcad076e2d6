"""Uploads as they were submitted: stored whole once, read in ranges by any worker."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from pipeline.errors import FatalError, InputError
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
            InputError: the stream has more than `max_bytes` bytes.
        """
        target = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=INCOMING_PREFIX)
        digest, size = hashlib.sha256(), 0
        try:
            with os.fdopen(handle, "wb") as sink:
                while block := source.read(_BLOCK):
                    size += len(block)
                    if max_bytes is not None:
                        _check_size(size, max_bytes)
                    digest.update(block)
                    sink.write(block)
                sink.flush()
                os.fsync(sink.fileno())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return StoredFile(key, size, digest.hexdigest())

    def open(self, key: str) -> BinaryIO:
        """Open a stored file for reading from its start.

        Raises:
            FatalError: the file is gone.
        """
        try:
            return self._path(key).open("rb")
        except FileNotFoundError:
            raise FatalError(f"the upload {key} is no longer in storage: submit the file again") from None

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Read the bytes from `start` up to, not including, `end`.

        Raises:
            FatalError: the file is gone or shorter than it was.
        """
        with self.open(key) as source:
            source.seek(start)
            data = source.read(end - start)
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

    def _path(self, key: str) -> Path:
        return self._folder / key


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise InputError(
            f"the file is larger than {max_bytes:,} bytes: split it, or raise OPSPIPE_MAX_UPLOAD_BYTES"
        )


def get_storage(settings: Settings | None = None) -> FileStorage:
    """Give the storage that the configuration names."""
    return FileStorage((settings or get_settings()).uploads_folder)
