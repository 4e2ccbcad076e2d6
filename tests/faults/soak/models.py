"""The server of models of a soak: hours of questions are counted, not kept."""

from collections.abc import Mapping
from typing import Any

from tests.ai_server import AiServer, Answer, Behaviour
from tests.faults.soak.batches import WORD

DIMENSIONS = 16
LANGUAGE_MODELS = ("chatter", "writer")


class CountingServer(AiServer):
    """Counts the texts of records that it embeds, and the questions that it is asked."""

    def __init__(self) -> None:
        super().__init__(
            Behaviour(dimensions=DIMENSIONS, models=("embedder", *LANGUAGE_MODELS)), keeps_texts=False
        )
        self.embedded = 0

    @property
    def asked(self) -> int:
        """The questions to a language model."""
        return self.seen.chats

    def _embed(self, asked: Mapping[str, Any]) -> Answer:
        self.embedded += sum(text.startswith(WORD) for text in asked["input"])
        return super()._embed(asked)
