"""Which records an analysis takes up and what each needs: one question, for the plan and for the chunks."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Select,
    and_,
    false,
    func,
    literal,
    or_,
    select,
    true,
    union,
)
from sqlalchemy.orm import Session, aliased

from pipeline.analyze.review import Reviewer
from schemas.enums import AnalysisScope
from schemas.options import AnalysisOptions
from schemas.own import Alignment, GuidelinesText
from schemas.reference import LLM_USER_ID, AnalyticsJob, DataRecord, LikertScore


@dataclass(frozen=True)
class Needs:
    """The conditions that say which records of a project need what.

    Args:
        project_id: the project.
        guidelines_sha256: the guidelines to hold records against.
        reviewer: who would review now; what another has said is stale.
        options: scope, and whether ratings are wanted.
        job_id: the job that asks: what it has done itself is not done again; None before there is one.
    """

    project_id: str
    guidelines_sha256: str
    reviewer: Reviewer
    options: AnalysisOptions
    job_id: str | None = None

    def question(self, *, ids: Sequence[str] | None = None) -> Select[str, bool, bool]:
        """Ask for the records that need something, in order of their ids, with what they need."""
        rating = aliased(LikertScore)
        alignment = self._needs_alignment()
        likert = self._needs_likert(rating) if self.options.likert else false()
        question = (
            select(DataRecord.id, alignment.label("alignment"), likert.label("likert"))
            .outerjoin(Alignment, Alignment.record_id == DataRecord.id)
            .where(DataRecord.project_id == self.project_id, or_(alignment, likert))
            .order_by(DataRecord.id)
        )
        if self.options.likert:
            question = question.outerjoin(
                rating,
                and_(
                    rating.record_id == DataRecord.id,
                    rating.user_id == LLM_USER_ID,
                    rating.llm_model == self.reviewer.model,
                ),
            )
        return question if ids is None else question.where(DataRecord.id.in_(ids))

    def _needs_alignment(self) -> ColumnElement[bool]:
        missing = Alignment.record_id.is_(None)
        if self.options.scope is AnalysisScope.MISSING:
            return missing
        if self.options.scope is AnalysisScope.ALL:
            return (
                true()
                if self.job_id is None
                else or_(missing, Alignment.job_id.is_distinct_from(self.job_id))
            )
        is_current = and_(
            Alignment.guidelines_sha256.in_(self._same_guidelines()),
            Alignment.llm_model == self.reviewer.model,
            Alignment.prompt_version == self.reviewer.prompt_version,
        )
        return or_(missing, ~is_current)

    def _same_guidelines(self) -> CompoundSelect[str]:
        """Ask for the hashes of all PDFs that say the same: one that was only saved anew changes nothing."""
        own = select(GuidelinesText.text).where(GuidelinesText.sha256 == self.guidelines_sha256)
        same = select(GuidelinesText.sha256).where(GuidelinesText.text == own.scalar_subquery())
        return union(select(literal(self.guidelines_sha256)), same)

    def _needs_likert(self, rating: type[LikertScore]) -> ColumnElement[bool]:
        missing = rating.id.is_(None)
        if self.options.scope is not AnalysisScope.ALL:
            return missing
        if self.job_id is None:
            return true()
        began = select(AnalyticsJob.created_at).where(AnalyticsJob.id == self.job_id).scalar_subquery()
        return or_(missing, rating.updated_at < began)


@dataclass(frozen=True)
class Extent:
    """How much an analysis has to do: calls of each kind, and characters of the records they carry."""

    records: int
    alignments: int
    ratings: int
    alignment_chars: int
    rating_chars: int


def measure(session: Session, needs: Needs) -> Extent:
    """Count what an analysis would do."""
    found = needs.question().order_by(None).subquery()
    chars = func.char_length(DataRecord.content)
    row = session.execute(
        select(
            func.count(),
            func.count().filter(found.c.alignment),
            func.count().filter(found.c.likert),
            func.coalesce(func.sum(chars).filter(found.c.alignment), literal(0)),
            func.coalesce(func.sum(chars).filter(found.c.likert), literal(0)),
        ).select_from(found.join(DataRecord, DataRecord.id == found.c.id))
    ).one()
    return Extent(*(int(value) for value in row))
