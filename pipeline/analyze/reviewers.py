"""The two reviewers: the measure of the provider `local`, and a language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pipeline.ai import Completion, Prompt, Provider, Question, Usage, complete_all, guess_tokens
from pipeline.analyze.coverage import COVERAGE_MODEL, COVERAGE_VERSION, assess_coverage
from pipeline.analyze.passages import choose_passages, number_passages
from pipeline.analyze.prompts import (
    ALIGNMENT_OUTPUT_TOKENS,
    ALIGNMENT_VERSION,
    LIKERT_OUTPUT_TOKENS,
    alignment_prompt,
    likert_prompt,
    read_alignment,
    read_likert,
)
from pipeline.analyze.review import Assessment, Reviewed, Reviewer, Wanted
from pipeline.errors import PermanentError, PipelineError
from pipeline.guidelines import Guidelines
from schemas.report import AlignmentAnswer, AlignmentReport, LikertAnswer

# Fewer tokens of guidelines are nothing to judge by.
_LEAST_GUIDELINES_TOKENS = 100
# The schema, which some servers want within the prompt, and what a chat's form adds.
_OVERHEAD_TOKENS = 250


class RecordTooLongError(PermanentError):
    """A record does not fit into what the model takes, and is not to be cut."""

    code = "RECORD_TOO_LONG"


def open_reviewer(provider: Provider) -> Reviewer:
    """Give who reviews with this provider."""
    return CoverageReviewer() if provider.name == "local" else LlmReviewer(provider)


class CoverageReviewer:
    """How near records are to guidelines; no language model, and no ratings."""

    provider = "local"
    model = COVERAGE_MODEL
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


class LlmReviewer:
    """A language model that reads guidelines and record."""

    prompt_version = ALIGNMENT_VERSION

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.provider, self.model = provider.name, provider.llm_model

    def review(self, wanted: Sequence[Wanted], guidelines: Guidelines) -> Reviewed:
        """Ask a question for each that is wanted; one that fails does not cost the other its answer."""
        reviewed = Reviewed()
        questions: list[Question[_Answered]] = []
        owners: list[str] = []
        for entry in wanted:
            try:
                asked = self._questions(entry, guidelines)
            except PermanentError as error:
                reviewed.failures[entry.record.id] = error
            except PipelineError as error:
                reviewed.stopped_by = error
                break
            else:
                questions += asked
                owners += [entry.record.id] * len(asked)
        settled = complete_all(self._provider, questions)
        for place, found in settled.results.items():
            if isinstance(found.answer, LikertAnswer):
                reviewed.ratings[owners[place]] = found.answer
            else:
                reviewed.alignments[owners[place]] = Assessment(
                    _report(found.answer, found.method), found.usage
                )
        reviewed.failures |= {owners[place]: error for place, error in settled.failures.items()}
        reviewed.stopped_by = settled.stopped_by or reviewed.stopped_by
        return reviewed

    def _questions(self, entry: Wanted, guidelines: Guidelines) -> list[Question[_Answered]]:
        asked: list[Question[_Answered]] = []
        if entry.alignment:
            prompt, method = self._alignment(entry.record.content, guidelines)
            asked.append(Question(prompt, partial(_read_judgement, method)))
        if entry.likert:
            prompt = likert_prompt(entry.record.content)
            self._require_room(prompt, LIKERT_OUTPUT_TOKENS)
            asked.append(Question(prompt, _read_rating))
        return asked

    def _alignment(self, record: str, guidelines: Guidelines) -> tuple[Prompt, str]:
        """Make a prompt with all guidelines where they fit, else with the nearest passages of them."""
        room = self._require_room(
            alignment_prompt(record, ""), ALIGNMENT_OUTPUT_TOKENS + _LEAST_GUIDELINES_TOKENS
        )
        room += _LEAST_GUIDELINES_TOKENS
        if guess_tokens(guidelines.text, self.model) <= room:
            return alignment_prompt(
                record, guidelines.text
            ), f"Judged by {self.model} against the guidelines."
        passages = choose_passages(self._provider, guidelines, record, tokens=room)
        method = (
            f"Judged by {self.model} against the {len(passages)} of {len(guidelines.rules)} passages of the "
            "guidelines that are nearest to the record: all of them are more than the model takes."
        )
        return alignment_prompt(record, number_passages(passages)), method

    def _require_room(self, prompt: Prompt, more: int) -> int:
        """Give how many tokens are left of what the model takes behind a prompt and `more` tokens.

        Raises:
            RecordTooLongError: none are.
        """
        context = self._provider.limits.llm_context
        needed = guess_tokens(prompt.system + prompt.user, self.model) + _OVERHEAD_TOKENS + more
        if needed > context:
            raise RecordTooLongError(
                f"the record and the question need about {needed:,} tokens and the model takes {context:,}: "
                "set llm_context if it takes more, or use a model that does"
            )
        return context - needed


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
