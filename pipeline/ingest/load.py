"""Loading a chunk: rows become records, go in by COPY, and are counted, all in one transaction."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from pipeline import flow
from pipeline.courtesy import give_way
from pipeline.database import driver_connection, transaction
from pipeline.errors import FatalError
from pipeline.ids import new_cuids
from pipeline.ingest.context import LoadContext
from pipeline.ingest.copyrows import COPY_END, COPY_RECORDS, COPY_START, RecordPacker
from pipeline.ingest.identity import DIGEST_BYTES, digest_identity
from pipeline.ingest.outcomes import Outcomes
from pipeline.ingest.records import read_records
from pipeline.ledger import ChunkResult, Claim
from pipeline.removal import wait_for_identities
from pipeline.storage import get_storage
from schemas.enums import SkipReason
from schemas.options import IngestOptions

# Records go to the driver in blocks of this many: one of about 100 KB it does not split again.
_BLOCK_RECORDS = 50
# After so many rows small jobs are let in, if it is time.
_COURTESY_ROWS = 256

# Digests and ids go as arrays in text, and digests come back as one string of bytes: with thousands of them a
# statement, an object for each would cost the client more than the look-up costs the server.
_FIND_CLAIMED = text("""
    SELECT string_agg(uuid_send(digest), '')
    FROM record_identities WHERE digest = ANY(CAST(:digests AS uuid[]))
""")
# In the order of the digests: two jobs with the same identities wait for each other and never deadlock.
_CLAIM = text("""
    WITH won AS (
        INSERT INTO record_identities (digest, record_id)
        SELECT digest, record_id
        FROM unnest(CAST(:digests AS uuid[]), CAST(:ids AS text[])) AS new (digest, record_id)
        ORDER BY digest
        ON CONFLICT DO NOTHING
        RETURNING digest
    )
    SELECT string_agg(uuid_send(digest), '') FROM won
""")
_REMOVE = text("DELETE FROM data_records WHERE id = ANY(:ids)")
# Tells the trigger of data_records that the identities of what comes are claimed here.
_SAY_LOADING = text("SELECT set_config('opspipe.loading', 'on', true)")


class Candidate(NamedTuple):
    """A record that is to be stored, packed for COPY, unless its identity is taken.

    `place` is that of the row within the chunk.
    """

    place: int
    id: str
    digest: bytes | None
    packed: bytes


def load_chunk(held: Claim) -> None:
    """Load one chunk of a job's upload; a second run of the same chunk finds nothing to do.

    Raises:
        LeaseLostError: another worker has the chunk, or the job was stopped or deleted; nothing was stored.
        TransientError: the database broke the transaction, or an identity is still held by a record of a
            deleted job; nothing was stored.
        FatalError: the upload is gone.
    """
    context = LoadContext.model_validate(held.context)
    data = get_storage().read_range(context.storage_key, held.span["start"], held.span["end"])
    candidates, outcomes = _normalize(held, context, data)
    with transaction() as session:
        flow.hold_project(session, context.project_id)
        wait_for_identities(session, context.project_id, (candidate.digest for candidate in candidates))
        taken = _ask_digests(session, _FIND_CLAIMED, candidates)
        kept = _skip_duplicates(candidates, outcomes, taken)
        _copy(session, kept)
        # Not before the copying: others with the same identity wait from here to the transaction's end.
        lost = _claim(session, kept)
        kept = _skip_duplicates(kept, outcomes, lost)
        flow.finish_chunk(
            session,
            held,
            ChunkResult(done=len(kept), skipped=outcomes.count(), outcomes=outcomes.pack()),
        )


def _normalize(held: Claim, context: LoadContext, data: bytes) -> tuple[list[Candidate], Outcomes]:
    options = IngestOptions.model_validate(held.options)
    packer = RecordPacker(
        project_id=context.project_id,
        job_id=held.ref.job_id,
        source=context.source,
        loaded_at=context.loaded_at,
    )
    outcomes, digests = Outcomes(held.record_count), set[bytes]()
    candidates: list[Candidate] = []
    ids, place = new_cuids(held.record_count), -1
    for place, record in enumerate(read_records(context, options, data)):
        if place == held.record_count:
            break
        if place % _COURTESY_ROWS == 0:
            give_way()
        if isinstance(record, SkipReason):
            outcomes.skip(place, record)
            continue
        digest = None
        if record.identity is not None:
            digest = digest_identity(context.project_id, record.type, record.identity)
            if digest in digests:
                outcomes.skip(place, SkipReason.DUPLICATE_ID)
                continue
            digests.add(digest)
        # Packed at once: a record of Python objects is not looked at again thousands of rows later.
        candidates.append(Candidate(place, ids[place], digest, packer.pack(ids[place], record)))
    if place + 1 != held.record_count:
        raise FatalError(
            f"{held.ref} does not hold the {held.record_count} rows that it was planned with: "
            "the stored upload was changed; submit the file again"
        )
    return candidates, outcomes


def _skip_duplicates(
    candidates: Sequence[Candidate], outcomes: Outcomes, taken: set[bytes]
) -> Sequence[Candidate]:
    """Leave out the candidates whose digest is taken; a candidate without one never is."""
    if not taken:
        return candidates
    for candidate in candidates:
        if candidate.digest in taken:
            outcomes.skip(candidate.place, SkipReason.DUPLICATE_ID)
    return [candidate for candidate in candidates if candidate.digest not in taken]


def _copy(session: Session, records: Sequence[Candidate]) -> None:
    if not records:
        return
    session.execute(_SAY_LOADING)
    with driver_connection(session).cursor() as cursor, cursor.copy(COPY_RECORDS) as copy:
        copy.write(COPY_START)
        for start in range(0, len(records), _BLOCK_RECORDS):
            # No identity is claimed yet and no job locked: nobody waits for this transaction.
            give_way()
            copy.write(b"".join([record.packed for record in records[start : start + _BLOCK_RECORDS]]))
        copy.write(COPY_END)


def _claim(session: Session, stored: Sequence[Candidate]) -> set[bytes]:
    """Claim the identities of records stored in this transaction; take those away again that came second.

    Waits for other transactions that are about to claim one of them.

    Returns:
        The digests that another record has: those of the records taken away.
    """
    claims = [candidate for candidate in stored if candidate.digest is not None]
    won = _ask_digests(session, _CLAIM, claims)
    lost = {candidate.digest: candidate.id for candidate in claims if candidate.digest not in won}
    if lost:
        session.execute(_REMOVE, {"ids": list(lost.values())})
    return {digest for digest in lost if digest is not None}


def _ask_digests(session: Session, question: TextClause, candidates: Iterable[Candidate]) -> set[bytes]:
    """Ask a question about the digests of candidates that is answered with digests."""
    known = [(candidate.digest.hex(), candidate.id) for candidate in candidates if candidate.digest]
    if not known:
        return set()
    arrays = {"digests": _array(digest for digest, _ in known), "ids": _array(cuid for _, cuid in known)}
    answer: bytes = session.scalar(question, arrays) or b""
    return {answer[start : start + DIGEST_BYTES] for start in range(0, len(answer), DIGEST_BYTES)}


def _array(items: Iterable[str]) -> str:
    """Write an array as PostgreSQL reads it, of items that need no quotes."""
    return f"{{{','.join(items)}}}"
