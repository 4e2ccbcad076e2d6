"""The two reviewers: the measure of the provider `local`, and a language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pipeline.ai import (
    OVERHEAD_TOKENS,
    Completion,
    Prompt,
    Provider,
    Question,
    Usage,
    complete_all,
    guess_tokens,
)
from pipeline.ai.local import LocalProvider
from pipeline.analyze.coverage import COVERAGE_MODEL, COVERAGE_VERSION, assess_coverage
from pipeline.analyze.passages import choose_passages, embedder_of, join_passages, largest_passage
from pipeline.analyze.prompts import (
    ALIGNMENT_VERSION,
    alignment_prompt,
    likert_prompt,
    read_alignment,
    read_likert,
)
from pipeline.analyze.review import Assessment, RecordText, Reviewed, Reviewer, Wanted
from pipeline.errors import PermanentError
from pipeline.guidelines import Guidelines, split_passages
from schemas.report import AlignmentAnswer, AlignmentReport, LikertAnswer


class RecordTooLongError(PermanentError):
    """A record does not fit into what the model takes, and is not to be cut."""

    code = "RECORD_TOO_LONG"


def room_beside(prompt: Prompt, model: str, context: int) -> int:
    """Give how many tokens are left of those that a model takes beside a prompt and its answer."""
    used = guess_tokens(prompt.system + prompt.user, model) + prompt.max_output_tokens
    return context - used - OVERHEAD_TOKENS


def open_reviewer(provider: Provider) -> Reviewer:
    """Give who reviews with this provider."""
    return CoverageReviewer() if provider.name == "local" else LlmReviewer(provider)


class CoverageReviewer:
    """How near records are to guidelines; no language model, and no ratings."""

    provider = "local"
    model = COVERAGE_MODEL
    embedding_model = LocalProvider.embedding_model
    prompt_version = COVERAGE_VERSION

    def review(self, wanted: Sequence[Wanted], guidelines: Guidelines) -> Reviewed:
        """Measure each record."""
        records = [entry.record for entry in wanted if entry.alignment]
        reports = assess_coverage(records, guidelines.rules)
        return Reviewed(
            {record.id: Assessment(report) for record, report in zip(records, reports, strict=True)}
        )


@dataclass(frozen=True)
class _Answered:
    """A model's answer to one question, and what it has used."""

    answer: AlignmentAnswer | LikertAnswer
    usage: Usage
    method: str = ""


# A question, and the id of the record that it is about.
_Asked = tuple[str, Question[_Answered]]


class LlmReviewer:
    """A language model that reads guidelines and record."""

    prompt_version = ALIGNMENT_VERSION

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.provider, self.model = provider.name, provider.llm_model
        self.embedding_model = embedder_of(provider).embedding_model

    def review(self, wanted: Sequence[Wanted], guidelines: Guidelines) -> Reviewed:
        """Ask a question for each that is wanted; one that fails does not cost the other its answer."""
        reviewed = Reviewed()
        asked = self._ask_judgements(
            [entry.record for entry in wanted if entry.alignment], guidelines, reviewed
        )
        asked += self._ask_ratings([entry.record for entry in wanted if entry.likert], reviewed)
        # Record by record: work that is interrupted leaves few of them half done.
        asked.sort(key=lambda pair: pair[0])
        settled = complete_all(self._provider, [question for _, question in asked])
        for place, found in settled.results.items():
            record_id = asked[place][0]
            if isinstance(found.answer, LikertAnswer):
                reviewed.ratings[record_id] = found.answer
            else:
                reviewed.alignments[record_id] = Assessment(_report(found.answer, found.method), found.usage)
        reviewed.failures |= {asked[place][0]: error for place, error in settled.failures.items()}
        reviewed.stopped_by = settled.stopped_by or reviewed.stopped_by
        return reviewed

    def _ask_judgements(
        self, records: Sequence[RecordText], guidelines: Guidelines, reviewed: Reviewed
    ) -> list[_Asked]:
        """Ask with all guidelines where they fit, else with the passages of them that are nearest."""
        whole = guess_tokens(guidelines.text, self.model)
        least = min(whole, largest_passage(guidelines, self.model))
        asked: list[_Asked] = []
        short: list[tuple[RecordText, int]] = []
        for record in records:
            room = self._room(alignment_prompt(record.content, ""))
            if room < least:
                reviewed.failures[record.id] = self._too_long(least - room)
            elif room < whole:
                short.append((record, room))
            else:
                method = f"Judged by {self.model} against the guidelines."
                prompt = alignment_prompt(record.content, guidelines.text)
                asked.append((record.id, Question(prompt, partial(_read_judgement, method))))
        return asked + self._ask_with_passages(short, guidelines, reviewed)

    def _ask_with_passages(
        self, short: Sequence[tuple[RecordText, int]], guidelines: Guidelines, reviewed: Reviewed
    ) -> list[_Asked]:
        chosen = choose_passages(
            self._provider, guidelines, [record for record, _ in short], [room for _, room in short]
        )
        reviewed.stopped_by = chosen.stopped_by
        reviewed.failures |= {short[place][0].id: error for place, error in chosen.failures.items()}
        asked: list[_Asked] = []
        for place, passages in chosen.results.items():
            count = len(split_passages(guidelines.text))
            method = (
                f"Judged by {self.model} against the {len(passages)} of {count} passages of "
                "the guidelines that are nearest to the record: the model does not take their whole text."
            )
            record = short[place][0]
            prompt = alignment_prompt(record.content, join_passages(passages))
            asked.append((record.id, Question(prompt, partial(_read_judgement, method))))
        return asked

    def _ask_ratings(self, records: Sequence[RecordText], reviewed: Reviewed) -> list[_Asked]:
        asked: list[_Asked] = []
        for record in records:
            prompt = likert_prompt(record.content)
            room = self._room(prompt)
            if room < 0:
                reviewed.failures[record.id] = self._too_long(-room)
            else:
                asked.append((record.id, Question(prompt, _read_rating)))
        return asked

    def _room(self, prompt: Prompt) -> int:
        return room_beside(prompt, self.model, self._provider.limits.llm_context)

    def _too_long(self, missing: int) -> RecordTooLongError:
        context = self._provider.limits.llm_context
        return RecordTooLongError(
            f"the record and the question need about {context + missing:,} tokens and the model takes "
            f"{context:,}: set llm_context if it takes more, or use a model that does"
        )


def _read_judgement(method: str, completion: Completion) -> _Answered:
    return _Answered(read_alignment(completion), completion.usage, method)


def _read_rating(completion: Completion) -> _Answered:
    return _Answered(read_likert(completion), completion.usage)


def _report(answer: AlignmentAnswer, method: str) -> AlignmentReport:
    return AlignmentReport(
        score=answer.score,
        method=method,
        summary=answer.summary,
        analysis=answer.analysis,
        findings=[],
        suggestions=list(answer.suggestions),
    )
