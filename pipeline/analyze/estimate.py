"""What an analysis is going to cost, before it is started."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from pipeline.ai import Prompt, Provider, guess_tokens, open_provider, run
from pipeline.analyze.needs import Extent, Needs, measure
from pipeline.analyze.prompts import alignment_prompt, likert_prompt
from pipeline.analyze.reviewers import open_reviewer, room_beside
from pipeline.analyze.start import require_guidelines
from pipeline.errors import FatalError, InputError
from pipeline.guidelines import Guidelines
from pipeline.projects import current_guidelines
from pipeline.system_settings import read_ai_config
from schemas.options import AnalysisOptions

# What answers usually take, well below what they may.
_ALIGNMENT_ANSWER_TOKENS, _LIKERT_ANSWER_TOKENS = 350, 20
_CHARS_PER_TOKEN = 4


@dataclass(frozen=True)
class Measured:
    """How much an analysis has to do, before anybody is asked what that costs."""

    provider: Provider
    guidelines: Guidelines
    extent: Extent


@dataclass(frozen=True)
class Estimate:
    """What an analysis would do and cost; `cost_usd` is None where no price is known."""

    model: str
    record_count: int
    call_count: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None


@dataclass(frozen=True)
class Tokens:
    """About how many tokens a model reads and writes in an analysis."""

    read: int
    written: int

    def cost_usd(self, input_price: float | None, output_price: float | None) -> float | None:
        """Give what they cost at prices in USD a token; None where one of them is not known."""
        if input_price is None or output_price is None:
            return None
        return self.read * input_price + self.written * output_price


def measure_analysis(session: Session, project_id: str, options: AnalysisOptions) -> Measured:
    """Measure what an analysis of a project would do; calls nobody.

    Raises:
        InputError: the project has no guidelines, or they cannot be used.
        FatalError: the provider cannot be used.
    """
    require_guidelines(session, project_id)
    guidelines = current_guidelines(session, project_id)
    if guidelines is None:
        raise InputError("the project's guidelines were removed at this moment: store them again")
    provider = open_provider(read_ai_config(session))
    needs = Needs(project_id, guidelines.sha256, open_reviewer(provider), options)
    return Measured(provider, guidelines, measure(session, needs))


def price_analysis(measured: Measured) -> Estimate:
    """Estimate what was measured; asks the provider for its list of models, outside any transaction.

    Raises:
        TransientError, FatalError: the provider is not there, or cannot be used.
    """
    provider, extent = measured.provider, measured.extent
    if provider.name == "local":
        return Estimate(open_reviewer(provider).model, extent.records, 0, 0, 0, 0.0)
    info = run(provider.llm_info())
    tokens = guess_extent(
        extent, measured.guidelines.text, model=info.name, context=provider.limits.llm_context
    )
    cost = tokens.cost_usd(info.input_price, info.output_price)
    calls = extent.alignments + extent.ratings
    return Estimate(info.name, extent.records, calls, tokens.read, tokens.written, cost)


def guess_extent(extent: Extent, guidelines: str, *, model: str, context: int | None) -> Tokens:
    """Guess how many tokens an analysis takes.

    Args:
        extent: how much there is to do.
        guidelines: their text; of what the model does not take, nothing is counted.
        model: the model's name.
        context: how many tokens it takes; None where nobody knows.
    """
    question = alignment_prompt("", "")
    shown = guess_tokens(guidelines, model) if guidelines else 0
    if context is not None:
        record = extent.alignment_chars // (_CHARS_PER_TOKEN * max(extent.alignments, 1))
        shown = min(shown, max(room_beside(question, model, context) - record, 0))
    alignment = guess_tokens(_words(question), model) + shown
    rating = guess_tokens(_words(likert_prompt("")), model)
    read = extent.alignments * alignment + extent.ratings * rating
    read += (extent.alignment_chars + extent.rating_chars) // _CHARS_PER_TOKEN
    written = extent.alignments * _ALIGNMENT_ANSWER_TOKENS + extent.ratings * _LIKERT_ANSWER_TOKENS
    return Tokens(read, written)


def _words(prompt: Prompt) -> str:
    return prompt.system + prompt.user


def require_price(provider: Provider) -> None:
    """See that a budget can be kept.

    Raises:
        FatalError: no price is known for the model; says what to set.
        TransientError: the provider is not there for the moment.
    """
    info = run(provider.llm_info())
    if info.input_price is None or info.output_price is None:
        raise FatalError(
            f"a budget cannot be kept: no price is known for the model {info.name!r}. Set llm_input_price "
            "and llm_output_price (USD a million tokens) with `opspipe settings set`, or ask without a "
            "budget"
        )
