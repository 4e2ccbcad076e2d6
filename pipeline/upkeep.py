"""Upkeep: what nobody needs any more goes, a bounded amount at a time."""

from dataclasses import dataclass
from datetime import datetime

from pipeline.database import transaction
from pipeline.embeddings import forget_gone_records
from pipeline.idempotency import remove_old_keys
from pipeline.removal import list_removals, remove_batches
from pipeline.resumable import remove_expired_uploads
from pipeline.uploads import remove_expired_files, remove_stray_files, remove_unused_uploads

# For all interrupted removals together; what is left comes with the next run, or with the sweeper's messages.
_REMOVAL_SECONDS = 5.0


@dataclass(frozen=True)
class Tidied:
    """What a run of upkeep removed."""

    expired_files: int
    unused_uploads: int
    stray_files: int
    expired_uploads: int
    records: int
    embedding_origins: int
    request_keys: int


def tidy(now: datetime) -> Tidied:
    """Remove what is due at `now`; may be killed, and run by several at once."""
    return Tidied(
        records=_continue_removals(),
        embedding_origins=forget_gone_records(),
        expired_files=remove_expired_files(now),
        unused_uploads=remove_unused_uploads(),
        stray_files=remove_stray_files(now),
        expired_uploads=remove_expired_uploads(now),
        request_keys=remove_old_keys(now),
    )


def _continue_removals() -> int:
    with transaction() as session:
        job_ids = list_removals(session)
    return sum(remove_batches(job_id, seconds=_REMOVAL_SECONDS / len(job_ids)).deleted for job_id in job_ids)
