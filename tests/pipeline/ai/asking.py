"""Asking a provider, as the tests of providers do: texts, a prompt, and what their answers should be."""

from collections.abc import Callable

import numpy as np
import pytest

from pipeline.ai import Completion, Prompt, Provider, Vectors, run
from pipeline.errors import PipelineError
from tests.ai_server import vector_of

TEXTS = ["one text", "two texts", "three texts", "four texts"]
PROMPT = Prompt(
    system="Judge.",
    user="How good is it?",
    name="verdict",
    schema={
        "type": "object",
        "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 100}},
        "required": ["score"],
        "additionalProperties": False,
    },
)


def embed(provider: Provider, texts: list[str] = TEXTS) -> Vectors:
    """Embed texts."""
    return run(provider.embed(texts)).vectors


def complete(provider: Provider) -> Completion:
    """Ask the prompt."""
    return run(provider.complete(PROMPT))


def fault(call: Callable[[], object]) -> PipelineError:
    """Give the error that a call raises."""
    with pytest.raises(PipelineError) as caught:
        call()
    return caught.value


def expected(texts: list[str] = TEXTS) -> Vectors:
    """Give the vectors that texts should have."""
    return np.array([vector_of(text, 16) for text in texts], dtype=np.float64)
