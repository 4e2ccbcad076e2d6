"""What is made of the answers of servers that speak OpenAI's API: verified, in order, in a form they know."""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest

from pipeline.ai import (
    Balance,
    InvalidAnswerError,
    ModelInfo,
    Provider,
    guess_tokens,
    require_models,
    run,
)
from pipeline.ai.answers import read_usage
from pipeline.errors import FatalError, PermanentError, PipelineError, ServerError
from tests.ai_server import AiServer
from tests.pipeline.ai.asking import TEXTS, complete, embed, expected, fault

MakeProvider = Callable[..., Provider]
Spoil = Callable[[list[dict[str, Any]]], None]

pytestmark = pytest.mark.usefixtures("no_pauses")


def _spoil(server: AiServer, change: Spoil) -> None:
    def spoil(answer: dict[str, Any]) -> dict[str, Any]:
        change(answer["data"])
        return answer

    server.behaviour.spoil = spoil


def test_vectors_are_put_in_the_order_of_their_index(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    _spoil(ai_server, lambda data: data.reverse())
    assert np.array_equal(embed(make_provider()), expected())


def test_vectors_without_index_are_taken_in_their_order(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    _spoil(ai_server, lambda data: [item.pop("index") for item in data])
    assert np.array_equal(embed(make_provider()), expected())


def _set(place: int, **values: object) -> Spoil:
    return lambda data: data[place].update(values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.pop(), "3 vectors for 4 texts"),
        (lambda data: data.append(data[0]), "5 vectors for 4 texts"),
        (_set(1, index=0), "numbered"),
        (_set(3, index=4), "numbered"),
        (_set(0, index=-1), "numbered"),
        (_set(0, index="0"), "numbered"),
        (_set(1, embedding=[1.0, 2.0]), "different lengths"),
        (lambda data: [item.update(embedding=[]) for item in data], "missing"),
        (_set(2, embedding=None), "missing"),
        (_set(2, embedding={"values": [1.0]}), "missing"),
        (_set(2, embedding=["a"] * 16), "not a number"),
        (_set(2, embedding=[None] * 16), "not finite"),
        (_set(2, embedding=[0.5] * 15 + [float("nan")]), "not JSON"),
        (_set(2, embedding=[0.5] * 15 + [float("inf")]), "not JSON"),
        (_set(2, embedding=[0.0] * 16), "zeros"),
        (_set(2, embedding="no base64!"), "base64"),
        (_set(2, embedding="AAAA"), "base64"),
    ],
)
def test_vectors_that_cannot_be_right_are_not_believed(
    ai_server: AiServer, make_provider: MakeProvider, change: Spoil, said: str
) -> None:
    _spoil(ai_server, change)
    error = fault(lambda: embed(make_provider()))
    assert isinstance(error, InvalidAnswerError)
    assert said in str(error)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_base64_hides_no_number_that_is_none(
    ai_server: AiServer, make_provider: MakeProvider, number: float
) -> None:
    vector = np.full(16, number, dtype="<f4")
    _spoil(ai_server, _set(2, embedding=base64.b64encode(vector.tobytes()).decode()))
    error = fault(lambda: embed(make_provider()))
    assert isinstance(error, InvalidAnswerError)
    assert "not finite" in str(error)


def test_vectors_of_single_tokens_stop_the_job_and_say_how_to_start_the_server(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    _spoil(ai_server, lambda data: [item.update(embedding=[[0.1] * 16, [0.2] * 16]) for item in data])
    error = fault(lambda: embed(make_provider()))
    assert isinstance(error, FatalError)
    assert "--pooling mean" in str(error)


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        ({"chat": lambda _said: ""}, "EMPTY_ANSWER"),
        ({"chat": lambda _said: " \n"}, "EMPTY_ANSWER"),
        ({"finish_reason": "length"}, "TRUNCATED_ANSWER"),
        ({"finish_reason": "content_filter"}, "REFUSED"),
        ({"refusal": "I cannot judge this."}, "REFUSED"),
        ({"chat": lambda _said: "I would say 80."}, "INVALID_ANSWER"),
        ({"chat": lambda _said: '{"score": 80'}, "INVALID_ANSWER"),
        ({"chat": lambda _said: "[80]"}, "INVALID_ANSWER"),
        ({"chat": lambda _said: "<think>{}"}, "INVALID_ANSWER"),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_the_input(
    ai_server: AiServer, make_provider: MakeProvider, behaviour: dict[str, Any], code: str
) -> None:
    for name, value in behaviour.items():
        setattr(ai_server.behaviour, name, value)
    error = fault(lambda: complete(make_provider()))
    assert isinstance(error, PermanentError)
    assert error.code == code


@pytest.mark.parametrize(
    "body", [{}, {"choices": []}, {"choices": [{}]}, {"choices": [{"message": None}]}, {"choices": "no"}]
)
def test_an_answer_without_a_message_is_not_believed(
    ai_server: AiServer, make_provider: MakeProvider, body: dict[str, Any]
) -> None:
    ai_server.behaviour.answer_next = [(200, orjson.dumps(body), {})] * 3
    assert isinstance(fault(lambda: complete(make_provider())), InvalidAnswerError)


@pytest.mark.parametrize(
    "content",
    [
        '{"score": 80}',
        '```json\n{"score": 80}\n```',
        'Here it is:\n\n```\n{"score": 80}\n```\nAnything else?',
        'My verdict: {"score": 80}. It is good.',
        '<think>Perhaps {"score": 5}?</think>\n{"score": 80}',
        '<think>Perhaps {"score": 5}?</think>\n```json\n{"score": 80}\n```',
        'Perhaps ```json\n{"score": 5}\n```?</think>{"score": 80}',
    ],
)
def test_the_answer_is_found_beneath_thoughts_and_fences(
    ai_server: AiServer, make_provider: MakeProvider, content: str
) -> None:
    ai_server.behaviour.chat = lambda _said: content
    assert complete(make_provider()).answer == {"score": 80}


def test_a_mark_of_thoughts_within_the_answer_ends_nothing(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    answer = {"score": 8, "summary": 'it says </think>{"score": 100}'}
    ai_server.behaviour.chat = lambda _said: orjson.dumps(answer).decode()
    assert complete(make_provider()).answer == answer


def test_the_room_and_the_temperature_are_those_of_the_prompt(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    complete(make_provider())
    asked = ai_server.seen.asked[0]
    assert (asked["model"], asked["max_tokens"], asked["temperature"]) == ("chatter", 1_000, 0.0)
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]


def test_openrouter_is_told_who_asks_and_says_what_it_cost(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.key, ai_server.behaviour.cost = "sk-or", 0.0125
    completion = complete(make_provider("openrouter", key="sk-or"))
    assert completion.usage.cost_usd == 0.0125
    assert completion.usage.input_tokens > 0
    assert completion.usage.output_tokens == 20
    sent = ai_server.seen.headers[0]
    assert (sent["x-title"], sent["authorization"]) == ("opspipe", "Bearer sk-or")
    assert sent["http-referer"].startswith("https://")
    assert ai_server.seen.asked[0]["usage"] == {"include": True}


def test_a_server_of_ones_own_is_told_nothing_of_who_asks(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    assert complete(make_provider()).usage.cost_usd is None
    assert not {"x-title", "http-referer", "authorization"} & ai_server.seen.headers[0].keys()
    assert "usage" not in ai_server.seen.asked[0]


def test_what_a_call_cost_is_reckoned_by_the_listed_prices(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.prices = {"chatter": (1e-6, 5e-6), "embedder": (2e-8, 0.0)}
    ai_server.behaviour.context = {"embedder": 2048, "chatter": 16_000}
    provider = make_provider("openrouter", key="sk-or")
    assert run(provider.llm_info()) == ModelInfo("chatter", 16_000, 1e-6, 5e-6)
    used = complete(provider).usage
    assert used.cost_usd == pytest.approx(used.input_tokens * 1e-6 + 20 * 5e-6)
    used = run(provider.embed(TEXTS)).usage
    assert used.cost_usd == pytest.approx(used.input_tokens * 2e-8)
    assert (provider.limits.embedding_context, provider.limits.llm_context) == (2048, 16_000)


def test_prices_that_are_set_win_over_those_listed(ai_server: AiServer, make_provider: MakeProvider) -> None:
    ai_server.behaviour.prices = {"chatter": (1e-6, 5e-6)}
    provider = make_provider(llm_input_price=0.0, llm_output_price=1.0)
    assert run(provider.llm_info()) == ModelInfo("chatter", None, 0.0, 1.0)
    assert complete(provider).usage.cost_usd == 20.0


def test_the_tokens_of_a_server_that_does_not_count_are_guessed_and_cost_as_much(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.gives_usage = False
    provider = make_provider(llm_input_price=1e-6, llm_output_price=5e-6, embedding_price=2e-8)
    used = complete(provider).usage
    sent = [message["content"] for message in ai_server.seen.asked[0]["messages"]]
    read, written = sum(map(guess_tokens, sent)), used.output_tokens
    assert (used.calls, used.input_tokens, used.is_counted) == (1, read, False)
    assert 5 <= written <= 20
    assert used.cost_usd == pytest.approx(read * 1e-6 + written * 5e-6)
    used = run(provider.embed(TEXTS)).usage
    read = sum(map(guess_tokens, TEXTS))
    assert (used.input_tokens, used.output_tokens, used.is_counted) == (read, 0, False)
    assert used.cost_usd == pytest.approx(read * 2e-8)


@pytest.mark.parametrize(
    ("usage", "tokens", "is_counted"),
    [
        ({"prompt_tokens": 30, "completion_tokens": 7, "total_tokens": 37}, (30, 7), True),
        ({"completion_tokens": 7, "total_tokens": 37}, (30, 7), True),
        ({"prompt_tokens": 30}, (30, guess_tokens('{"score": 7}')), False),
        ({"total_tokens": 37}, (37 - guess_tokens('{"score": 7}'), guess_tokens('{"score": 7}')), False),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (10, guess_tokens('{"score": 7}')), False),
        (None, (10, guess_tokens('{"score": 7}')), False),
    ],
)
def test_only_what_is_not_counted_is_guessed(
    *, usage: dict[str, int] | None, tokens: tuple[int, int], is_counted: bool
) -> None:
    body = {"choices": [{"message": {"content": '{"score": 7}'}}], "usage": usage}
    used = read_usage(body, "chatter", ["a" * 27])
    assert ((used.input_tokens, used.output_tokens), used.is_counted) == (tokens, is_counted)


@pytest.mark.parametrize(
    ("limit", "usage", "balance"),
    [
        (None, 3.5, Balance(spent_usd=3.5, remaining_usd=None)),
        (10.0, 3.5, Balance(spent_usd=3.5, remaining_usd=6.5)),
        (10.0, 10.0, Balance(spent_usd=10.0, remaining_usd=0.0)),
        (0.0, 0.0, Balance(spent_usd=0.0, remaining_usd=0.0)),
    ],
)
def test_a_key_without_a_limit_has_no_remainder_rather_than_none_left(
    ai_server: AiServer, make_provider: MakeProvider, limit: float | None, usage: float, balance: Balance
) -> None:
    ai_server.behaviour.key_limit, ai_server.behaviour.key_usage = limit, usage
    assert run(make_provider("openrouter", key="sk-or").balance()) == balance


def test_a_server_of_ones_own_has_no_balance(make_provider: MakeProvider) -> None:
    assert run(make_provider().balance()) is None


def test_a_model_that_is_not_listed_is_refused_though_the_server_would_answer(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.knows_any_model = True
    provider = make_provider(llm_model="wrong")
    run(require_models(provider, embedding=True, llm=False))
    with pytest.raises(FatalError, match="'wrong': `opspipe settings set llm_model NAME` with one"):
        run(require_models(provider, embedding=True, llm=True))
    with pytest.raises(FatalError, match="settings set embedding_model"):
        run(require_models(make_provider(embedding_model=""), embedding=True, llm=False))


@pytest.mark.parametrize(
    ("listed", "model"),
    [("maker/name", "maker/name:nitro"), ("maker/name:free", "maker/name:free"), ("name:latest", "name")],
)
def test_a_model_is_listed_also_by_a_shorter_or_a_longer_name(
    ai_server: AiServer, make_provider: MakeProvider, listed: str, model: str
) -> None:
    ai_server.behaviour.models = ("embedder", listed)
    ai_server.behaviour.context, ai_server.behaviour.prices = {listed: 9_000}, {listed: (1e-6, 2e-6)}
    provider = make_provider(llm_model=model)
    run(require_models(provider, embedding=True, llm=True))
    assert provider.limits.llm_context == 9_000
    assert run(provider.llm_info()) == ModelInfo(model, 9_000, 1e-6, 2e-6)


@pytest.mark.parametrize(
    ("status", "body"),
    [(400, b"{}"), (403, b"{}"), (404, b""), (405, b""), (501, b""), (200, b"<html>Hello</html>")],
)
def test_a_server_that_does_not_list_its_models_may_be_asked_all_the_same(
    ai_server: AiServer, make_provider: MakeProvider, status: int, body: bytes
) -> None:
    ai_server.behaviour.list_answer = (status, body, {})
    provider = make_provider()
    run(require_models(provider, embedding=True, llm=True))
    assert embed(provider).shape == (4, 16)


@pytest.mark.parametrize(("status", "kind"), [(401, FatalError), (500, ServerError), (503, ServerError)])
def test_a_list_that_is_refused_for_the_key_or_for_now_is_no_answer(
    ai_server: AiServer, make_provider: MakeProvider, status: int, kind: type[PipelineError]
) -> None:
    ai_server.behaviour.list_answer = (status, b"", {})
    assert isinstance(fault(lambda: run(require_models(make_provider(), embedding=True, llm=True))), kind)


def test_the_context_that_is_loaded_goes_before_the_one_that_the_model_was_made_for(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    listed = [
        {"id": "embedder", "meta": {"n_ctx_train": 8192, "n_ctx": 1024}},
        {"id": "chatter", "loaded_context_length": 2048, "max_context_length": 32768},
    ]
    ai_server.behaviour.list_answer = (200, orjson.dumps({"data": listed}), {})
    provider = make_provider()
    run(provider.models())
    assert (provider.limits.embedding_context, provider.limits.llm_context) == (1024, 2048)
