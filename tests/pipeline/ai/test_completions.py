"""Many questions side by side: each with its own answer or error, and nothing lost of what was answered."""

from collections.abc import Callable

import orjson
import pytest

from pipeline.ai import (
    Completion,
    InvalidAnswerError,
    Limits,
    Prompt,
    Provider,
    Question,
    Settled,
    complete_all,
    embed_texts,
)
from pipeline.errors import FatalError, TransientError
from tests.ai_server import AiServer

MakeProvider = Callable[..., Provider]

SCHEMA = {
    "type": "object",
    "properties": {"number": {"type": "integer"}},
    "required": ["number"],
    "additionalProperties": False,
}

pytestmark = pytest.mark.usefixtures("no_pauses")


def _question(number: int) -> Question[int]:
    def read(completion: Completion) -> int:
        found = completion.answer.get("number")
        if not isinstance(found, int):
            raise InvalidAnswerError("there is no number")
        return found

    return Question(
        Prompt("You repeat numbers.", f"<{number}>", "number", SCHEMA, max_output_tokens=100), read
    )


def _ask(provider: Provider, count: int) -> Settled[int]:
    return complete_all(provider, [_question(number) for number in range(count)])


def _repeat(said: str) -> str:
    if "<" not in said:
        return '{"present": true}'
    return orjson.dumps({"number": int(said.split("<", 1)[1].split(">", 1)[0])}).decode()


def test_each_question_gets_its_own_answer(ai_server: AiServer, make_provider: MakeProvider) -> None:
    ai_server.behaviour.chat = _repeat
    ai_server.behaviour.latency = 0.002
    settled = _ask(make_provider(), 60)
    assert settled.results == {number: number for number in range(60)}
    assert (settled.failures, settled.stopped_by, ai_server.seen.chats) == ({}, None, 60)


def test_no_question_is_no_call(ai_server: AiServer, make_provider: MakeProvider) -> None:
    assert _ask(make_provider(), 0) == Settled()
    assert ai_server.seen.calls == 0


@pytest.mark.parametrize(("status", "code"), [(400, "HTTP_400"), (422, "HTTP_422"), (500, "SERVER_ERROR")])
def test_a_question_that_the_server_refuses_fails_by_itself(
    ai_server: AiServer, make_provider: MakeProvider, status: int, code: str
) -> None:
    ai_server.behaviour.chat = _repeat
    ai_server.behaviour.poison = {"<7>": status}
    settled = _ask(make_provider(), 20)
    assert settled.stopped_by is None
    assert {place: error.code for place, error in settled.failures.items()} == {7: code}
    assert settled.results == {number: number for number in range(20) if number != 7}


@pytest.mark.parametrize("useless", ["I do not know.", '{"number": "many"}', ""])
def test_an_answer_of_no_use_is_asked_for_three_times_at_most(
    ai_server: AiServer, make_provider: MakeProvider, useless: str
) -> None:
    ai_server.behaviour.chat = _repeat
    provider = make_provider()
    _ask(provider, 1)
    ai_server.behaviour.chat = lambda said: useless if "<1>" in said else _repeat(said)
    settled = _ask(provider, 3)
    assert settled.results == {0: 0, 2: 2}
    assert settled.failures[1].code == ("INVALID_ANSWER" if useless else "EMPTY_ANSWER")
    asked = [asked for asked in ai_server.seen.asked if "<1>" in asked["messages"][1]["content"]]
    assert [again["temperature"] for again in asked] == [0.0, 0.3, 0.3]


def test_an_answer_of_use_ends_the_asking(ai_server: AiServer, make_provider: MakeProvider) -> None:
    answers = ["{}", '{"number": 5}']
    ai_server.behaviour.chat = lambda _said: answers.pop(0)
    assert _ask(make_provider(), 1).results == {0: 5}
    assert not answers


def test_an_answer_that_was_cut_off_gets_more_room(ai_server: AiServer, make_provider: MakeProvider) -> None:
    ai_server.behaviour.finish_reason = "length"
    settled = _ask(make_provider(), 1)
    assert settled.failures[0].code == "TRUNCATED_ANSWER"
    assert [asked["max_tokens"] for asked in ai_server.seen.asked] == [100, 200, 400]


def test_a_refusal_is_not_asked_again(ai_server: AiServer, make_provider: MakeProvider) -> None:
    ai_server.behaviour.refusal = "I cannot help with that."
    settled = _ask(make_provider(), 1)
    assert settled.failures[0].code == "REFUSED"
    assert ai_server.seen.chats == 1


def test_what_no_call_can_mend_stops_what_has_not_begun_and_keeps_what_is_done(
    ai_server: AiServer, make_provider: MakeProvider, ai_settings: Callable[..., None]
) -> None:
    ai_settings(ai_concurrency=3)
    ai_server.behaviour.latency = 0.005

    def chat(said: str) -> str:
        if ai_server.seen.chats >= 9:
            ai_server.behaviour.is_without_credit = True
        return _repeat(said)

    ai_server.behaviour.chat = chat
    settled = _ask(make_provider(), 100)
    assert isinstance(settled.stopped_by, FatalError)
    assert "credit" in str(settled.stopped_by)
    assert len(settled.results) == ai_server.seen.chats
    assert all(place == number for place, number in settled.results.items())
    assert not settled.failures
    # The calls that were under way, and not one for each question that was left.
    assert ai_server.seen.calls <= ai_server.seen.chats + 3


def test_a_pause_stops_what_has_not_begun_too(
    ai_server: AiServer, make_provider: MakeProvider, ai_settings: Callable[..., None]
) -> None:
    ai_settings(ai_concurrency=2)
    ai_server.behaviour.fail_next, ai_server.behaviour.retry_after = 1_000, "60"
    settled = _ask(make_provider(), 100)
    assert isinstance(settled.stopped_by, TransientError)
    assert (settled.results, settled.failures) == ({}, {})
    assert ai_server.seen.calls <= 2


def test_texts_that_wait_for_a_slot_are_stopped_as_well(
    ai_server: AiServer, make_provider: MakeProvider, ai_settings: Callable[..., None]
) -> None:
    ai_settings(ai_concurrency=2)
    ai_server.behaviour.latency = 0.005
    ai_server.behaviour.key = "another"
    settled = embed_texts(
        make_provider(limits=Limits(batch_texts=1)), [f"text {place}" for place in range(40)]
    )
    assert isinstance(settled.stopped_by, FatalError)
    assert "ai_key" in str(settled.stopped_by)
    assert (settled.results, settled.failures) == ({}, {})
    assert ai_server.seen.calls <= 2
