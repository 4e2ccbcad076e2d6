"""Trends: what distinguishes a project's best records from its worst, from a sample that is always the same.

A language model is asked; the provider `local` has none and counts: words, lengths and guidelines touched.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, text, update
from sqlalchemy.orm import Session

from pipeline.ai import (
    OVERHEAD_TOKENS,
    Provider,
    Question,
    at_once,
    complete_all,
    guess_tokens,
    open_provider,
    require_models,
    run,
)
from pipeline.analyze.contrast import contrast
from pipeline.analyze.prompts import TRENDS_OUTPUT_TOKENS, read_trends, trends_prompt
from pipeline.audit import note
from pipeline.database import transaction
from pipeline.errors import FatalError, InputError
from pipeline.projects import load_guidelines
from pipeline.system_settings import read_ai_config
from schemas.enums import RecordCategory, RecordType
from schemas.reference import Project
from schemas.report import TrendsReport

# Records of each group: as many as say something new to a model, and as many as are counted in a moment.
_ASKED_SIZE, _COUNTED_SIZE = 25, 1_000
# Shorter excerpts of records tell nothing.
_LEAST_RECORD_TOKENS = 60
# The marks around each record.
_MARK_TOKENS = 30
# Behind what is left of a record that was cut.
_CUT = " …"

_COLUMNS = {
    RecordType.TASK: Project.last_task_analysis,
    RecordType.FEEDBACK: Project.last_feedback_analysis,
}
# Of all records in order of time, the first of each of so many equal parts.
_SAMPLE = text("""
    SELECT record.content FROM (
        SELECT id, row_number() OVER (ORDER BY "createdAt", id) - 1 AS place, count(*) OVER () AS total
        FROM data_records
        WHERE "projectId" = :project_id AND type = CAST(:type AS "RecordType")
            AND category = CAST(:category AS "RecordCategory")
    ) AS chosen JOIN data_records AS record ON record.id = chosen.id
    WHERE place = 0 OR total <= :size OR place * :size / total > (place - 1) * :size / total
    ORDER BY place
""")


@dataclass(frozen=True)
class _Groups:
    best: Sequence[str]
    worst: Sequence[str]


def analyze_trends(project_id: str, record_type: RecordType) -> TrendsReport:
    """Say what distinguishes TOP_10 from BOTTOM_10, and keep it with the project.

    Args:
        project_id: the project.
        record_type: which of its records.

    Raises:
        InputError: one of the groups is empty.
        ServerError, AnswerError, FatalError: the model could not be asked, or its answer is of no use.
    """
    with transaction() as session:
        provider = open_provider(read_ai_config(session))
        is_local = provider.name == "local"
        groups = _sample(session, project_id, record_type, _COUNTED_SIZE if is_local else _ASKED_SIZE)
        guidelines = load_guidelines(session, project_id) if is_local else None
    if is_local:
        report = contrast(record_type, groups.best, groups.worst, guidelines.rules if guidelines else ())
    else:
        report = _ask(provider, record_type, groups)
    with transaction() as session:
        session.execute(
            update(Project)
            .where(Project.id == project_id)
            .values(
                {_COLUMNS[record_type]: report.to_markdown(), "updated_at": func.timezone("utc", func.now())}
            )
        )
        note(
            session,
            "trends.make",
            "project",
            project_id,
            project_id,
            type=record_type,
            provider=provider.name,
        )
    return report


def _sample(session: Session, project_id: str, record_type: RecordType, size: int) -> _Groups:
    found = {}
    for category in (RecordCategory.TOP_10, RecordCategory.BOTTOM_10):
        asked = {"project_id": project_id, "type": record_type, "category": category, "size": size}
        found[category] = session.scalars(_SAMPLE, asked).all()
        if not found[category]:
            raise InputError(
                f"the project has no {record_type} records of the category {category}: trends compare TOP_10 "
                "with BOTTOM_10, which come from ratings (see `opspipe check` for the column that gives them)"
            )
    return _Groups(found[RecordCategory.TOP_10], found[RecordCategory.BOTTOM_10])


def _ask(provider: Provider, record_type: RecordType, groups: _Groups) -> TrendsReport:
    with at_once():
        # The list tells what the model takes, and that there is such a model at all.
        run(require_models(provider, embedding=False, llm=True))
    best, worst, is_shortened = _fit(provider, groups)
    prompt = trends_prompt(record_type.lower(), best, worst)
    with at_once():
        settled = complete_all(provider, [Question(prompt, read_trends)])
    failure = settled.stopped_by or settled.failures.get(0)
    if failure is not None:
        raise failure
    shortened = ", the longest of them shortened," if is_shortened else ""
    method = (
        f"Judged by {provider.llm_model} from {len(best)} TOP_10 and {len(worst)} BOTTOM_10 "
        f"{record_type} records{shortened} spread over their time."
    )
    answer = settled.results[0]
    return TrendsReport(method=method, **answer.model_dump())


def _fit(provider: Provider, groups: _Groups) -> tuple[Sequence[str], Sequence[str], bool]:
    """Choose as many records as the model takes; where whole ones are too much, the longest are cut."""
    model = provider.llm_model
    prompt = trends_prompt("", [], [])
    room = provider.limits.llm_context - TRENDS_OUTPUT_TOKENS - OVERHEAD_TOKENS
    room -= guess_tokens(prompt.system + prompt.user, model)
    for size in range(max(len(groups.best), len(groups.worst)), 0, -1):
        best, worst = _thin(groups.best, size), _thin(groups.worst, size)
        tokens = [guess_tokens(entry, model) for entry in (*best, *worst)]
        left = room - _MARK_TOKENS * len(tokens)
        if sum(min(count, _LEAST_RECORD_TOKENS) for count in tokens) <= left:
            share = _share(tokens, left)
            cut = [_shorten(entry, share, model) for entry in (*best, *worst)]
            return cut[: len(best)], cut[len(best) :], max(tokens) > share
    raise FatalError(
        f"the model {model!r} takes {provider.limits.llm_context:,} tokens, too few for two records and the "
        "question: set llm_context if it takes more, or use a model that does"
    )


def _share(tokens: Sequence[int], room: int) -> int:
    """Give the most tokens that a record may have, so that all go into the room."""
    left = room
    for place, count in enumerate(sorted(tokens)):
        if count * (len(tokens) - place) > left:
            return left // (len(tokens) - place)
        left -= count
    return max(tokens)


def _thin(records: Sequence[str], most: int) -> Sequence[str]:
    return (
        [records[place * len(records) // most] for place in range(most)] if len(records) > most else records
    )


def _shorten(content: str, tokens: int, model: str) -> str:
    if guess_tokens(content, model) <= tokens:
        return content

    def size(end: int) -> int:
        return guess_tokens(content[:end] + _CUT, model)

    # The text's mean density would not do: its beginning may be of another script than its end.
    end = bisect_right(range(len(content)), tokens, key=size) - 1
    return content[: max(end, 0)].rstrip() + _CUT
