"""Models behind one small protocol: who embeds, who analyzes, by the name of the provider."""

from pipeline.ai.base import Analyst, Assessment, EmbeddingModel, RecordText, Vectors, verify_embeddings
from pipeline.ai.local import GuidelineCoverage, LocalEmbedding
from pipeline.ai.texts import embed_texts
from pipeline.errors import FatalError

__all__ = [
    "Analyst",
    "Assessment",
    "EmbeddingModel",
    "RecordText",
    "Vectors",
    "analyst",
    "embed_texts",
    "embedding_model",
    "verify_embeddings",
]

# Settings know these names already; the clients for their servers are still to come.
_PLANNED = ("lmstudio", "openrouter")


def embedding_model(provider: str) -> EmbeddingModel:
    """Give the model that embeds.

    Raises:
        FatalError: the provider cannot be used; says what to set.
    """
    _require_local(provider)
    return LocalEmbedding()


def analyst(provider: str) -> Analyst:
    """Give the model that analyzes.

    Raises:
        FatalError: the provider cannot be used; says what to set.
    """
    _require_local(provider)
    return GuidelineCoverage()


def _require_local(provider: str) -> None:
    if provider == "local":
        return
    reason = "is not available in this version" if provider in _PLANNED else "is not known"
    raise FatalError(
        f"the provider {provider!r} {reason} (known: local, {', '.join(_PLANNED)}): "
        "use the built-in one with `opspipe settings set ai_provider local`"
    )
