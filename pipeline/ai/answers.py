"""Looking at what models answer before it is believed: vectors, and JSON within a chat's message."""

import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pybase64

from pipeline.ai.base import Usage, Vectors
from pipeline.ai.http import InvalidAnswerError, RefusedAnswerError
from pipeline.ai.tokens import guess_tokens
from pipeline.errors import AnswerError, FatalError

_QUOTED_CHARS = 100
_FENCED = re.compile(r"```(?:json)?\s*(\{.*\})\s*```", re.DOTALL)
# Where a message holds what its model has written.
_SPOKEN = ("reasoning_content", "reasoning", "content", "refusal")
_THOUGHTS, _END_OF_THOUGHTS = "<think>", "</think>"


class EmptyAnswerError(AnswerError):
    """The model answered with nothing."""

    code = "EMPTY_ANSWER"


class TruncatedAnswerError(AnswerError):
    """The model's answer was cut off: it is not the whole of it."""

    code = "TRUNCATED_ANSWER"


def read_vectors(body: Mapping[str, Any], count: int) -> Vectors:
    """Read the vectors of an embeddings answer, in the order of the inputs.

    Args:
        body: the answer.
        count: how many texts were sent.

    Raises:
        InvalidAnswerError: a vector is missing, double, of another length, not finite or all zero.
        FatalError: the server embeds single tokens instead of texts.
    """
    data = body.get("data")
    if not isinstance(data, list) or len(data) != count:
        found = len(data) if isinstance(data, list) else "no"
        raise InvalidAnswerError(f"the model answered with {found} vectors for {count} texts")
    ordered: list[Any] = [None] * count
    for place, item in enumerate(data):
        index = item.get("index", place) if isinstance(item, dict) else None
        if not isinstance(index, int) or not 0 <= index < count or ordered[index] is not None:
            raise InvalidAnswerError("the model's vectors are not numbered from 0, each once")
        ordered[index] = item.get("embedding")
    return verify_embeddings(_stack([_vector(item) for item in ordered]), count)


def _vector(value: object) -> np.ndarray[Any, Any]:
    if isinstance(value, str):
        try:
            return np.frombuffer(pybase64.b64decode(value, validate=True), dtype="<f4")
        except (binascii.Error, ValueError) as error:
            raise InvalidAnswerError(f"a vector is not base64 of 32-bit numbers: {error}") from error
    if not isinstance(value, list) or not value:
        raise InvalidAnswerError("a vector is missing")
    if isinstance(value[0], list):
        raise FatalError(
            "the server answers with a vector for each token instead of one for each text: start it with "
            "pooling (llama.cpp: --pooling mean), or use another server or model to embed"
        )
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidAnswerError(f"a vector holds what is not a number: {error}") from error


def _stack(vectors: Sequence[np.ndarray[Any, Any]]) -> Vectors:
    if len({len(vector) for vector in vectors}) > 1:
        raise InvalidAnswerError("the model's vectors are of different lengths")
    return np.stack(vectors)


def verify_embeddings(vectors: Vectors, count: int) -> Vectors:
    """Believe vectors only after looking at them.

    Args:
        vectors: what the model answered.
        count: how many texts it was given.

    Returns:
        The same vectors.

    Raises:
        InvalidAnswerError: the shape is wrong, a number is not finite, or a vector is all zero.
    """
    if vectors.ndim != 2 or vectors.shape[0] != count or vectors.shape[1] == 0:  # noqa: PLR2004 - rows, columns
        raise InvalidAnswerError(f"the model answered with shape {vectors.shape} for {count} texts")
    if not np.isfinite(vectors).all():
        raise InvalidAnswerError("the model answered with numbers that are not finite")
    if not vectors.any(axis=1).all():
        raise InvalidAnswerError("the model answered with a vector of zeros")
    return vectors


def read_object(body: Mapping[str, Any]) -> dict[str, Any]:
    """Read the JSON object in a chat's answer.

    Raises:
        TruncatedAnswerError: the model ran out of tokens.
        RefusedAnswerError: it would not answer.
        EmptyAnswerError: it said nothing.
        InvalidAnswerError: what it said holds no JSON object.
    """
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise InvalidAnswerError("the model's answer has no message")
    reason, content = choice.get("finish_reason"), message.get("content")
    if message.get("refusal") or reason == "content_filter":
        said = str(message.get("refusal") or "content filter")
        # Quoted, because it may hold what no text can.
        raise RefusedAnswerError(f"the model refused: {said[:_QUOTED_CHARS]!r}")
    if reason == "length":
        raise TruncatedAnswerError("the model's answer was cut off at its longest length")
    if not isinstance(content, str) or not content.strip():
        raise EmptyAnswerError("the model answered with nothing")
    return _parse_object(content)


def _parse_object(content: str) -> dict[str, Any]:
    # Where the thoughts begin is not always said: some servers put it into the prompt.
    said = content.rpartition(_END_OF_THOUGHTS)[2]
    if said.lstrip().startswith(_THOUGHTS):
        raise InvalidAnswerError("the model thought, and answered nothing")
    fenced = _FENCED.search(said)
    start, end = said.find("{"), said.rfind("}")
    for candidate in (
        content,
        said,
        fenced[1] if fenced else "",
        said[start : end + 1] if start >= 0 else "",
    ):
        try:
            found = orjson.loads(candidate)
        except orjson.JSONDecodeError:
            continue
        if isinstance(found, dict):
            return found
    raise InvalidAnswerError(f"the model answered with no JSON object: {content.strip()[:_QUOTED_CHARS]!r}")


def read_usage(body: Mapping[str, Any], model: str, sent: Sequence[str]) -> Usage:
    """Read what a call has used; its cost is unknown where the server does not say.

    Tokens that the server does not count are guessed from what was sent and what was answered: else nothing
    would ever have a cost, and no budget an end.

    Args:
        body: the answer.
        model: who answered.
        sent: the texts that the call carried.
    """
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    said = _said(body)
    total = _number(usage.get("total_tokens"))
    counted_output = _number(usage.get("completion_tokens"))
    output = counted_output or (guess_tokens(said, model) if said else 0)
    counted_input = _number(usage.get("prompt_tokens")) or max(total - output, 0)
    cost = usage.get("cost")
    return Usage(
        calls=1,
        input_tokens=counted_input or sum(guess_tokens(text, model) for text in sent),
        output_tokens=output,
        cost_usd=float(cost) if isinstance(cost, int | float) and np.isfinite(cost) and cost >= 0 else None,
        is_counted=counted_input > 0 and (counted_output > 0 or not said),
    )


def _said(body: Mapping[str, Any]) -> str:
    """Give all that a chat's answer holds, its thoughts too; of embeddings that is nothing."""
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return ""
    return "".join(part for name in _SPOKEN if isinstance(part := message.get(name), str))


def _number(value: object) -> int:
    """Believe a number of tokens that a call can have; what is kept of it has 32 bits."""
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0
