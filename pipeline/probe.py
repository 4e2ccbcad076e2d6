"""Calling the configured models once each, to see that they answer."""

import time

from sqlalchemy.orm import Session

from pipeline.ai import RecordText, analyst, embed_texts, embedding_model
from pipeline.system_settings import read_ai_settings


def probe_models(session: Session) -> list[str]:
    """Embed one text and assess one record; gives a line for each that answered.

    Raises:
        FatalError: the provider refuses; says what to change.
    """
    provider = read_ai_settings(session).provider
    started = time.perf_counter()
    model = embedding_model(provider)
    vectors = embed_texts(model, ["Does the embedding model answer?"])
    lines = [f"embeddings  {model.name}: {vectors.shape[1]} dimensions in {_since(started)}"]
    started = time.perf_counter()
    reviewer = analyst(provider)
    report = reviewer.assess(
        [RecordText("probe", "Does the model that analyzes answer?", vectors[0])], ["Questions are answered."]
    )[0].report
    lines.append(f"analysis    {reviewer.model}: score {report.score} in {_since(started)}")
    return lines


def _since(started: float) -> str:
    return f"{1000 * (time.perf_counter() - started):,.0f} ms"
