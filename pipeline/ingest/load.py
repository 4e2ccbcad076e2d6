"""Loading a chunk: rows become records, go in by COPY, and are counted, all in one transaction."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline import flow
from pipeline.csvfile import read_chunk
from pipeline.database import driver_connection, transaction
from pipeline.ids import new_cuids
from pipeline.ingest.context import LoadContext
from pipeline.ingest.identity import digest_identity
from pipeline.ingest.rows import Record, RowReader
from pipeline.ingest.submit import row_options
from pipeline.ledger import ChunkResult, Claim
from pipeline.storage import get_storage
from schemas.enums import SkipReason
from schemas.options import IngestOptions

_COPY = """
COPY data_records (
    id, "projectId", type, category, source, content, metadata,
    "createdById", "createdByName", "createdByEmail", "ingestJobId", "createdAt", "updatedAt"
) FROM STDIN (FORMAT binary)
"""
# In the binary format an enum is its label and a jsonb a version byte with its text, so both go as bytes.
_TYPES = [
    "text", "text", "text", "text", "varchar", "text", "bytea",
    "varchar", "varchar", "varchar", "text", "timestamp", "timestamp",
]  # fmt: skip
_JSONB_VERSION = b"\x01"

# In the order of the digests: two jobs with the same identities wait for each other and never deadlock.
_CLAIM_IDENTITIES = text("""
    INSERT INTO record_identities (digest, record_id)
    SELECT digest, record_id
    FROM unnest(CAST(:digests AS uuid[]), CAST(:ids AS text[])) AS new (digest, record_id)
    ORDER BY digest
    ON CONFLICT DO NOTHING
    RETURNING digest
""")
# Tells the trigger of data_records that the identities of what comes are claimed already.
_SAY_LOADING = text("SELECT set_config('opspipe.loading', 'on', true)")

Candidate = tuple[str, Record, bytes | None]


def load_chunk(held: Claim) -> None:
    """Load one chunk of a job's upload; a second run of the same chunk finds nothing to do.

    Raises:
        LeaseLostError: another worker has the chunk, or the job was stopped; nothing was stored.
        TransientError: the database broke the transaction; nothing was stored.
        FatalError: the upload is gone.
    """
    context = LoadContext.model_validate(held.context)
    data = get_storage().read_range(context.storage_key, held.span["start"], held.span["end"])
    skipped: Counter[str] = Counter()
    candidates = _normalize(held, context, data, skipped)
    with transaction() as session:
        kept = _claim_identities(session, candidates, skipped)
        _copy(session, held, context, kept)
        flow.finish_chunk(session, held, ChunkResult(done=len(kept), skipped=skipped))


def _normalize(held: Claim, context: LoadContext, data: bytes, skipped: Counter[str]) -> list[Candidate]:
    options = IngestOptions.model_validate(held.options)
    reader = RowReader(context.header, row_options(options, file_name=context.file_name))
    records, digests = [], set()
    for row in read_chunk(data, first_line=held.span["first_line"], delimiter=context.delimiter):
        record = reader.read(row.fields)
        if isinstance(record, SkipReason):
            skipped[record] += 1
            continue
        digest = digest_identity(context.project_id, record.type, record.identity)
        if digest is not None and digest in digests:
            skipped[SkipReason.DUPLICATE_ID] += 1
            continue
        if digest is not None:
            digests.add(digest)
        records.append((record, digest))
    return [(cuid, *entry) for cuid, entry in zip(new_cuids(len(records)), records, strict=True)]


def _claim_identities(
    session: Session, candidates: list[Candidate], skipped: Counter[str]
) -> list[Candidate]:
    """Keep the candidates that are first with their identity; wait for a job that is about to claim one."""
    claims = [(digest, cuid) for cuid, _, digest in candidates if digest is not None]
    if not claims:
        return candidates
    won = {
        row.digest.bytes
        for row in session.execute(
            _CLAIM_IDENTITIES,
            {"digests": [UUID(bytes=digest) for digest, _ in claims], "ids": [cuid for _, cuid in claims]},
        )
    }
    if lost := len(claims) - len(won):
        skipped[SkipReason.DUPLICATE_ID] += lost
    return [entry for entry in candidates if entry[2] is None or entry[2] in won]


def _copy(session: Session, held: Claim, context: LoadContext, kept: Sequence[Candidate]) -> None:
    if not kept:
        return
    session.execute(_SAY_LOADING)
    with driver_connection(session).cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_TYPES)
        for row in _rows(held.ref.job_id, context, kept):
            copy.write_row(row)


def _rows(
    job_id: str, context: LoadContext, kept: Sequence[Candidate]
) -> Iterator[tuple[str | bytes | datetime | None, ...]]:
    source = f"csv:{context.file_name}"
    for cuid, record, _ in kept:
        yield (
            cuid,
            context.project_id,
            record.type,
            record.category,
            source,
            record.content,
            _JSONB_VERSION + record.metadata_json,
            record.created_by_id,
            record.created_by_name,
            record.created_by_email,
            job_id,
            record.created_at or context.loaded_at,
            record.updated_at or context.loaded_at,
        )
