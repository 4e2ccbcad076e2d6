"""Before a server that is in trouble: everybody waits, nobody gives up too early, and no input is blamed."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ai import AiConfig, Limits, Provider, at_once, close_providers, embed_texts, run
from pipeline.ai.gate import ServerPausedError
from pipeline.ai.health import note_failure, read_health
from pipeline.ai.retries import _LONGEST_PAUSE_SECONDS, _pause
from pipeline.database import transaction, translate_errors
from pipeline.errors import FatalError, ServerError, TransientError
from pipeline.ingest.submit import Submission
from pipeline.jobviews import JobView, view_job
from pipeline.ledger import ChunkRef
from pipeline.probe import probe_models
from pipeline.runner import publish_next, run_chunk
from schemas.enums import JobStatus, Stage
from tests.ai_server import AiServer
from tests.pipeline.ai.test_completions import _question

MakeProvider = Callable[..., Provider]
AiSettings = Callable[..., None]

TEXTS = [f"text {number}" for number in range(40)]
CALL = """
import sys
from pipeline.ai import AiConfig, open_provider, run
from pipeline.errors import TransientError
provider = open_provider(AiConfig("lmstudio", sys.argv[1], "chatter", "embedder"))
try:
    run(provider.embed(["a text"]))
except TransientError as error:
    print(round(error.retry_after / 10))
"""


def _state() -> Any:  # noqa: ANN401 - a row
    with transaction() as session:
        return session.execute(
            text("SELECT *, paused_until > now() AS is_paused FROM ai_servers WHERE url NOT LIKE '% %'")
        ).one_or_none()


def _change(values: str) -> None:
    with transaction() as session:
        session.execute(text(f"UPDATE ai_servers SET {values}"))  # noqa: S608 - ours


def _one_by_one(make_provider: MakeProvider) -> Provider:
    """A provider that is given one text a call."""
    return make_provider(limits=Limits(batch_texts=1))


def test_a_pause_that_a_server_asks_for_holds_for_everybody_of_this_process(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    first, second = make_provider(), make_provider(llm_model="other")
    run(second.embed(["a text"]))
    ai_server.behaviour.fail_next, ai_server.behaviour.fail_status = 1, 429
    ai_server.behaviour.retry_after = "30"
    with pytest.raises(ServerError):
        run(first.embed(["a text"]))
    calls = ai_server.seen.calls
    close_providers()  # what is known of a server's health is a quarter of a second old at most
    with pytest.raises(TransientError, match=r"paused: .*out of order") as caught:
        run(make_provider(llm_model="other").embed(["a text"]))
    assert caught.value.retry_after == pytest.approx(30.0, abs=10.0)
    assert ai_server.seen.calls == calls


def test_a_pause_that_a_server_asks_for_holds_for_other_processes(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.fail_next, ai_server.behaviour.fail_status = 1, 429
    ai_server.behaviour.retry_after = "30"
    with pytest.raises(ServerError):
        run(make_provider().embed(["a text"]))
    command = [sys.executable, "-c", CALL, ai_server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, ai_server.seen.calls) == ("3\n", 1)


def test_a_call_that_succeeds_meanwhile_does_not_end_the_pause(
    ai_server: AiServer, make_provider: MakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is learned from the database here: what this process knows has to do.
    monkeypatch.setattr("pipeline.ai.gate._REFRESH_SECONDS", 60.0)
    provider = make_provider()
    ai_server.behaviour.latency = 0.3
    ai_server.behaviour.most_at_once, ai_server.behaviour.retry_after = 1, "30"

    async def call_twice() -> list[Any]:
        calls = [provider.embed(["a text"]), provider.embed(["another text"])]
        return await asyncio.gather(*calls, return_exceptions=True)

    kinds = {type(found).__name__ for found in run(call_twice())}
    assert kinds == {"Embedded", "ServerError"}
    with pytest.raises(TransientError, match=r"paused: .*too many requests"):
        run(provider.embed(["a third text"]))
    assert ai_server.seen.calls == 2
    state = _state()
    assert (state.is_paused, state.failures) == (True, 0)


@pytest.mark.usefixtures("no_pauses")
def test_refusals_lower_the_calls_at_a_time_and_time_raises_them(
    ai_server: AiServer, make_provider: MakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.ai.health._LOWER_EVERY", timedelta(0))
    monkeypatch.setattr("pipeline.ai.gate._REFRESH_SECONDS", 0.0)
    provider = _one_by_one(make_provider)
    ai_server.behaviour.fail_next, ai_server.behaviour.fail_status = 1, 429
    with pytest.raises(ServerError):
        run(provider.embed(["a text"]))
    assert _state().slots == 5
    for slots in (3, 2, 1, 1):
        ai_server.behaviour.fail_next = 1
        with pytest.raises(ServerError):
            run(provider.embed(["a text"]))
        assert _state().slots == slots
    ai_server.behaviour.latency = 0.002
    assert len(embed_texts(provider, TEXTS).results) == 40
    assert ai_server.seen.most_at_once == 1
    monkeypatch.setattr("pipeline.ai.health._RAISE_EVERY", timedelta(0))
    for slots in (2, 3, 4, 5, 6, 7, None):
        run(provider.embed(["a text"]))
        assert _state().slots == slots
    monkeypatch.undo()
    ai_server.behaviour.latency = 0.02
    embed_texts(provider, [f"more {number}" for number in range(240)])
    assert ai_server.seen.most_at_once == 8


@pytest.mark.usefixtures("no_pauses")
def test_all_texts_come_through_a_server_that_takes_fewer_calls_than_are_allowed(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.latency, ai_server.behaviour.most_at_once = 0.005, 2
    settled = embed_texts(_one_by_one(make_provider), TEXTS)
    assert settled.stopped_by is None
    assert len(settled.results) == 40
    assert ai_server.seen.refused > 0
    assert _state().slots < 8


def test_pauses_between_tries_grow_and_none_is_long_and_no_two_are_equal() -> None:
    assert all(0 < _pause(tries) <= _LONGEST_PAUSE_SECONDS for tries in range(1, 13))
    assert max(_pause(1) for _ in range(20)) <= min(_pause(2) for _ in range(20))
    assert min(_pause(12) for _ in range(20)) >= _LONGEST_PAUSE_SECONDS / 2
    assert len({_pause(3) for _ in range(20)}) == 20


def test_the_pauses_of_a_server_grow_with_its_failures_and_no_two_are_equal(
    no_known_servers: None,  # noqa: ARG001 - it must run
) -> None:
    pauses = []
    for failures in range(9):
        url = f"http://{failures}"
        note_failure(url, "embedder", "away", failures=failures, retry_after=None)
        pauses.append(read_health(url).pause_seconds)
    for failures, pause in enumerate(pauses):
        longest = min(0.25 * 2**failures, 30.0)
        # Reading it takes some of it.
        assert longest / 2 - 0.1 < pause <= longest
    for number in range(6):
        url = f"http://other-{number}"
        note_failure(url, "embedder", "away", failures=7, retry_after=None)
        pauses.append(read_health(url).pause_seconds)
    # Of 15 to 30 seconds.
    assert max(pauses[9:]) - min(pauses[9:]) > 0.5


@pytest.mark.usefixtures("no_pauses")
def test_a_server_that_failed_for_longer_than_the_patience_fails_the_work(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    provider = make_provider()
    ai_server.behaviour.fail_next = 1_000
    with pytest.raises(ServerError):
        run(provider.embed(["a text"]))
    _change("failing_since = now() - interval '29 min'")
    with pytest.raises(ServerError):
        run(provider.embed(["a text"]))
    _change("failing_since = now() - interval '31 min'")
    with pytest.raises(FatalError, match=r"for 31 min, the last time: .*out of order.*settings test"):
        run(provider.embed(["a text"]))


@pytest.mark.usefixtures("no_pauses")
def test_one_success_begins_the_patience_anew(
    ai_server: AiServer, make_provider: MakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.ai.gate._REFRESH_SECONDS", 0.0)
    provider = make_provider()
    ai_server.behaviour.fail_next = 1
    with pytest.raises(ServerError):
        run(provider.embed(["a text"]))
    _change("failing_since = now() - interval '31 min'")
    run(provider.embed(["a text"]))
    assert (_state().failing_since, _state().failures) == (None, 0)
    ai_server.behaviour.fail_next = 1
    with pytest.raises(ServerError):
        run(provider.embed(["a text"]))


@pytest.mark.usefixtures("no_pauses")
def test_a_model_that_is_down_is_not_well_because_another_one_answers(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    provider = make_provider()
    ai_server.behaviour.poison = {"chatter": 503}
    with pytest.raises(ServerError):
        run(provider.complete(_question(1).prompt))
    run(provider.embed(["a text"]))
    _change("failing_since = failing_since - interval '31 min'")
    close_providers()
    provider = make_provider()
    run(provider.embed(["another text"]))
    with pytest.raises(FatalError, match="single call of chatter for 31 min"):
        run(provider.complete(_question(1).prompt))


@pytest.mark.usefixtures("no_pauses")
def test_a_list_that_is_told_again_begins_its_patience_anew(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.stop()
    with pytest.raises(TransientError):
        run(make_provider().models())
    _change("failing_since = now() - interval '31 min'")
    ai_server.restart()
    run(make_provider().models())
    close_providers()
    ai_server.stop()
    with pytest.raises(TransientError):
        run(make_provider().models())


@pytest.mark.usefixtures("no_pauses")
def test_an_outage_long_ago_is_not_the_beginning_of_this_one(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    provider = make_provider()
    ai_server.behaviour.fail_next = 2
    with pytest.raises(ServerError):
        run(provider.embed(["a text"]))
    _change("failing_since = now() - interval '3 h', paused_until = now() - interval '2 h'")
    with pytest.raises(ServerError):
        run(provider.embed(["a text"]))


@pytest.mark.usefixtures("no_pauses")
def test_who_only_asks_for_the_list_of_models_waits_no_longer_than_the_patience(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    provider = make_provider()
    ai_server.stop()
    with pytest.raises(TransientError):
        run(provider.models())
    _change("failing_since = now() - interval '31 min'")
    with pytest.raises(FatalError, match="31 min"):
        run(provider.models())


def test_a_fault_of_one_input_does_not_pause_the_others(
    ai_server: AiServer, make_provider: MakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.ai.retries._PAUSE_SECONDS", 0.0)
    ai_server.behaviour.poison = {"text 7": 500}
    provider = _one_by_one(make_provider)
    run(provider.embed(["a text"]))
    settled = embed_texts(provider, TEXTS[:20])
    assert settled.stopped_by is None
    assert settled.failures.keys() == {7}
    assert settled.failures[7].code == "SERVER_ERROR"
    assert settled.results.keys() == set(range(20)) - {7}
    assert _state() is None


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("status", [0, 502])
def test_an_input_at_which_the_server_dies_each_time_holds_nothing_up_for_ever(
    ai_server: AiServer, make_provider: MakeProvider, status: int
) -> None:
    ai_server.behaviour.poison = {"text 7": status}
    settled = embed_texts(_one_by_one(make_provider), TEXTS[:20])
    assert settled.stopped_by is None
    assert {place: error.code for place, error in settled.failures.items()} == {7: "SERVER_ERROR"}
    assert settled.results.keys() == set(range(20)) - {7}


@pytest.mark.usefixtures("no_pauses")
def test_no_input_is_blamed_for_a_server_that_is_busy(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.fail_next, ai_server.behaviour.fail_status = 1_000, 429
    settled = embed_texts(_one_by_one(make_provider), ["text 1"])
    assert isinstance(settled.stopped_by, ServerError)
    assert settled.stopped_by.status == 429
    # Twelve tries, and how the server is.
    assert (settled.failures, ai_server.seen.calls) == ({}, 13)


@pytest.mark.usefixtures("no_pauses")
def test_a_server_that_comes_back_before_it_is_asked_how_it_is_has_no_input_blamed(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    provider = _one_by_one(make_provider)
    run(provider.embed(["a text"]))
    ai_server.behaviour.reset_next = 3
    settled = embed_texts(provider, ["text 1"])
    assert (settled.results.keys(), settled.failures) == ({0}, {})


def test_a_database_that_stumbles_is_no_fault_of_the_server(
    ai_server: AiServer, make_provider: MakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stumble(*_arguments: object) -> None:
        with translate_errors():
            raise psycopg.OperationalError("gone")

    monkeypatch.setattr("pipeline.ai.openai.record_call", stumble)
    with pytest.raises(TransientError, match="the database did not finish"):
        run(make_provider().embed(["a text"]))
    assert ai_server.seen.calls == 1
    assert _state() is None


def test_who_asks_how_a_server_does_is_told_in_a_pause_too_and_ends_it(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.fail_next, ai_server.behaviour.retry_after = 1, "1800"
    with pytest.raises(ServerError):
        run(make_provider().embed(["a text"]))
    assert _state().is_paused
    config = AiConfig("lmstudio", ai_server.url, "chatter", "embedder")
    ai_server.behaviour.poison = {"Does the model answer?": 503, "two and three": 503}
    assert ["503" in str(answer.error) for answer in probe_models(config)] == [True, True]
    assert _state().is_paused
    ai_server.behaviour.poison = {}
    calls = ai_server.seen.calls
    assert [answer.error for answer in probe_models(config)] == [None, None]
    assert ai_server.seen.calls == calls + 2
    assert _state().is_paused is None
    run(make_provider().embed(["a text"]))


def test_who_sits_before_a_screen_is_answered_in_a_pause_which_stays(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.fail_next, ai_server.behaviour.retry_after = 1, "1800"
    provider = make_provider()
    with pytest.raises(ServerError):
        run(provider.embed(["a text"]))
    with at_once():
        assert run(provider.embed(["a text"])).vectors.shape == (1, 16)
    assert _state().is_paused
    with pytest.raises(ServerPausedError):
        run(provider.embed(["a text"]))


def test_who_asks_how_a_server_does_waits_for_no_slot_and_not_for_long(
    ai_server: AiServer, make_provider: MakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.probe._LONGEST_SECONDS", 0.2)
    provider = make_provider()
    ai_server.behaviour.slow = {"text": 1.0}

    async def begin() -> list[asyncio.Task[Any]]:
        calls = [asyncio.create_task(provider.embed([entry])) for entry in TEXTS[:8]]
        await asyncio.sleep(0.1)
        return calls

    calls = run(begin())
    config = AiConfig("lmstudio", ai_server.url, "chatter", "embedder")
    assert [answer.error for answer in probe_models(config)] == [None, None]
    ai_server.behaviour.latency = 30.0
    started = time.monotonic()
    assert ["no answer within" in str(answer.error) for answer in probe_models(config)] == [True, True]
    assert time.monotonic() - started < 0.9

    async def end() -> None:
        await asyncio.gather(*calls)

    run(end())
    assert _state() is None


CSV = "prompt\n" + "".join(f"write the story number {number}\n" for number in range(50))


def _view(job_id: str) -> JobView:
    with transaction() as session:
        return view_job(session, job_id)


def _make_due(session: Session) -> None:
    session.rollback()
    session.execute(text("UPDATE work_chunks SET not_before = NULL, published_at = NULL"))
    session.execute(text("UPDATE ai_servers SET paused_until = NULL"))
    session.commit()
    close_providers()


def _run(refs: list[ChunkRef]) -> None:
    while refs:
        refs.extend(run_chunk(refs.pop(0)))


@pytest.mark.usefixtures("small_chunks", "no_pauses")
def test_a_server_that_was_away_uses_up_no_attempts_and_the_job_is_completed(
    session: Session, submit: Callable[..., Submission], use_ai_server: AiServer
) -> None:
    server = use_ai_server
    submission = submit(CSV, embed=True)
    server.stop()
    _run([submission.plan])
    for _ in range(7):
        _make_due(session)
        _run(publish_next(submission.job_id, 10))
    assert _view(submission.job_id).status == JobStatus.QUEUED_FOR_VEC
    server.restart()
    server.behaviour.meanwhile = lambda: setattr(server.behaviour, "reset_next", 10_000)
    _make_due(session)
    _run(publish_next(submission.job_id, 10))
    for _ in range(7):
        _make_due(session)
        run_chunk(ChunkRef(submission.job_id, Stage.VECTORIZE, 1))
    session.rollback()
    assert _view(submission.job_id).status == JobStatus.VECTORIZING
    assert session.scalar(text("SELECT max(attempts) FROM work_chunks WHERE stage = 'vectorize'")) <= 1
    server.behaviour.reset_next = 0
    _make_due(session)
    _run(publish_next(submission.job_id, 10))
    job = _view(submission.job_id)
    assert (job.status, job.stages[1].done, job.stages[1].failed) == (JobStatus.COMPLETED, 50, 0)


@pytest.mark.usefixtures("small_chunks", "no_pauses")
def test_a_job_whose_server_stays_away_fails_when_the_patience_is_used_up(
    session: Session, submit: Callable[..., Submission], use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.fail_next = 10_000
    submission = submit(CSV, embed=True)
    _run([submission.plan])
    assert _view(submission.job_id).status == JobStatus.VECTORIZING
    _make_due(session)
    _change("failing_since = now() - interval '31 min', paused_until = now()")
    _run(publish_next(submission.job_id, 10))
    job = _view(submission.job_id)
    assert job.status == JobStatus.FAILED
    assert "for 31 min" in str(job.error)
    assert (job.saved_count, job.stages[1].failed) == (50, 0)
