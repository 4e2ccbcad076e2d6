"""Asking a language model many questions side by side; one bad question fails by itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pipeline.ai.base import Completion, Prompt, Provider
from pipeline.ai.loop import run
from pipeline.ai.retries import Probe, call_again
from pipeline.ai.settled import Settled, work_on_all
from pipeline.ai.tokens import OVERHEAD_TOKENS, guess_tokens
from pipeline.errors import PermanentError

T = TypeVar("T")

# An answer that is of no use is asked for again: the next may be whole.
_ANSWERS = 3
_TEMPERATURE_AGAIN = 0.3
_WORTH_ASKING_AGAIN = frozenset({"INVALID_ANSWER", "EMPTY_ANSWER", "TRUNCATED_ANSWER"})
_PROBE = Prompt(
    system="Answer in JSON.",
    user="Say that you are there.",
    name="presence",
    schema={
        "type": "object",
        "properties": {"present": {"type": "boolean"}},
        "required": ["present"],
        "additionalProperties": False,
    },
    max_output_tokens=50,
)


@dataclass(frozen=True)
class Question(Generic[T]):
    """A prompt, and how its answer is read: `read` raises an InvalidAnswerError where it is of no use."""

    prompt: Prompt
    read: Callable[[Completion], T]


def complete_all(provider: Provider, questions: Sequence[Question[T]]) -> Settled[T]:
    """Ask each question.

    Args:
        provider: who answers.
        questions: n questions.

    Returns:
        A result or an error for each place of a question; where the work was stopped, those of a part of
        them.
    """
    provider = provider.analyst
    settled: Settled[T] = Settled()
    probe = Probe(provider, lambda: provider.complete(_PROBE))

    async def settle(place: int) -> None:
        if settled.stopped_by is not None:
            return
        try:
            settled.results[place] = await _complete(provider, questions[place], probe)
        except PermanentError as error:
            settled.failures[place] = error

    run(work_on_all(range(len(questions)), settle, settled))
    return settled


async def _complete(provider: Provider, question: Question[T], probe: Probe) -> T:
    prompt = question.prompt
    for _ in range(_ANSWERS - 1):
        try:
            return question.read(await _ask(provider, prompt, probe))
        except PermanentError as error:
            if error.code not in _WORTH_ASKING_AGAIN:
                raise
            # The same question would get the same answer, and a longer one needs more room.
            is_cut = error.code == "TRUNCATED_ANSWER"
            room = _more_room(provider, prompt) if is_cut else prompt.max_output_tokens
            prompt = replace(prompt, temperature=_TEMPERATURE_AGAIN, max_output_tokens=room)
    return question.read(await _ask(provider, prompt, probe))


def _more_room(provider: Provider, prompt: Prompt) -> int:
    """Give twice the room for an answer, as far as the model has it: more would be refused."""
    context = provider.limits.llm_context
    left = context - OVERHEAD_TOKENS - guess_tokens(prompt.system + prompt.user, provider.llm_model)
    return max(prompt.max_output_tokens, min(2 * prompt.max_output_tokens, left))


async def _ask(provider: Provider, prompt: Prompt, probe: Probe) -> Completion:
    return await call_again(lambda: provider.complete(prompt), probe)
