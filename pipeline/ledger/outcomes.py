"""How a chunk ends: done, given up, or in part."""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import func, insert, update
from sqlalchemy.orm import Session

from pipeline.ledger.claims import end_chunk
from pipeline.ledger.conditions import is_held
from pipeline.ledger.stages import count_ended
from pipeline.ledger.work import ChunkResult, Claim, LeaseLostError, PlannedChunk, StageTally
from schemas.enums import ChunkState
from schemas.own import WorkChunk


def complete(session: Session, held: Claim, result: ChunkResult) -> StageTally:
    """End a chunk whose work stands in the same transaction.

    Raises:
        LeaseLostError: another claim came after this one, or the job was stopped: roll back.
    """
    end_chunk(
        session,
        held,
        state=ChunkState.DONE,
        done_count=result.done,
        failed_count=result.failed,
        skipped=dict(result.skipped),
        outcomes=result.outcomes,
        error=None,
    )
    return count_ended(session, held.ref, done=result.done, failed=result.failed)


def split_off(
    session: Session, held: Claim, result: ChunkResult, *, settled_ids: Sequence[str], open_ids: Sequence[str]
) -> Claim:
    """Put the settled part of a chunk of records on the ledger as a chunk of its own, ended.

    The held chunk stays held and keeps the open records only, so that what was done is not done again.

    Args:
        session: the transaction that holds the settled records' results.
        held: the claim on the whole.
        result: what became of the settled records.
        settled_ids: the records that need no more work.
        open_ids: the others.

    Returns:
        The claim on what is left.

    Raises:
        LeaseLostError: as in `complete`.
    """
    row = count_ended(session, held.ref, done=result.done, failed=result.failed, more_chunks=1)
    settled = {
        "job_id": held.ref.job_id,
        "stage": held.ref.stage,
        "number": row.chunk_count,
        "span": {"ids": list(settled_ids)},
        "state": ChunkState.DONE,
        "record_count": result.done + result.failed,
        "done_count": result.done,
        "failed_count": result.failed,
        "ended_at": func.clock_timestamp(),
    }
    session.execute(insert(WorkChunk).values(settled))
    rest = PlannedChunk({"ids": list(open_ids)}, held.record_count - result.done - result.failed)
    kept = session.execute(
        update(WorkChunk)
        .where(is_held(held))
        .values(span=dict(rest.span), record_count=rest.record_count)
        .returning(WorkChunk.number)
        .execution_options(synchronize_session=False)
    )
    if kept.first() is None:
        raise LeaseLostError(f"the lease of {held.ref} was lost")
    return replace(held, span=rest.span, record_count=rest.record_count)


def give_up(session: Session, held: Claim, error: str) -> StageTally:
    """End a chunk that will never work; its records count as failed.

    Raises:
        LeaseLostError: as in `complete`.
    """
    end_chunk(session, held, state=ChunkState.FAILED, failed_count=held.record_count, error=error)
    return count_ended(session, held.ref, done=0, failed=held.record_count, failed_chunks=1)
