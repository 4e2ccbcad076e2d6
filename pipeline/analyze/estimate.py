"""What an analysis is going to cost, before it is started."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from pipeline.ai import ModelInfo, Prompt, Provider, guess_tokens, open_provider, run
from pipeline.analyze.needs import Extent, Needs, measure
from pipeline.analyze.prompts import alignment_prompt, likert_prompt
from pipeline.analyze.reviewers import open_reviewer
from pipeline.analyze.start import require_guidelines
from pipeline.errors import FatalError, InputError
from pipeline.guidelines import Guidelines
from pipeline.projects import load_guidelines
from pipeline.system_settings import read_ai_config
from schemas.options import AnalysisOptions

# What answers usually take, well below what they may.
_ALIGNMENT_ANSWER_TOKENS, _LIKERT_ANSWER_TOKENS = 350, 20
_CHARS_PER_TOKEN = 4


@dataclass(frozen=True)
class Estimate:
    """What an analysis would do and cost; `cost_usd` is None where no price is known."""

    model: str
    record_count: int
    call_count: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None


def estimate_analysis(session: Session, project_id: str, options: AnalysisOptions) -> Estimate:
    """Estimate an analysis of a project; asks the provider for its prices, and calls no model.

    Raises:
        InputError: the project has no guidelines, or they cannot be used.
        TransientError, FatalError: the provider is not there, or cannot be used.
    """
    provider, guidelines, extent = _measure(session, project_id, options)
    if provider.name == "local":
        return Estimate(open_reviewer(provider).model, extent.records, 0, 0, 0, 0.0)
    info = run(provider.llm_info())
    return _priced(provider, info, extent, guidelines)


def count_analysis(session: Session, project_id: str, options: AnalysisOptions) -> int:
    """Count the records that an analysis of a project would take up; calls nobody.

    Raises:
        InputError: as `estimate_analysis`.
    """
    return _measure(session, project_id, options)[2].records


def _measure(
    session: Session, project_id: str, options: AnalysisOptions
) -> tuple[Provider, Guidelines, Extent]:
    require_guidelines(session, project_id)
    guidelines = load_guidelines(session, project_id)
    if guidelines is None:
        raise InputError("the project's guidelines were removed at this moment: store them again")
    provider = open_provider(read_ai_config(session))
    needs = Needs(project_id, guidelines.sha256, open_reviewer(provider), options)
    return provider, guidelines, measure(session, needs)


def _priced(provider: Provider, info: ModelInfo, extent: Extent, guidelines: Guidelines) -> Estimate:
    alignment = guess_tokens(_words(alignment_prompt("", "")), info.name) + min(
        guess_tokens(guidelines.text, info.name), provider.limits.llm_context // 2
    )
    rating = guess_tokens(_words(likert_prompt("")), info.name)
    read = extent.alignments * alignment + extent.ratings * rating
    read += (extent.alignment_chars + extent.rating_chars) // _CHARS_PER_TOKEN
    written = extent.alignments * _ALIGNMENT_ANSWER_TOKENS + extent.ratings * _LIKERT_ANSWER_TOKENS
    cost = None
    if info.input_price is not None and info.output_price is not None:
        cost = read * info.input_price + written * info.output_price
    return Estimate(info.name, extent.records, extent.alignments + extent.ratings, read, written, cost)


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
