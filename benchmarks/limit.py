"""The limit of a load: COPY of rows that are normalized and packed already, and nothing else."""

import multiprocessing
import struct
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path

import psycopg
from sqlalchemy import text

from pipeline import database
from pipeline.csvfile import plan_file, read_fields
from pipeline.ids import new_cuids
from pipeline.ingest.copyrows import COPY_RECORDS, RecordPacker
from pipeline.ingest.identity import digest_identity
from pipeline.ingest.rows import Record, RowOptions, RowReader
from pipeline.servers import endpoints
from pipeline.settings import get_settings
from schemas.enums import RecordType

_COPY_IDENTITIES = "COPY record_identities (digest, record_id) FROM STDIN (FORMAT binary)"
_IDENTITY_ROW = struct.Struct(">hi16si").pack
_PROJECT, _JOB = "limit", "j" * 25

Block = tuple[bytes, bytes]


def pack_file(file: Path) -> list[Block]:
    """Pack a file chunk by chunk as a load does: rows of record_identities, rows of data_records."""
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
        blocks = []
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
            rows = packer.pack((cuid, record) for cuid, (_, record) in zip(ids, records, strict=True))
            blocks.append((packer.START + identities + packer.END, packer.START + rows + packer.END))
    return blocks


def copy_blocks(blocks: Sequence[Block], *, connections: int) -> float:
    """Copy blocks into the empty tables, a transaction each, over some connections at once; gives seconds."""
    with database.transaction() as session:
        session.execute(text("INSERT INTO projects (id, name) VALUES (:id, 'limit')"), {"id": _PROJECT})
    database.get_engine().dispose()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(connections + 1)
    processes = [
        context.Process(target=_copy, args=(blocks[place::connections], endpoints().database_url, barrier))
        for place in range(connections)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    start = time.perf_counter()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - start
    if any(process.exitcode for process in processes):
        raise SystemExit("a connection of the limit failed")
    return seconds


def _copy(blocks: Sequence[Block], url: str, barrier: Barrier) -> None:
    with psycopg.connect(url) as connection:
        barrier.wait()
        for identities, records in blocks:
            with connection.transaction(), connection.cursor() as cursor:
                cursor.execute("SELECT set_config('opspipe.loading', 'on', true)")
                with cursor.copy(_COPY_IDENTITIES) as copy:
                    copy.write(identities)
                with cursor.copy(COPY_RECORDS) as copy:
                    copy.write(records)
