"""One record held against the guidelines at a person's request: kept, so that asking again costs nothing."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from pipeline.ai import open_provider
from pipeline.analyze.assess import store_reviews
from pipeline.analyze.review import RecordText, Wanted
from pipeline.analyze.reviewers import open_reviewer
from pipeline.analyze.start import require_guidelines
from pipeline.database import transaction
from pipeline.errors import InputError, NotFoundError
from pipeline.guidelines import Guidelines
from pipeline.projects import load_guidelines
from pipeline.system_settings import read_ai_config
from schemas.own import Alignment
from schemas.reference import DataRecord


@dataclass(frozen=True)
class RecordAlignment:
    """What is known of one record; `is_cached` says that nobody was asked for it now."""

    record_id: str
    score: int
    analysis: str
    provider: str
    llm_model: str
    created_at: datetime
    is_cached: bool


def align_record(record_id: str, *, is_forced: bool = False) -> RecordAlignment:
    """Give a record's alignment: what is kept, or a new one.

    Args:
        record_id: the record.
        is_forced: ask anew, whatever is kept.

    Raises:
        NotFoundError: there is no such record.
        InputError: the project has no guidelines.
        ServerError, AnswerError, FatalError: the model could not be asked, or its answer is of no use.
    """
    with transaction() as session:
        kept = None if is_forced else _read_kept(session, record_id)
        if kept is not None:
            return kept
        wanted, guidelines = _read_wanted(session, record_id)
        reviewer = open_reviewer(open_provider(read_ai_config(session)))
    reviewed = reviewer.review([wanted], guidelines)
    failure = reviewed.stopped_by or reviewed.failures.get(record_id)
    if failure is not None:
        raise failure
    with transaction() as session:
        store_reviews(session, reviewed, reviewer, guidelines, job_id=None)
        found = _read_kept(session, record_id, is_cached=False)
    if found is None:
        raise NotFoundError(f"record {record_id} was deleted while it was analyzed")
    return found


def _read_wanted(session: Session, record_id: str) -> tuple[Wanted, Guidelines]:
    row = session.execute(
        select(DataRecord.project_id, DataRecord.content, DataRecord.embedding).where(
            DataRecord.id == record_id
        )
    ).first()
    if row is None:
        raise NotFoundError(f"there is no record {record_id!r}")
    require_guidelines(session, row.project_id)
    guidelines = load_guidelines(session, row.project_id)
    if guidelines is None:
        raise InputError("the project's guidelines were removed at this moment: store them again")
    embedding = np.asarray(row.embedding) if row.embedding else None
    return Wanted(RecordText(record_id, row.content, embedding), alignment=True, likert=False), guidelines


def _read_kept(session: Session, record_id: str, *, is_cached: bool = True) -> RecordAlignment | None:
    row = session.execute(
        select(
            Alignment.score,
            Alignment.provider,
            Alignment.llm_model,
            Alignment.created_at,
            DataRecord.alignment_analysis,
        )
        .join(DataRecord, DataRecord.id == Alignment.record_id)
        .where(Alignment.record_id == record_id)
    ).first()
    if row is None or row.alignment_analysis is None:
        return None
    return RecordAlignment(
        record_id, row.score, row.alignment_analysis, row.provider, row.llm_model, row.created_at, is_cached
    )
