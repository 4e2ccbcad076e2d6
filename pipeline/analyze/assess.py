"""Reviewing a batch: what each record needs, and the answers written together with their provenance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from pipeline import flow, ledger
from pipeline.ai import Meter, metered, open_provider
from pipeline.analyze.context import AnalysisContext
from pipeline.analyze.needs import Needs
from pipeline.analyze.plan import require_able, require_readable
from pipeline.analyze.review import Assessment, Reviewed, Reviewer, Wanted
from pipeline.analyze.reviewers import open_reviewer
from pipeline.analyze.texts import read_record_texts
from pipeline.database import retried, transaction
from pipeline.failures import Failure, list_failures
from pipeline.guidelines import Guidelines
from pipeline.ids import new_cuid
from pipeline.ledger import ChunkResult, Claim, LeaseLostError
from pipeline.projects import current_guidelines
from pipeline.settings import get_settings
from pipeline.system_settings import read_ai_config
from schemas.options import AnalysisOptions
from schemas.own import Alignment
from schemas.reference import LLM_USER_ID, DataRecord, LikertScore
from schemas.report import LikertAnswer

_RESULT_COLUMNS = (
    "score",
    "report",
    "provider",
    "llm_model",
    "prompt_version",
    "guidelines_sha256",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "job_id",
)


@dataclass(frozen=True)
class _Work:
    """A batch on its way: what was held against what, as it was at a moment of the database's clock."""

    held: Claim
    reviewer: Reviewer
    project_id: str
    guidelines: Guidelines
    wanted: Sequence[Wanted]
    began: datetime


def assess_chunk(held: Claim) -> None:
    """Review one batch of records and store what was found; running it twice leaves one result a record.

    Settings and guidelines are those of now. Work that is interrupted keeps what it has: the records that are
    left stay a chunk.

    Raises:
        LeaseLostError: another worker has the chunk, or the job was stopped; what was found is stored all the
            same where nobody has stored anything since, and the ledger says nothing of it.
        TransientError: the provider or the database is not there for the moment.
        FatalError: the provider refuses all work, the budget is spent, or the guidelines are gone.
    """
    options = AnalysisOptions.model_validate(held.options)
    with transaction() as session:
        provider = open_provider(read_ai_config(session))
        work = _read_work(session, held, options, open_reviewer(provider))
    require_able(provider, options)
    with metered(held.ref.job_id, held.ref.stage, budget_usd=options.budget_usd) as meter:
        reviewed = work.reviewer.review(work.wanted, work.guidelines) if work.wanted else Reviewed()
        try:
            # Paid for: a deadlock is no reason to ask it all again.
            retried(lambda: _write_back(meter, work, reviewed))
        except LeaseLostError:
            retried(lambda: _keep(meter, work, reviewed))
            raise
    if reviewed.stopped_by is not None:
        raise reviewed.stopped_by


def _read_work(session: Session, held: Claim, options: AnalysisOptions, reviewer: Reviewer) -> _Work:
    project_id = AnalysisContext.model_validate(held.context).project_id
    guidelines = require_readable(current_guidelines, session, project_id)
    needs = Needs(project_id, guidelines.sha256, reviewer, options, held.ref.job_id)
    began = session.execute(select(func.now())).scalar_one()
    return _Work(
        held, reviewer, project_id, guidelines, _read_wanted(session, needs, held.span["ids"]), began
    )


def _write_back(meter: Meter, work: _Work, reviewed: Reviewed) -> None:
    with meter.transaction() as session:
        flow.lock_running(session, work.held)
        store_reviews(session, reviewed, work.reviewer, work.guidelines, job_id=work.held.ref.job_id)
        _finish(session, work.held, work.wanted, reviewed)


def _keep(meter: Meter, work: _Work, reviewed: Reviewed) -> None:
    """Store what was paid for of a chunk that is not ours any more, where it replaces nothing newer.

    Whoever takes the chunk up finds these records done.
    """
    with meter.transaction() as session:
        flow.hold_project(session, work.project_id)
        store_reviews(
            session,
            reviewed,
            work.reviewer,
            work.guidelines,
            job_id=work.held.ref.job_id,
            unless_since=work.began,
        )


def _read_wanted(session: Session, needs: Needs, ids: Sequence[str]) -> list[Wanted]:
    wanted = {row.id: row for row in session.execute(needs.question(ids=ids))}
    records = read_record_texts(
        session, list(wanted), project_id=needs.project_id, model=needs.reviewer.embedding_model
    )
    return [
        Wanted(record, alignment=wanted[record.id].alignment, likert=wanted[record.id].likert)
        for record in records
    ]


def _finish(session: Session, held: Claim, wanted: Sequence[Wanted], reviewed: Reviewed) -> None:
    failures = [Failure(record_id, error) for record_id, error in reviewed.failures.items()]
    failed = list_failures(session, held, failures)
    open_ids = {entry.record.id for entry in wanted if _is_open(entry, reviewed)}
    if not open_ids:
        # Records that were deleted meanwhile, or that need nothing any more, are settled too.
        flow.finish_chunk(session, held, ChunkResult(done=held.record_count - failed, failed=failed))
        return
    settled_ids = [record_id for record_id in held.span["ids"] if record_id not in open_ids]
    if settled_ids:
        flow.finish_part(
            session,
            held,
            ChunkResult(done=len(settled_ids) - failed, failed=failed),
            settled_ids=settled_ids,
            open_ids=sorted(open_ids),
        )
    elif not ledger.renew(session, held, lease_seconds=get_settings().lease_seconds):
        # What is half done is stored under the lease as well.
        raise LeaseLostError(f"the lease of {held.ref} was lost")


def _is_open(entry: Wanted, reviewed: Reviewed) -> bool:
    record_id = entry.record.id
    if record_id in reviewed.failures:
        return False
    return (entry.alignment and record_id not in reviewed.alignments) or (
        entry.likert and record_id not in reviewed.ratings
    )


def store_reviews(
    session: Session,
    reviewed: Reviewed,
    reviewer: Reviewer,
    guidelines: Guidelines,
    *,
    job_id: str | None,
    unless_since: datetime | None = None,
) -> None:
    """Store what was found of records that are still there, with where it comes from.

    Args:
        session: the transaction to do it in.
        reviewed: alignments and ratings.
        reviewer: who found it.
        guidelines: what the records were held against.
        job_id: the job that asked; None where a person asked about one record.
        unless_since: leave alone what was stored since this moment; None replaces everything.
    """
    # A record that is deleted at this moment takes its result along: only rows that are still there count.
    alive = set(
        session.scalars(
            select(DataRecord.id)
            .where(DataRecord.id.in_(reviewed.alignments.keys() | reviewed.ratings.keys()))
            .order_by(DataRecord.id)
            .with_for_update(key_share=True)
        )
    )
    judged, rated = _find_since(session, alive, reviewer.model, unless_since)
    provenance = {
        "provider": reviewer.provider,
        "llm_model": reviewer.model,
        "prompt_version": reviewer.prompt_version,
        "guidelines_sha256": guidelines.sha256,
        "job_id": job_id,
    }
    alignments = {key: value for key, value in reviewed.alignments.items() if key in alive - judged}
    if alignments:
        _store_alignments(session, alignments, provenance)
    ratings = {key: value for key, value in reviewed.ratings.items() if key in alive - rated}
    if ratings:
        _store_ratings(session, ratings, reviewer.model)


def _find_since(
    session: Session, record_ids: set[str], model: str, moment: datetime | None
) -> tuple[set[str], set[str]]:
    """Find the records whose alignment, and those whose rating by a model, was stored since a moment."""
    if moment is None:
        return set(), set()
    judged = session.scalars(
        select(Alignment.record_id).where(Alignment.record_id.in_(record_ids), Alignment.created_at >= moment)
    )
    # Kept in UTC and to the millisecond.
    since = func.date_trunc("milliseconds", func.timezone("utc", literal(moment)))
    rated = session.scalars(
        select(LikertScore.record_id).where(
            LikertScore.record_id.in_(record_ids),
            LikertScore.user_id == LLM_USER_ID,
            LikertScore.llm_model == model,
            LikertScore.updated_at >= since,
        )
    )
    return set(judged), set(rated)


def _store_alignments(
    session: Session, alignments: Mapping[str, Assessment], provenance: Mapping[str, object]
) -> None:
    insert = upsert(Alignment)
    session.execute(
        insert.on_conflict_do_update(
            index_elements=["record_id"],
            set_={name: insert.excluded[name] for name in _RESULT_COLUMNS} | {"created_at": func.now()},
        ),
        [
            {
                "record_id": record_id,
                "score": found.report.score,
                "report": found.report.model_dump(mode="json"),
                "input_tokens": found.usage.input_tokens if found.usage else None,
                "output_tokens": found.usage.output_tokens if found.usage else None,
                "cost_usd": found.usage.cost_usd if found.usage else None,
                **provenance,
            }
            for record_id, found in alignments.items()
        ],
    )
    session.connection().execute(
        update(DataRecord)
        .where(DataRecord.id == bindparam("record_id"))
        .values(alignment_analysis=bindparam("markdown"), updated_at=func.timezone("utc", func.now())),
        [
            {"record_id": record_id, "markdown": found.report.to_markdown()}
            for record_id, found in alignments.items()
        ],
    )


def _store_ratings(session: Session, ratings: Mapping[str, LikertAnswer], model: str) -> None:
    insert = upsert(LikertScore)
    session.execute(
        insert.on_conflict_do_update(
            index_elements=["recordId", "llmModel"],
            index_where=text(f"\"userId\" = '{LLM_USER_ID}'"),
            set_={
                "realismScore": insert.excluded["realismScore"],
                "qualityScore": insert.excluded["qualityScore"],
                "updatedAt": func.timezone("utc", func.now()),
            },
        ),
        [
            {
                "id": new_cuid(),
                "record_id": record_id,
                "user_id": LLM_USER_ID,
                "realism_score": rating.realism,
                "quality_score": rating.quality,
                "llm_model": model,
            }
            for record_id, rating in ratings.items()
        ],
    )
