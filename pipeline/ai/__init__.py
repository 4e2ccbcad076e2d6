"""Models behind one small protocol: who embeds, who answers, whatever their servers do."""

from pipeline.ai.base import (
    AiConfig,
    Balance,
    BudgetSpentError,
    Completion,
    Limits,
    ModelInfo,
    Prompt,
    Provider,
    Usage,
    Vectors,
)
from pipeline.ai.completions import Question, complete_all
from pipeline.ai.embedding import TextVector, embed_or_raise, embed_texts
from pipeline.ai.gate import at_once
from pipeline.ai.http import InvalidAnswerError
from pipeline.ai.loop import run
from pipeline.ai.providers import close_providers, open_provider, require_models
from pipeline.ai.settled import Settled, limited_work, longest_work_seconds
from pipeline.ai.spending import Meter, metered, read_spent
from pipeline.ai.tokens import OVERHEAD_TOKENS, chars_within, guess_tokens

__all__ = [
    "OVERHEAD_TOKENS",
    "AiConfig",
    "Balance",
    "BudgetSpentError",
    "Completion",
    "InvalidAnswerError",
    "Limits",
    "Meter",
    "ModelInfo",
    "Prompt",
    "Provider",
    "Question",
    "Settled",
    "TextVector",
    "Usage",
    "Vectors",
    "at_once",
    "chars_within",
    "close_providers",
    "complete_all",
    "embed_or_raise",
    "embed_texts",
    "guess_tokens",
    "limited_work",
    "longest_work_seconds",
    "metered",
    "open_provider",
    "read_spent",
    "require_models",
    "run",
]
