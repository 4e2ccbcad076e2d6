"""The limit of a load: COPY of rows that are normalized and packed already, and nothing else."""

import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from sqlalchemy import text

from pipeline import database
from pipeline.csvfile import plan_file, read_fields
from pipeline.ids import new_cuids
from pipeline.ingest.copyrows import COPY_END, COPY_RECORDS, COPY_START, RecordPacker
from pipeline.ingest.identity import digest_identity
from pipeline.ingest.rows import Record, RowOptions, RowReader
from pipeline.servers import endpoints
from pipeline.settings import get_settings
from schemas.enums import RecordType

_COPY_IDENTITIES = "COPY record_identities (digest, record_id) FROM STDIN (FORMAT binary)"
_IDENTITY_ROW = struct.Struct(">hi16si").pack
_PROJECT, _JOB = "limit", "j" * 25


def pack_file(file: Path, folder: Path) -> list[Path]:
    """Pack a file chunk by chunk as a load does.

    Returns:
        For each chunk, a file in `folder` with its rows of data_records, beside one (`.identities`) with
        those of record_identities.
    """
    folder.mkdir()
    settings = get_settings()
    with file.open("rb") as source:
        plan = plan_file(
            source,
            chunk_rows=settings.chunk_rows,
            chunk_bytes=settings.chunk_bytes,
            max_record_bytes=settings.max_record_bytes,
        )
        reader = RowReader(plan.header, RowOptions(RecordType.TASK))
        now = datetime.now(UTC).replace(tzinfo=None)
        packer = RecordPacker(project_id=_PROJECT, job_id=_JOB, source=f"csv:{file.name}", loaded_at=now)
        known: set[bytes] = set()
        blocks: list[Path] = []
        for chunk in plan.chunks:
            source.seek(chunk.start)
            data = source.read(chunk.end - chunk.start)
            records = []
            for fields in read_fields(data, delimiter=plan.delimiter):
                record = reader.read(fields)
                if isinstance(record, Record) and record.identity is not None:
                    digest = digest_identity(_PROJECT, record.type, record.identity)
                    if digest not in known:
                        known.add(digest)
                        records.append((digest, record))
            ids = new_cuids(len(records))
            claims = sorted((digest, cuid) for cuid, (digest, _) in zip(ids, records, strict=True))
            identities = b"".join(
                _IDENTITY_ROW(2, 16, digest, len(cuid)) + cuid.encode() for digest, cuid in claims
            )
            rows = b"".join(packer.pack(cuid, record) for cuid, (_, record) in zip(ids, records, strict=True))
            block = folder / f"{len(blocks):05}.records"
            block.write_bytes(COPY_START + rows + COPY_END)
            block.with_suffix(".identities").write_bytes(COPY_START + identities + COPY_END)
            blocks.append(block)
    return blocks


def copy_blocks(blocks: Sequence[Path], *, connections: int) -> float:
    """Copy blocks into the empty tables, a transaction each, over some connections at once; gives seconds."""
    with database.transaction() as session:
        session.execute(text("INSERT INTO projects (id, name) VALUES (:id, 'limit')"), {"id": _PROJECT})
    database.get_engine().dispose()
    command = [sys.executable, __file__, endpoints().database_url]
    copiers = [
        subprocess.Popen(
            [*command, *blocks[place::connections]], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for place in range(connections)
    ]
    for copier in copiers:
        copier.stdout.readline()  # it has read its blocks and is connected
    start = time.perf_counter()
    for copier in copiers:
        copier.stdin.close()  # what they wait for
    for copier in copiers:
        copier.wait()
    seconds = time.perf_counter() - start
    if any(copier.returncode for copier in copiers):
        raise SystemExit("a connection of the limit failed")
    return seconds


def _copy(url: str, *files: str) -> None:
    blocks = [(Path(file).with_suffix(".identities").read_bytes(), Path(file).read_bytes()) for file in files]
    with psycopg.connect(url) as connection:
        print("ready", flush=True)
        sys.stdin.read()
        for identities, records in blocks:
            with connection.transaction(), connection.cursor() as cursor:
                cursor.execute("SELECT set_config('opspipe.loading', 'on', true)")
                with cursor.copy(_COPY_IDENTITIES) as copy:
                    copy.write(identities)
                with cursor.copy(COPY_RECORDS) as copy:
                    copy.write(records)


if __name__ == "__main__":
    _copy(*sys.argv[1:])
