"""Whose fault it is: an input that a server cannot take is found and blamed, and no other is."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ai import Limits, Provider, Question, Settled, complete_all, embed_texts, run
from pipeline.ai.settled import TimeUpError, UnforeseenError, limited_work, work_on_all
from pipeline.database import transaction
from pipeline.errors import ServerError, TransientError
from pipeline.ingest.submit import Submission
from pipeline.jobviews import JobView, view_job
from pipeline.ledger import ChunkRef
from pipeline.runner import publish_next, run_chunk
from schemas.enums import JobStatus
from tests.ai_server import AiServer
from tests.pipeline.ai.test_completions import _question, _repeat

MakeProvider = Callable[..., Provider]
AiSettings = Callable[..., None]
CALL_SECONDS = 0.4


def _texts(count: int) -> list[str]:
    return [f"text <{number}>" for number in range(count)]


def _ask(provider: Provider, numbers: Sequence[int]) -> Settled[int]:
    questions: list[Question[int]] = [_question(number) for number in numbers]
    return complete_all(provider, questions)


def test_a_text_that_is_never_answered_costs_its_batch_two_calls_of_waiting(
    ai_server: AiServer, make_provider: MakeProvider, ai_settings: AiSettings
) -> None:
    ai_settings(ai_call_seconds=CALL_SECONDS)
    ai_server.behaviour.slow = {"<7>": 30.0}
    provider = make_provider()
    started = time.monotonic()
    settled = embed_texts(provider, _texts(64))
    assert time.monotonic() - started < 4 * CALL_SECONDS
    assert settled.stopped_by is None
    assert {place: error.code for place, error in settled.failures.items()} == {7: "TIMED_OUT"}
    assert settled.results.keys() == set(range(64)) - {7}
    assert sum("<7>" in entry for entry in ai_server.seen.texts.elements()) == 2


def test_a_long_text_that_is_never_answered_is_not_tried_in_halves(
    ai_server: AiServer, make_provider: MakeProvider, ai_settings: AiSettings
) -> None:
    ai_settings(ai_call_seconds=CALL_SECONDS)
    ai_server.behaviour.slow = {"<7>": 30.0}
    settled = embed_texts(make_provider(), ["<7> " + "a word " * 150])
    assert settled.failures[0].code == "TIMED_OUT"
    assert ai_server.seen.calls == 4


def test_a_text_that_was_answered_too_late_once_is_not_blamed(
    ai_server: AiServer, make_provider: MakeProvider, ai_settings: AiSettings
) -> None:
    ai_settings(ai_call_seconds=CALL_SECONDS)
    ai_server.behaviour.slow = {"<7>": 30.0}
    ai_server.behaviour.meanwhile = lambda: threading.Timer(0.2, ai_server.behaviour.slow.clear).start()
    settled = embed_texts(make_provider(), _texts(8)[7:])
    assert (settled.results.keys(), settled.failures) == ({0}, {})


def test_a_server_that_answers_nobody_has_no_text_blamed(
    ai_server: AiServer, make_provider: MakeProvider, ai_settings: AiSettings
) -> None:
    ai_settings(ai_call_seconds=CALL_SECONDS)
    ai_server.behaviour.latency = 30.0
    settled = embed_texts(make_provider(), _texts(64))
    assert isinstance(settled.stopped_by, TransientError)
    assert (settled.results, settled.failures) == ({}, {})


@pytest.mark.usefixtures("no_pauses")
def test_questions_that_are_never_answered_are_settled_one_after_another(
    ai_server: AiServer, make_provider: MakeProvider, ai_settings: AiSettings
) -> None:
    ai_settings(ai_call_seconds=CALL_SECONDS, ai_concurrency=2)
    ai_server.behaviour.chat = _repeat
    ai_server.behaviour.slow = {"<": 30.0}
    with limited_work(12 * CALL_SECONDS):
        settled = _ask(make_provider(), range(20))
    assert isinstance(settled.stopped_by, TimeUpError)
    # What has begun is settled before more begins: each time some are blamed, and the end comes.
    assert len(settled.failures) >= 4


@pytest.mark.parametrize("seconds", [1.5, 4.0])
def test_a_burst_of_faults_has_no_question_blamed(
    ai_server: AiServer, make_provider: MakeProvider, seconds: float
) -> None:
    behaviour = ai_server.behaviour

    def chat(said: str) -> str:
        if ai_server.seen.chats == 20:
            behaviour.fail_next, behaviour.fail_status = 1_000_000, 500
            threading.Timer(seconds, setattr, (behaviour, "fail_next", 0)).start()
        return _repeat(said)

    behaviour.chat, behaviour.latency = chat, 0.005
    provider, left = make_provider(), list(range(64))
    for _ in range(10):
        settled = _ask(provider, left)
        assert settled.failures == {}
        left = [number for place, number in enumerate(left) if place not in settled.results]
        if not left:
            break
        assert isinstance(settled.stopped_by, TransientError)
        time.sleep(1.0)
    assert left == []


def test_calls_that_succeeded_before_a_fault_are_no_witnesses_of_it(
    ai_server: AiServer, make_provider: MakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is paused here, so that all tries fall into the burst.
    monkeypatch.setattr("pipeline.ai.health._SHORTEST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("pipeline.ai.retries._PAUSE_SECONDS", 0.01)
    ai_server.behaviour.chat = _repeat
    provider = make_provider()
    _ask(provider, range(8))
    ai_server.behaviour.fail_next, ai_server.behaviour.fail_status = 1_000_000, 500
    settled = _ask(provider, range(8))
    assert isinstance(settled.stopped_by, ServerError)
    assert (settled.results, settled.failures) == ({}, {})


def test_a_server_that_fails_one_call_after_another_is_paused_though_it_has_just_answered(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    provider = make_provider()
    run(provider.embed(["a text"]))
    ai_server.behaviour.fail_next, ai_server.behaviour.fail_status = 4, 500
    for failures in (0, 0, 0, 1):
        with pytest.raises(ServerError):
            run(provider.embed(["a text"]))
        with transaction() as session:
            found = session.scalar(text("SELECT max(failures) FROM ai_servers"))
        assert (found or 0) == failures


def test_an_input_with_a_fault_of_its_own_is_blamed_after_few_calls_and_holds_nobody_up(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.chat, ai_server.behaviour.latency = _repeat, 0.01
    provider = make_provider()
    _ask(provider, [0])
    ai_server.behaviour.poison = {"<7>": 500}
    settled = _ask(provider, range(60))
    assert {place: error.code for place, error in settled.failures.items()} == {7: "SERVER_ERROR"}
    assert len(settled.results) == 59
    assert ai_server.seen.calls <= 60 + 4 + 2
    with transaction() as session:
        assert session.execute(text("SELECT FROM ai_servers")).first() is None


@pytest.mark.usefixtures("no_pauses")
def test_an_input_is_blamed_also_where_the_answer_to_the_probe_is_of_no_use(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    """A model that thinks has no room for more than its thoughts in an answer as short as the probe's."""
    ai_server.behaviour.chat = lambda said: _repeat(said) if "<" in said else "Let me think: they ask me"
    ai_server.behaviour.poison = {"<7>": 502}
    settled = _ask(make_provider(), range(20))
    assert {place: error.code for place, error in settled.failures.items()} == {7: "SERVER_ERROR"}
    assert len(settled.results) == 19


@pytest.mark.usefixtures("no_pauses")
def test_an_input_for_which_a_server_is_always_busy_is_blamed_after_many_tries(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.poison = {"<7>": 429}
    settled = embed_texts(make_provider(limits=Limits(batch_texts=1)), _texts(20))
    assert settled.stopped_by is None
    assert settled.failures.keys() == {7}
    assert "429" in str(settled.failures[7])
    assert settled.results.keys() == set(range(20)) - {7}


def test_an_error_that_nobody_foresaw_stops_the_others_and_loses_nothing() -> None:
    settled: Settled[int] = Settled()
    begun = []

    async def work(place: int) -> None:
        begun.append(place)
        await asyncio.sleep(0.05)
        if place == 1:
            raise KeyError("nobody foresaw this")
        await asyncio.sleep(0.05)
        settled.results[place] = place

    run(work_on_all(range(100), work, settled))
    assert isinstance(settled.stopped_by, UnforeseenError)
    assert isinstance(settled.stopped_by.__cause__, KeyError)
    assert settled.results.keys() == set(begun) - {1}
    assert len(begun) < 20


CSV = "prompt\n" + "".join(f"write the story <{number}>\n" for number in range(50))


def _view(job_id: str) -> JobView:
    with transaction() as session:
        return view_job(session, job_id)


def _work(refs: list[ChunkRef]) -> None:
    while refs:
        refs.extend(run_chunk(refs.pop(0)))


@pytest.mark.usefixtures("small_chunks", "no_pauses")
def test_records_that_are_never_answered_cost_no_other_its_embedding_however_long_they_take(
    session: Session,
    submit: Callable[..., Submission],
    use_ai_server: AiServer,
    ai_settings: AiSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ai_settings(ai_call_seconds=CALL_SECONDS, ai_concurrency=1)
    # Not enough for all three, so that the work is stopped and goes on.
    monkeypatch.setattr("pipeline.runner.longest_work_seconds", lambda: 2.5 * CALL_SECONDS)
    use_ai_server.behaviour.slow = {"<7>": 30.0, "<17>": 30.0, "<27>": 30.0}
    submission = submit(CSV, embed=True)
    _work([submission.plan])
    first = _view(submission.job_id)
    assert first.status == JobStatus.VECTORIZING
    assert first.stages[1].done > 0
    for _ in range(6):
        session.execute(text("UPDATE work_chunks SET not_before = NULL, published_at = NULL"))
        session.commit()
        _work(publish_next(submission.job_id, 10))
    job = _view(submission.job_id)
    assert (job.status, job.stages[1].done, job.stages[1].failed) == (JobStatus.COMPLETED, 47, 3)
    assert session.execute(text("SELECT code FROM record_failures")).scalars().all() == ["TIMED_OUT"] * 3
    assert session.scalar(text("SELECT max(attempts) FROM work_chunks WHERE stage = 'vectorize'")) == 1


@pytest.mark.usefixtures("no_pauses")
def test_calls_that_fail_side_by_side_ask_together_whether_the_server_is_well(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.poison, ai_server.behaviour.latency = {"<": 502}, 0.02
    settled = _ask(make_provider(), range(8))
    assert {error.code for error in settled.failures.values()} == {"SERVER_ERROR"}
    assert len(settled.failures) == 8
    # Each is blamed after four probes, which are all that is answered; by itself each would make its own.
    assert 4 <= ai_server.seen.chats <= 12
