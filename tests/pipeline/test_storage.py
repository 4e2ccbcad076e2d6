"""Uploads in a folder: what is gone is told from what is away for the moment."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import FatalError, TooLargeError, TransientError
from pipeline.storage import FileStorage, StoredFile


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """A storage with one upload, `batch.csv`, that holds three bytes."""
    found = FileStorage(tmp_path / "uploads")
    found.put("batch.csv", io.BytesIO(b"abc"))
    return found


def _read_all(storage: FileStorage) -> bytes:
    return storage.read_range("batch.csv", 0, 3)


def _open(storage: FileStorage) -> bytes:
    with storage.open("batch.csv") as source:
        return source.read()


@pytest.mark.parametrize("read", [_read_all, _open])
def test_an_upload_that_is_gone_is_gone(storage: FileStorage, read: Callable[[FileStorage], bytes]) -> None:
    assert read(storage) == b"abc"
    storage.delete("batch.csv")
    with pytest.raises(FatalError, match=r"batch\.csv is no longer in storage: submit the file again"):
        read(storage)


@pytest.mark.parametrize("read", [_read_all, _open])
def test_a_storage_that_is_away_is_waited_for(
    storage: FileStorage, tmp_path: Path, read: Callable[[FileStorage], bytes]
) -> None:
    (tmp_path / "uploads").rename(tmp_path / "away")
    with pytest.raises(TransientError, match="uploads is not there"):
        read(storage)
    (tmp_path / "away").rename(tmp_path / "uploads")
    assert read(storage) == b"abc"


@pytest.mark.parametrize("read", [_read_all, _open])
def test_an_upload_that_cannot_be_read_is_tried_again(
    storage: FileStorage, tmp_path: Path, read: Callable[[FileStorage], bytes]
) -> None:
    # What a broken disk raises is an OSError too, as for a folder in the file's place.
    storage.delete("batch.csv")
    (tmp_path / "uploads" / "batch.csv").mkdir()
    with pytest.raises(TransientError, match="cannot be read for the moment"):
        read(storage)


def test_an_upload_that_was_cut_is_not_read_in_part(storage: FileStorage) -> None:
    with pytest.raises(FatalError, match="ends before byte 4: submit the file again"):
        storage.read_range("batch.csv", 0, 4)


def _names(storage: FileStorage) -> set[str]:
    return {file.key for file in storage.list_files()}


def test_a_file_that_comes_in_blocks_is_there_when_it_is_stored(storage: FileStorage) -> None:
    with storage.begin() as incoming:
        incoming.write(b"one,")
        incoming.write(b"two")
        assert "whole.csv" not in _names(storage)
        stored = incoming.store_as("whole.csv")
    assert stored == StoredFile("whole.csv", 7, hashlib.sha256(b"one,two").hexdigest())
    assert storage.read_range("whole.csv", 0, 7) == b"one,two"
    assert _names(storage) == {"batch.csv", "whole.csv"}


def test_a_file_that_is_not_stored_is_gone_with_its_block(storage: FileStorage) -> None:
    with storage.begin() as incoming:
        incoming.write(b"half")
    assert _names(storage) == {"batch.csv"}


def test_a_file_that_is_too_large_is_refused_at_its_first_byte_too_many(storage: FileStorage) -> None:
    with storage.begin(max_bytes=4) as incoming:
        incoming.write(b"four")
        with pytest.raises(TooLargeError, match="larger than 4 bytes: split it"):
            incoming.write(b"!")
    with pytest.raises(TooLargeError):
        storage.put("large.csv", io.BytesIO(b"five!"), max_bytes=4)
    assert _names(storage) == {"batch.csv"}
