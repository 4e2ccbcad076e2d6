"""Calls over HTTP to a real server: connections are kept, and each fault is the error that it should be."""

import gzip
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Protocol

import httpx
import orjson
import pytest
from sqlalchemy import text

from pipeline.ai.http import InvalidAnswerError, RefusedAnswerError, _retry_after
from pipeline.database import transaction
from pipeline.errors import FatalError, PermanentError, PipelineError, ServerError, TransientError
from tests.ai_server import AiServer


class Caller(Protocol):
    def post(self, text: str = ...) -> Any: ...  # noqa: ANN401 - JSON

    def post_at_once(self, count: int) -> list[Any]: ...


MakeCaller = Callable[..., Caller]
KEY = "sk-test-0123456789"

pytestmark = pytest.mark.usefixtures("no_pauses")


def _fault(call: Callable[[], object]) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        call()
    return caught.value


def _says(message: str, **more: object) -> bytes:
    return orjson.dumps({"error": {"message": message, **more}})


def test_one_connection_serves_one_call_after_another(ai_server: AiServer, make_caller: MakeCaller) -> None:
    caller = make_caller(ai_server.url)
    for _ in range(30):
        caller.post()
    assert (ai_server.seen.calls, ai_server.seen.connections) == (30, 1)


def test_calls_at_once_need_no_more_connections_than_slots(
    ai_server: AiServer, make_caller: MakeCaller, ai_settings: Callable[..., None]
) -> None:
    ai_settings(ai_concurrency=4)
    ai_server.behaviour.latency = 0.005
    caller = make_caller(ai_server.url)
    for _ in range(3):
        caller.post_at_once(40)
    assert ai_server.seen.calls == 120
    assert ai_server.seen.connections == 4 == ai_server.seen.most_at_once


@pytest.mark.parametrize(
    ("status", "what_to_do"),
    [
        (401, "set ai_key"),
        (403, "set ai_key"),
        (402, "no credit left: add some"),
        (404, "'embedder' or none of its kind, or ai_host is not its base URL"),
        (405, "'embedder' or none of its kind, or ai_host is not its base URL"),
        # As llama.cpp's server answers that was started without embeddings.
        (501, "'embedder' or none of its kind, or ai_host is not its base URL"),
        (302, "set ai_host"),
    ],
)
def test_what_somebody_has_to_change_stops_the_job_and_says_what(
    ai_server: AiServer, make_caller: MakeCaller, status: int, what_to_do: str
) -> None:
    ai_server.behaviour.answer_next = [(status, _says(f"not with the key {KEY}"), {})]
    error = _fault(make_caller(ai_server.url).post)
    assert isinstance(error, FatalError)
    assert what_to_do in str(error)
    assert "not with the key ***" in str(error)
    assert KEY not in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        _says("model 'embedder' not found, try pulling it first"),
        _says("The model `embedder` does not exist or you do not have access to it."),
        _says("embedder is not a valid model ID"),
        _says("Model embedder isn't loaded"),
        _says("Invalid model name: embedder"),
        _says("No models loaded. Please load a model in the developer page."),
        _says("it is not here", code="model_not_found"),
        _says("it is not here", param="model"),
        orjson.dumps({"message": "it is not here", "param": "model", "code": 400}),
    ],
)
def test_an_unknown_model_stops_the_job_also_where_it_is_called_a_bad_request(
    ai_server: AiServer, make_caller: MakeCaller, answer: bytes
) -> None:
    ai_server.behaviour.answer_next = [(400, answer, {})]
    error = _fault(make_caller(ai_server.url).post)
    assert isinstance(error, FatalError)
    assert "opspipe settings list" in str(error)


@pytest.mark.parametrize(
    "said",
    [
        "cannot read: 'write about a fashion model who was not found on stage'",
        "cannot read: 'there is no model of that, it is an invalid model'",
        "This model's maximum context length is 512 tokens, your request is invalid",
        "embedder takes 512 tokens: this text is not valid",
    ],
)
def test_a_refusal_that_speaks_of_models_is_still_one_of_the_input(
    ai_server: AiServer, make_caller: MakeCaller, said: str
) -> None:
    ai_server.behaviour.answer_next = [(400, _says(said), {})]
    error = _fault(make_caller(ai_server.url).post)
    assert isinstance(error, PermanentError)
    assert error.code == "HTTP_400"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_input_is_an_error_of_that_input_with_the_status_as_code(
    ai_server: AiServer, make_caller: MakeCaller, status: int
) -> None:
    ai_server.behaviour.poison = {"a text": status}
    error = _fault(make_caller(ai_server.url).post)
    assert isinstance(error, PermanentError)
    assert (error.code, "cannot take a text" in str(error)) == (f"HTTP_{status}", True)


def test_a_text_that_a_moderation_refuses_is_no_refused_key(
    ai_server: AiServer, make_caller: MakeCaller
) -> None:
    ai_server.behaviour.answer_next = [(403, _says("Input was flagged for violence"), {})]
    assert isinstance(_fault(make_caller(ai_server.url).post), RefusedAnswerError)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_transient_and_carries_its_status(
    ai_server: AiServer, make_caller: MakeCaller, status: int
) -> None:
    ai_server.behaviour.fail_next, ai_server.behaviour.fail_status = 1, status
    error = _fault(make_caller(ai_server.url).post)
    assert isinstance(error, ServerError)
    assert (error.status, error.retry_after) == (status, None)
    assert "out of order" in str(error)


def test_a_server_that_is_too_slow_is_waited_for_as_long_as_is_set(
    ai_server: AiServer, make_caller: MakeCaller, ai_settings: Callable[..., None]
) -> None:
    ai_settings(ai_call_seconds=0.05)
    ai_server.behaviour.latency = 30.0
    error = _fault(make_caller(ai_server.url).post)
    assert isinstance(error, TransientError)
    assert "did not answer" in str(error)


def test_a_body_that_trickles_in_is_not_waited_for_longer_than_a_whole_call(
    ai_server: AiServer, make_caller: MakeCaller, ai_settings: Callable[..., None]
) -> None:
    ai_settings(ai_call_seconds=0.15)
    ai_server.behaviour.drip = 0.01
    error = _fault(make_caller(ai_server.url).post)
    assert isinstance(error, TransientError)
    assert "did not answer within" in str(error)


def test_calls_that_timed_out_leave_no_connection_taken(
    ai_server: AiServer, make_caller: MakeCaller, ai_settings: Callable[..., None]
) -> None:
    ai_settings(ai_call_seconds=0.05, ai_concurrency=2)
    caller = make_caller(ai_server.url)
    ai_server.behaviour.drip = 0.01
    assert all(isinstance(found, TransientError) for found in caller.post_at_once(12))
    ai_server.behaviour.drip = 0.0
    assert len(caller.post()["data"]) == 1


@pytest.mark.parametrize("fault", ["reset_next", "truncate_next"])
def test_a_server_that_hangs_up_is_transient_and_the_next_call_connects_again(
    ai_server: AiServer, make_caller: MakeCaller, fault: str
) -> None:
    caller = make_caller(ai_server.url)
    caller.post()
    setattr(ai_server.behaviour, fault, 1)
    error = _fault(caller.post)
    assert isinstance(error, TransientError)
    assert "hung up" in str(error)
    assert len(caller.post()["data"]) == 1


def test_a_server_that_is_not_there_is_transient(make_caller: MakeCaller) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    error = _fault(make_caller(url).post)
    assert isinstance(error, TransientError)
    assert url in str(error)


@pytest.mark.parametrize("url", ["http://127.0.0.1:door/v1", "gopher://127.0.0.1/v1"])
def test_an_address_that_is_none_stops_the_job(make_caller: MakeCaller, url: str) -> None:
    error = _fault(make_caller(url).post)
    assert isinstance(error, FatalError)
    assert "Set ai_host" in str(error)


def test_the_pause_that_a_server_asks_for_is_read_in_seconds(
    ai_server: AiServer, make_caller: MakeCaller
) -> None:
    ai_server.behaviour.answer_next = [(503, b"", {"Retry-After": "7"})]
    error = _fault(make_caller(ai_server.url).post)
    assert isinstance(error, ServerError)
    assert error.retry_after == 7.0


def test_the_pause_that_a_server_asks_for_is_read_from_a_date(
    ai_server: AiServer, make_caller: MakeCaller
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    ai_server.behaviour.answer_next = [(429, b"", {"Retry-After": date})]
    error = _fault(make_caller(ai_server.url).post)
    assert isinstance(error, ServerError)
    assert error.retry_after == pytest.approx(600.0, abs=60.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("1.5", 1.5),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0.0),
        ("soon", None),
        ("", None),
        ("-3", None),
        ("nan", None),
        ("inf", None),
        ("1e400", None),
        ("Wed, 21 Oct 99999 07:28:00 GMT", None),
        ("1 Jan 99999999999 00:00:00 GMT", None),
        ("1 Jan 2020 00:00:00 +99999999", None),
        ("1 Jan 0001 00:00:00 +2359", 0.0),
    ],
)
def test_a_pause_is_a_number_or_is_not_read(value: str, seconds: float | None) -> None:
    assert _retry_after(httpx.Headers({"Retry-After": value})) == seconds


def test_a_server_to_which_nothing_leads_is_not_waited_for_as_long_as_a_call(
    make_caller: MakeCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.ai.http._CONNECT_SECONDS", 0.2)
    with socket.socket() as full, ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            # Nobody takes them, and the queue takes no more: what comes next is not answered at all.
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        started = time.monotonic()
        error = _fault(make_caller(f"http://127.0.0.1:{full.getsockname()[1]}/v1").post)
    assert isinstance(error, ServerError)
    assert "not to be reached in time" in str(error)
    assert time.monotonic() - started < 5.0


@pytest.mark.parametrize("value", ["9" * 400, "86400", "Fri, 31 Dec 2899 23:59:59 GMT"])
def test_no_pause_is_longer_than_the_patience(
    ai_server: AiServer, make_caller: MakeCaller, ai_settings: Callable[..., None], value: str
) -> None:
    ai_settings(ai_patience=60)
    ai_server.behaviour.answer_next = [(429, b"", {"Retry-After": value})]
    error = _fault(make_caller(ai_server.url).post)
    assert isinstance(error, ServerError)
    assert error.retry_after == 60.0
    with transaction() as session:
        paused = session.scalar(text("SELECT paused_until < now() + interval '61 s' FROM ai_servers"))
    assert paused is True


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ({"message": "slow down", "code": 429}, ServerError, "answered 429: slow down"),
        ({"message": "overloaded"}, ServerError, "answered 500: overloaded"),
        ({"message": "odd", "code": "server_error"}, ServerError, "answered 500: odd"),
        ({"message": "odd", "code": 7}, ServerError, "answered 500: odd"),
        (
            {"message": "Provider returned error", "code": 502, "metadata": {"raw": "out of memory"}},
            ServerError,
            "answered 502: Provider returned error: out of memory",
        ),
        ("Unexpected endpoint", ServerError, "answered 500: Unexpected endpoint"),
        ({"message": "no user", "code": 401}, FatalError, "set ai_key"),
        ({"message": "no", "code": 400}, PermanentError, "answered 400: no"),
    ],
)
def test_an_error_within_an_answer_of_200_is_that_error(
    ai_server: AiServer, make_caller: MakeCaller, fault: object, kind: type[PipelineError], said: str
) -> None:
    ai_server.behaviour.answer_next = [
        (200, orjson.dumps({"error": fault}), {}),
        (200, orjson.dumps({"choices": [{"message": {"content": "{}"}, "error": fault}]}), {}),
    ]
    caller = make_caller(ai_server.url)
    for _ in range(2):
        error = _fault(caller.post)
        assert isinstance(error, kind)
        assert said in str(error)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"<html>Welcome</html>", {}),
        (b"", {}),
        (b'{"data": [', {}),
        (b'{"data": [NaN]}', {}),
        (b"[]", {}),
        (b'"yes"', {}),
        (b"null", {}),
        (b"\xff\xfe", {}),
        (b"not packed", {"Content-Encoding": "gzip"}),
    ],
)
def test_an_answer_that_is_no_json_object_is_not_believed(
    ai_server: AiServer, make_caller: MakeCaller, body: bytes, headers: dict[str, str]
) -> None:
    ai_server.behaviour.answer_next = [(200, body, headers)]
    assert isinstance(_fault(make_caller(ai_server.url).post), InvalidAnswerError)


def test_an_answer_without_end_is_not_read_to_its_end(
    ai_server: AiServer, make_caller: MakeCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.ai.http._MOST_ANSWER_BYTES", 100_000)
    packed = gzip.compress(b" " * 5_000_000)
    ai_server.behaviour.answer_next = [(200, packed, {"Content-Encoding": "gzip"})]
    error = _fault(make_caller(ai_server.url).post)
    assert isinstance(error, InvalidAnswerError)
    assert "more than 100,000 bytes" in str(error)


def test_what_a_server_says_is_quoted_in_one_short_line(ai_server: AiServer, make_caller: MakeCaller) -> None:
    ai_server.behaviour.answer_next = [(400, b"one\r\ntwo\x00\x1b[31m " + b"and more " * 900, {})]
    said = str(_fault(make_caller(ai_server.url).post))
    assert "one two [31m and more" in said
    assert said.isprintable()
    assert len(said) < 400


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}é", f" {KEY}", "sk test"])
def test_a_key_that_cannot_be_sent_stops_the_job_and_is_not_shown(
    ai_server: AiServer, make_caller: MakeCaller, key: str
) -> None:
    error = _fault(lambda: make_caller(ai_server.url, key))
    assert isinstance(error, FatalError)
    assert "settings set ai_key" in str(error)
    assert key.strip() not in str(error)
