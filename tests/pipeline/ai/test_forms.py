"""The form in which a server is asked: found out by trying once, and not given up for a passing fault."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.ai import Completion, Provider, run
from pipeline.errors import PermanentError
from tests.ai_server import AiServer
from tests.pipeline.ai.asking import PROMPT, complete, embed, expected, fault

MakeProvider = Callable[..., Provider]

pytestmark = pytest.mark.usefixtures("no_pauses")


def test_base64_is_tried_once_and_then_numbers_are_asked_for(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.takes_base64 = False
    provider = make_provider()
    for _ in range(3):
        assert np.allclose(embed(provider), expected())
    assert _forms(ai_server) == ["base64", "float", "float", "float"]


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_form_that_is_refused_in_any_way_is_given_up(
    ai_server: AiServer, make_provider: MakeProvider, status: int
) -> None:
    ai_server.behaviour.takes_base64, ai_server.behaviour.refusal_status = False, status
    provider = make_provider()
    embed(provider)
    embed(provider)
    assert _forms(ai_server) == ["base64", "float", "float"]


@pytest.mark.parametrize("kind", ["base64", "json_schema"])
def test_a_fault_that_passes_costs_no_later_call_the_better_form(
    ai_server: AiServer, make_provider: MakeProvider, kind: str
) -> None:
    ai_server.behaviour.fail_next, ai_server.behaviour.fail_status = 1, 500
    provider = make_provider()
    lesser = {"base64": "float", "json_schema": "json_object"}[kind]
    for number in range(4):
        _ask_in(provider, kind, f"question {number}")
    assert _forms(ai_server) == [kind, lesser, kind, kind, kind]


@pytest.mark.parametrize("kind", ["base64", "json_schema"])
def test_a_form_that_a_server_never_knows_what_to_do_with_is_tried_twice_and_then_rarely(
    ai_server: AiServer, make_provider: MakeProvider, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    behaviour = ai_server.behaviour
    behaviour.takes_base64, behaviour.answer_forms, behaviour.refusal_status = False, ("json_object",), 500
    provider = make_provider()
    lesser = {"base64": "float", "json_schema": "json_object"}[kind]
    # The same again says nothing new.
    for number in (0, 0, 1, 2, 3):
        _ask_in(provider, kind, f"question {number}")
    expected = [kind, lesser, lesser, kind, lesser, lesser, lesser]
    assert _forms(ai_server) == expected
    later = time.monotonic() + 601
    monkeypatch.setattr("pipeline.ai.forms.time", SimpleNamespace(monotonic=lambda: later))
    for number in range(4, 8):
        _ask_in(provider, kind, f"question {number}")
    assert _forms(ai_server) == [*expected, kind, *[lesser] * 4]


def _ask_in(provider: Provider, kind: str, said: str) -> None:
    if kind == "base64":
        embed(provider, [said])
    else:
        run(provider.complete(replace(PROMPT, user=said)))


def test_questions_side_by_side_wait_for_the_first_to_find_the_form(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.answer_forms, ai_server.behaviour.latency = ("text",), 0.02
    provider = make_provider()
    assert len(_complete_at_once(provider, 8)) == 8
    assert _forms(ai_server) == ["json_schema", "json_object", *["text"] * 8]
    assert ai_server.seen.most_at_once > 1


def test_a_first_question_that_finds_nothing_out_holds_up_nobody_twice(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.poison, ai_server.behaviour.latency = {"question 0": 400}, 0.05
    found = _complete_at_once(make_provider(), 8)
    assert [place for place, entry in enumerate(found) if isinstance(entry, PermanentError)] == [0]
    # Three tries of the first, and then the seven others together.
    assert _forms(ai_server) == ["json_schema", "json_object", "text", *["json_schema"] * 7]
    assert ai_server.seen.most_at_once > 1


def test_who_is_cancelled_while_finding_the_form_leaves_the_others_free(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.latency = 0.05
    provider = make_provider()

    async def work() -> list[Completion]:
        first, *others = [asyncio.create_task(provider.complete(PROMPT)) for _ in range(4)]
        await asyncio.sleep(0.02)
        first.cancel()
        return await asyncio.wait_for(asyncio.gather(*others), 10)

    assert len(run(work())) == 3


def _complete_at_once(provider: Provider, count: int) -> list[Completion | BaseException]:
    async def work() -> list[Completion | BaseException]:
        calls = [provider.complete(replace(PROMPT, user=f"question {number}")) for number in range(count)]
        return await asyncio.gather(*calls, return_exceptions=True)

    return run(work())


def test_an_input_that_is_refused_in_every_form_says_nothing_of_the_forms(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.poison = {"poisoned": 400}
    provider = make_provider()
    assert "cannot take poisoned" in str(fault(lambda: embed(provider, ["poisoned"])))
    embed(provider)
    embed(provider)
    assert _forms(ai_server) == ["base64", "float", "base64", "base64"]


def test_a_form_that_was_found_is_found_for_one_model_only(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.answer_forms = ("text",)
    provider = make_provider()
    complete(provider)
    embed(provider)
    assert _forms(ai_server) == ["json_schema", "json_object", "text", "base64"]


def _forms(server: AiServer) -> list[str]:
    return [
        asked.get("encoding_format") or asked.get("response_format", {"type": "text"})["type"]
        for asked in server.seen.asked
    ]


@pytest.mark.parametrize(
    ("taken", "forms"),
    [
        (("json_schema", "json_object", "text"), ["json_schema"]),
        (("json_object", "text"), ["json_schema", "json_object"]),
        (("text",), ["json_schema", "json_object", "text"]),
    ],
)
def test_answers_are_asked_for_in_the_strictest_form_that_is_known_each_tried_once(
    ai_server: AiServer, make_provider: MakeProvider, taken: tuple[str, ...], forms: list[str]
) -> None:
    ai_server.behaviour.answer_forms = taken
    provider = make_provider()
    for _ in range(3):
        assert 0 <= complete(provider).answer["score"] <= 100
    assert _forms(ai_server) == [*forms, forms[-1], forms[-1]]
    strict = ai_server.seen.asked[0]["response_format"]["json_schema"]
    assert (strict["name"], strict["strict"], strict["schema"]) == ("verdict", True, PROMPT.schema)


def test_a_server_that_takes_no_notice_of_the_schema_is_told_it_in_words(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    def chat(said: str) -> str:
        return '{"score": 4}' if '"score"' in said else "It is rather good."

    ai_server.behaviour.chat = chat
    provider = make_provider()
    assert complete(provider).answer == {"score": 4}
    assert complete(provider).answer == {"score": 4}
    assert _forms(ai_server) == ["json_schema", "json_object", "json_object"]
