"""Records as rows of data_records in PostgreSQL's binary COPY format.

A load's own work a row is mostly this, so that what repeats is packed once: the job's columns when it starts,
creators when they first come. The format: https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.4
"""

import struct
from datetime import datetime, timedelta
from functools import lru_cache

from pipeline.ids import CUID_LENGTH
from pipeline.ingest.rows import Record
from schemas.enums import RecordCategory, RecordType

_COLUMNS = (
    "id", "projectId", "type", "category", "source", "content", "metadata",
    "createdById", "createdByName", "createdByEmail", "ingestJobId", "createdAt", "updatedAt",
)  # fmt: skip
COPY_RECORDS = "COPY data_records ({}) FROM STDIN (FORMAT binary)".format(
    ", ".join(f'"{name}"' for name in _COLUMNS)
)

# What comes before the first and behind the last row.
COPY_START = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"

_LENGTH = struct.Struct(">i").pack
_NULL = _LENGTH(-1)
# The number of columns, then the id's length.
_ROW_START = struct.pack(">hi", len(_COLUMNS), CUID_LENGTH)
# A jsonb is a version byte and the JSON's text.
_JSONB_START = struct.Struct(">ib").pack
_JSONB_VERSION = 1
_TIMESTAMP = struct.Struct(">iq").pack
_TIMESTAMP_BYTES = 8
_TIMESTAMP_ZERO = datetime(2000, 1, 1)  # noqa: DTZ001 - PostgreSQL's own zero of a time without zone
_MICROSECOND = timedelta(microseconds=1)


class RecordPacker:
    """Packs the records of one job.

    Args:
        project_id: the project that gets them.
        job_id: the job that loads them.
        source: what their column `source` says.
        loaded_at: the job's time of loading, UTC without zone: for records that name no time of their own.
    """

    def __init__(self, *, project_id: str, job_id: str, source: str, loaded_at: datetime) -> None:
        project = _pack_text(project_id)
        self._project_and_type = {kind: project + _pack_text(kind) for kind in RecordType}
        self._category_and_source = {
            category: _pack_text(category) + _pack_text(source) for category in (None, *RecordCategory)
        }
        self._job = _pack_text(job_id)
        self._loaded_at = _pack_time(loaded_at)

    def pack(self, record_id: str, record: Record) -> bytes:
        """Give the row of a record."""
        kind, category, text, metadata_json, _, by_id, by_name, by_email, created_at, updated_at = record
        content = text.encode()
        return b"".join(
            (
                _ROW_START,
                record_id.encode(),
                self._project_and_type[kind],
                self._category_and_source[category],
                _LENGTH(len(content)),
                content,
                _JSONB_START(1 + len(metadata_json), _JSONB_VERSION),
                metadata_json,
                _pack_creator(by_id, by_name, by_email),
                self._job,
                _pack_time(created_at) if created_at else self._loaded_at,
                _pack_time(updated_at) if updated_at else self._loaded_at,
            )
        )


def _pack_text(text: str | None) -> bytes:
    if text is None:
        return _NULL
    data = text.encode()
    return _LENGTH(len(data)) + data


# A batch has few creators for its many rows.
@lru_cache(maxsize=4096)
def _pack_creator(*creator: str | None) -> bytes:
    return b"".join(map(_pack_text, creator))


def _pack_time(time: datetime) -> bytes:
    return _TIMESTAMP(_TIMESTAMP_BYTES, (time - _TIMESTAMP_ZERO) // _MICROSECOND)
