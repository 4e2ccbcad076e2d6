"""Two servers as one provider: one embeds, the other answers. Each has its own gate, slots and outages."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.ai.base import Balance, Completion, Embedded, Limits, ModelInfo, Prompt, Provider


class ProviderPair:
    """A provider made of two.

    Args:
        embedder: who embeds.
        analyst: who answers, and whose name it has.
    """

    def __init__(self, embedder: Provider, analyst: Provider) -> None:
        self.embedder, self.analyst = embedder, analyst

    @property
    def name(self) -> str:
        """The name of who answers."""
        return self.analyst.name

    @property
    def embedding_model(self) -> str:
        """The model of who embeds."""
        return self.embedder.embedding_model

    @property
    def llm_model(self) -> str:
        """The model of who answers."""
        return self.analyst.llm_model

    @property
    def limits(self) -> Limits:
        """What one call of either may carry."""
        return replace(self.analyst.limits, embedding_context=self.embedder.limits.embedding_context)

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Have the one embed."""
        return await self.embedder.embed(texts)

    async def complete(self, prompt: Prompt) -> Completion:
        """Have the other answer."""
        return await self.analyst.complete(prompt)

    def succeeded_since(self, moment: float) -> bool:
        """Tell whether a call of both succeeded: whoever asks about a call asks the one that was called."""
        return self.embedder.succeeded_since(moment) and self.analyst.succeeded_since(moment)

    async def llm_info(self) -> ModelInfo:
        """Say what is known of the model that answers."""
        return await self.analyst.llm_info()

    async def models(self) -> Sequence[ModelInfo]:
        """List the models of both."""
        return [*await self.embedder.models(), *await self.analyst.models()]

    async def balance(self) -> Balance | None:
        """Say what is left where answers are paid for."""
        return await self.analyst.balance()

    async def close(self) -> None:
        """Hang up on both."""
        await self.embedder.close()
        await self.analyst.close()
