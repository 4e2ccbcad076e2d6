"""Uploads in pieces: a file that grows in storage until it is whole and a job takes it.

Nothing but the file says how far an upload is: its size is the offset. A piece is appended in blocks, each
only if the file still ends where the block begins. So of two who send at once one goes on and the other is
told, and a process that is killed leaves a beginning of what was sent. Beside the file a note says whose it
is and how large it will be. It expires a day after it was last written.
"""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from uuid import UUID

from pydantic import BaseModel

from pipeline.errors import ChecksumError, FatalError, InputError, NotFoundError, OffsetError, TooLargeError
from pipeline.growing import GrowingFile
from pipeline.ids import is_cuid, new_cuid
from pipeline.settings import get_settings
from pipeline.storage import ArrivedFile, Readable, StoredFile, get_storage, too_large

_PREFIX = ".resumable-"
_NOTE = ".json"
_EXPIRES_AFTER = timedelta(days=1)
_LIMIT = 200
# How much of a piece may be lost when the process that takes it is killed.
_BLOCK = 64 * 1024
# Algorithms of checksums, by their names in hashlib and in the protocol alike.
CHECKSUMS = ("sha1", "sha256")


class _Note(BaseModel):
    """What does not change as long as there is an upload."""

    profile_id: UUID
    length: int
    # What the client has said of the file, as it came.
    metadata: str = ""
    file_name: str | None = None


@dataclass(frozen=True)
class ResumableUpload:
    """An upload and how much of it is there, in bytes."""

    id: str
    length: int
    offset: int
    metadata: str
    expires_at: datetime


@dataclass(frozen=True)
class Checksum:
    """What the bytes of a piece must add up to; the algorithm is one of `CHECKSUMS`."""

    algorithm: str
    digest: bytes


def _data_key(upload_id: str) -> str:
    return f"{_PREFIX}{upload_id}"


def _note_key(upload_id: str) -> str:
    return f"{_PREFIX}{upload_id}{_NOTE}"


def create_upload(
    profile_id: UUID, length: int, *, metadata: str = "", file_name: str | None = None
) -> ResumableUpload:
    """Begin an upload.

    Args:
        profile_id: whose it is; nobody else finds it.
        length: of the whole file, in bytes.
        metadata: kept and given back as it is.
        file_name: the name the user knows the file by.

    Raises:
        TooLargeError: the file would be larger than uploads may be.
    """
    most = get_settings().max_upload_bytes
    if length > most:
        raise TooLargeError(too_large(most))
    storage, upload_id = get_storage(), new_cuid()
    note = _Note(profile_id=profile_id, length=length, metadata=metadata, file_name=file_name)
    # The note first: a file without one would be nobody's.
    storage.put(_note_key(upload_id), io.BytesIO(note.model_dump_json().encode()))
    storage.put(_data_key(upload_id), io.BytesIO())
    return find_upload(upload_id, profile_id)


def find_upload(upload_id: str, profile_id: UUID) -> ResumableUpload:
    """Give an upload and how much of it is there for good.

    Raises:
        NotFoundError: the profile has no such upload (any more).
    """
    with _opened(upload_id, profile_id) as (note, file):
        # A killed process may have left what is not on the disk yet, and who is told an offset counts on it.
        file.sync()
        return _view(upload_id, note, file)


def append_piece(
    upload_id: str,
    profile_id: UUID,
    source: Readable,
    *,
    offset: int,
    size: int | None = None,
    checksum: Checksum | None = None,
) -> ResumableUpload:
    """Append what a stream holds to an upload; what came before the stream broke stays.

    Args:
        upload_id: the upload.
        profile_id: whose it is.
        source: read until its end.
        offset: where its first byte belongs.
        size: of the piece in bytes; None where it is not known.
        checksum: of the piece. Nothing of it is kept unless it is whole and right.

    Raises:
        NotFoundError: the profile has no such upload (any more).
        OffsetError: the upload ends elsewhere, or somebody else appends to it.
        InputError: there are more bytes than the upload is to have.
        ChecksumError: the piece is another than was sent.
    """
    with _opened(upload_id, profile_id) as (note, file):
        _check_offset(file, offset)
        piece = _Piece(source, note.length - offset)
        piece.check(size or 0)
        if checksum is None:
            _append_blocks(file, piece, offset)
        else:
            _append_checked(file, piece, offset, checksum)
        file.sync()
        return _view(upload_id, note, file)


def remove_upload(upload_id: str, profile_id: UUID) -> None:
    """Remove an upload, finished or not.

    Raises:
        NotFoundError: the profile has no such upload (any more).
    """
    with _opened(upload_id, profile_id) as (_, file), file.alone():
        _remove(upload_id)


class FinishedUpload(ArrivedFile):
    """An upload that is whole, and nobody else's as long as it is looked at."""

    def __init__(self, file: GrowingFile, length: int, file_name: str | None) -> None:
        self._file, self._length = file, length
        self.file_name = file_name

    def store_as(self, key: str) -> StoredFile:
        """Give the file a second name, `key`, so that it can be submitted again until a job has it."""
        sha256 = self._file.digest()
        # Upkeep takes an old file of no job for a stray one.
        self._file.touch()
        self._file.sync()
        self._file.link(key)
        get_storage().sync_names()
        return StoredFile(key, self._length, sha256)


@contextmanager
def finished_upload(upload_id: str, profile_id: UUID) -> Iterator[FinishedUpload]:
    """Give a finished upload for a job to take; it is gone when the block ends, and stays where it fails.

    Raises:
        NotFoundError: the profile has no such upload (any more).
        InputError: it is not finished; says how much is missing.
    """
    with _opened(upload_id, profile_id) as (note, file), file.alone():
        _check_there(file)
        if file.size != note.length:
            raise InputError(
                f"the upload has {file.size:,} of {note.length:,} bytes: send the rest of it first"
            )
        yield FinishedUpload(file, note.length, note.file_name)
        _remove(upload_id)


def remove_expired_uploads(now: datetime, *, limit: int = _LIMIT) -> int:
    """Remove uploads that were last written a day before `now`; gives their number."""
    before = now - _EXPIRES_AFTER
    files = {file.key: file for file in get_storage().list_files() if file.key.startswith(_PREFIX)}
    old = (key for key, file in files.items() if file.modified_at < before)
    ids = dict.fromkeys(key.removeprefix(_PREFIX).removesuffix(_NOTE) for key in old)
    return sum(1 for _ in islice(filter(lambda found: _remove_if_expired(found, before), ids), limit))


def _remove_if_expired(upload_id: str, before: datetime) -> bool:
    try:
        file = get_storage().grow(_data_key(upload_id))
    except FatalError:  # a removal was killed before it came to the note
        get_storage().delete(_note_key(upload_id))
        return True
    # Who has it at the moment has just written to it, or is about to.
    with file, file.alone(wait=False) as is_alone:
        if not is_alone or file.modified_at >= before:
            return False
        _remove(upload_id)
    return True


def _remove(upload_id: str) -> None:
    storage = get_storage()
    storage.delete(_data_key(upload_id))
    storage.delete(_note_key(upload_id))


@contextmanager
def _opened(upload_id: str, profile_id: UUID) -> Iterator[tuple[_Note, GrowingFile]]:
    missing = NotFoundError(f"there is no upload {upload_id!r}: it was removed, has expired, or never was")
    if not is_cuid(upload_id):
        raise missing
    storage = get_storage()
    try:
        with storage.open(_note_key(upload_id)) as source:
            note = _Note.model_validate_json(source.read())
        file = storage.grow(_data_key(upload_id))
    except FatalError:
        raise missing from None
    with file:
        if note.profile_id != profile_id or file.modified_at + _EXPIRES_AFTER < datetime.now(UTC):
            raise missing
        yield note, file


def _view(upload_id: str, note: _Note, file: GrowingFile) -> ResumableUpload:
    expires_at = file.modified_at + _EXPIRES_AFTER
    return ResumableUpload(upload_id, note.length, file.size, note.metadata, expires_at)


def _check_there(file: GrowingFile) -> None:
    if not file.is_there:
        raise NotFoundError("the upload was removed meanwhile, or a job has it")


def _check_offset(file: GrowingFile, offset: int) -> None:
    if file.size != offset:
        raise OffsetError(f"the upload ends at byte {file.size:,} and not at {offset:,}: go on from there")


class _Piece:
    """A piece of an upload, which must not have more bytes than are missing."""

    def __init__(self, source: Readable, room: int) -> None:
        self._source, self._room = source, room

    def check(self, size: int) -> None:
        if size > self._room:
            raise InputError(f"the piece has more than the {self._room:,} bytes that the upload still takes")

    def read(self, size: int, /) -> bytes:
        block = self._source.read(min(size, self._room)) if self._room else b""
        if len(block) == self._room and self._source.read(1):
            # Not even the last block, so that an upload of which more came is not taken for finished.
            raise InputError("the piece has more bytes than the upload still takes")
        self._room -= len(block)
        return block


def _append_blocks(file: GrowingFile, source: Readable, offset: int) -> None:
    while block := source.read(_BLOCK):
        # Not while waiting for bytes: a line that is dead must not keep its owner from going on by another.
        with file.alone():
            _check_there(file)
            _check_offset(file, offset)
            file.append(block)
        offset += len(block)


def _append_checked(file: GrowingFile, source: Readable, offset: int, checksum: Checksum) -> None:
    """Append a piece only after all of it has come and was found right."""
    digest = hashlib.new(checksum.algorithm, usedforsecurity=False)
    with get_storage().begin() as incoming:
        while block := source.read(_BLOCK):
            digest.update(block)
            incoming.write(block)
        if digest.digest() != checksum.digest:
            raise ChecksumError(f"the piece has another {checksum.algorithm} than was said: send it again")
        with incoming.open() as checked:
            _append_blocks(file, checked, offset)
