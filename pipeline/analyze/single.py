"""One record held against the guidelines at a person's request: kept, so that asking again costs nothing."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from pipeline.ai import Provider, at_once, open_provider, require_models, run
from pipeline.analyze.assess import store_reviews
from pipeline.analyze.needs import Needs
from pipeline.analyze.review import Reviewer, Wanted
from pipeline.analyze.reviewers import open_reviewer
from pipeline.analyze.start import require_guidelines
from pipeline.analyze.texts import read_record_texts
from pipeline.audit import note
from pipeline.database import transaction
from pipeline.errors import InputError, NotFoundError
from pipeline.guidelines import Guidelines
from pipeline.locks import alone
from pipeline.projects import current_guidelines
from pipeline.settings import get_settings
from pipeline.system_settings import read_ai_config
from schemas.enums import AnalysisScope
from schemas.options import AnalysisOptions
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


@dataclass(frozen=True)
class _Terms:
    """Against what a record is held now, and by whom."""

    project_id: str
    guidelines: Guidelines
    provider: Provider
    reviewer: Reviewer


def align_record(record_id: str, *, is_forced: bool = False) -> RecordAlignment:
    """Give a record's alignment: what is kept, as long as it is not stale, or a new one.

    Args:
        record_id: the record.
        is_forced: ask anew, whatever is kept.

    Raises:
        NotFoundError: there is no such record.
        InputError: the project has no guidelines.
        ServerError, AnswerError, FatalError: the model could not be asked, or its answer is of no use.
    """
    kept = None if is_forced else _find_current(record_id)
    if kept is not None:
        return kept
    with alone(f"align {record_id}", patience_seconds=get_settings().ai_call_seconds):
        # Whoever had to wait finds what the other has paid for.
        kept = None if is_forced else _find_current(record_id)
        return kept or _align_anew(record_id)


def _find_current(record_id: str) -> RecordAlignment | None:
    with transaction() as session:
        return _read_current(session, record_id, _read_terms(session, record_id))


def _align_anew(record_id: str) -> RecordAlignment:
    with transaction() as session:
        terms = _read_terms(session, record_id)
        wanted = _read_wanted(session, record_id, terms)
    with at_once():
        if terms.provider.name != "local":
            # The list tells what the model takes and costs, and that there is such a model at all.
            run(require_models(terms.provider, embedding=False, llm=True))
        reviewed = terms.reviewer.review([wanted], terms.guidelines)
    failure = reviewed.stopped_by or reviewed.failures.get(record_id)
    if failure is not None:
        raise failure
    with transaction() as session:
        store_reviews(session, reviewed, terms.reviewer, terms.guidelines, job_id=None)
        found = _read_kept(session, record_id, is_cached=False)
        if found is not None:
            note(session, "record.align", "record", record_id, terms.project_id, model=found.llm_model)
    if found is None:
        raise _gone(record_id)
    return found


def _gone(record_id: str) -> NotFoundError:
    return NotFoundError(f"record {record_id} was deleted while it was analyzed")


def _read_terms(session: Session, record_id: str) -> _Terms:
    project_id = session.scalar(select(DataRecord.project_id).where(DataRecord.id == record_id))
    if project_id is None:
        raise NotFoundError(f"there is no record {record_id!r}")
    require_guidelines(session, project_id)
    guidelines = current_guidelines(session, project_id)
    if guidelines is None:
        raise InputError("the project's guidelines were removed at this moment: store them again")
    provider = open_provider(read_ai_config(session))
    return _Terms(project_id, guidelines, provider, open_reviewer(provider))


def _read_wanted(session: Session, record_id: str, terms: _Terms) -> Wanted:
    model = terms.reviewer.embedding_model
    for record in read_record_texts(session, [record_id], project_id=terms.project_id, model=model):
        return Wanted(record, alignment=True, likert=False)
    raise _gone(record_id)


def _read_current(session: Session, record_id: str, terms: _Terms) -> RecordAlignment | None:
    """Give what is kept, unless an analysis of what is stale would take it up."""
    stale = AnalysisOptions(scope=AnalysisScope.STALE)
    needs = Needs(terms.project_id, terms.guidelines.sha256, terms.reviewer, stale)
    if session.execute(needs.question(ids=[record_id])).first() is not None:
        return None
    return _read_kept(session, record_id)


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
