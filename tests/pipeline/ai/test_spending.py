"""What a job's calls cost: counted to the call, kept whatever becomes of the answers, and limited."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ai import (
    BudgetSpentError,
    Limits,
    Prompt,
    Provider,
    Question,
    Settled,
    Usage,
    complete_all,
    embed_texts,
    metered,
    read_spent,
)
from pipeline.ai.spending import Meter, _add
from pipeline.database import transaction
from pipeline.errors import FatalError, TransientError
from pipeline.ingest.submit import Submission
from tests.ai_server import AiServer

MakeProvider = Callable[..., Provider]

PROMPT = Prompt("Judge.", "How good is it?", "verdict", {"type": "object", "properties": {}})

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
def job_id(submit: Callable[..., Submission]) -> str:
    return submit("prompt\nwrite a story\n").job_id


def _ask(provider: Provider, count: int) -> Settled[Any]:
    return complete_all(provider, [Question(PROMPT, lambda found: found.answer)] * count)


def _rows(session: Session) -> list[tuple[Any, ...]]:
    session.rollback()
    columns = "stage, model, call_count, input_tokens, output_tokens, cost_usd"
    found = session.execute(text(f"SELECT {columns} FROM ai_usage ORDER BY stage, model"))  # noqa: S608 - ours
    return [tuple(row) for row in found]


def test_every_call_is_counted_once_by_stage_and_model(
    session: Session, job_id: str, ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.cost = 0.5
    provider = make_provider(limits=Limits(batch_texts=2))
    for _ in range(2):
        with metered(job_id, "analyze"):
            _ask(provider, 30)
            embed_texts(provider, ["one", "two", "three"])
        with metered(job_id, "vectorize"):
            embed_texts(provider, ["one", "two", "three", "four"])
    assert [row[:3] for row in _rows(session)] == [
        ("analyze", "chatter", 60),
        ("analyze", "embedder", 4),
        ("vectorize", "embedder", 4),
    ]
    chats = _rows(session)[0]
    assert (chats[4], chats[5]) == (60 * 20, 30.0)
    assert chats[3] == 60 * (len(ai_server.seen.prompts[0]) // 4)
    assert sum(row[2] for row in _rows(session)) == ai_server.seen.calls
    spent = read_spent(session, job_id)
    assert (spent.calls, spent.cost_usd) == (68, 30.0)


def test_an_answer_of_no_use_is_counted_like_any_other(
    session: Session, job_id: str, ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.finish_reason, ai_server.behaviour.cost = "length", 0.25
    with metered(job_id, "analyze"):
        assert _ask(make_provider(), 1).failures.keys() == {0}
    assert [(row[2], row[5]) for row in _rows(session)] == [(3, 0.75)]


def test_a_call_that_was_not_answered_costs_nothing(
    session: Session, job_id: str, ai_server: AiServer, make_provider: MakeProvider
) -> None:
    provider = make_provider()
    _ask(provider, 1)
    ai_server.behaviour.fail_next = 2
    with metered(job_id, "analyze"):
        assert _ask(provider, 1).results.keys() == {0}
    assert [row[2] for row in _rows(session)] == [1]


def test_what_has_no_price_is_counted_and_costs_nothing(
    session: Session, job_id: str, make_provider: MakeProvider
) -> None:
    with metered(job_id, "analyze", budget_usd=0.01):
        assert _ask(make_provider(), 20).stopped_by is None
    assert [(row[2], row[5]) for row in _rows(session)] == [(20, 0.0)]
    assert read_spent(session, job_id).cost_usd == 0.0


def test_calls_of_no_job_are_counted_nowhere(session: Session, make_provider: MakeProvider) -> None:
    provider = make_provider()
    _ask(provider, 3)
    embed_texts(provider, ["a text"])
    assert _rows(session) == []


def test_calls_after_the_job_are_not_its_own(
    session: Session, job_id: str, make_provider: MakeProvider
) -> None:
    provider = make_provider()
    with metered(job_id, "analyze"):
        _ask(provider, 2)
    _ask(provider, 3)
    assert [row[2] for row in _rows(session)] == [2]


def test_a_spent_budget_stops_the_work_with_no_more_than_a_round_of_calls_beyond_it(
    session: Session,
    job_id: str,
    ai_server: AiServer,
    make_provider: MakeProvider,
    ai_settings: Callable[..., None],
) -> None:
    ai_settings(ai_concurrency=4)
    ai_server.behaviour.cost, ai_server.behaviour.latency = 0.25, 0.005
    provider = make_provider()
    with metered(job_id, "analyze", budget_usd=5.0):
        settled = _ask(provider, 100)
    assert isinstance(settled.stopped_by, BudgetSpentError)
    assert f"opspipe retry {job_id} --budget" in str(settled.stopped_by)
    assert 20 <= ai_server.seen.chats < 20 + 4
    assert len(settled.results) == ai_server.seen.chats
    assert _rows(session)[0][5] == ai_server.seen.chats * 0.25
    with metered(job_id, "analyze", budget_usd=5.0):
        again = _ask(provider, 100)
    assert isinstance(again.stopped_by, BudgetSpentError)
    assert not again.results
    with metered(job_id, "analyze", budget_usd=100.0):
        assert len(_ask(provider, 10).results) == 10


def test_a_budget_ends_at_a_server_that_counts_no_tokens_too(
    session: Session,
    job_id: str,
    ai_server: AiServer,
    make_provider: MakeProvider,
    ai_settings: Callable[..., None],
) -> None:
    ai_settings(ai_concurrency=1)
    ai_server.behaviour.gives_usage = False
    provider = make_provider(llm_input_price=0.1, llm_output_price=0.1)
    with metered(job_id, "analyze", budget_usd=5.0):
        settled = _ask(provider, 40)
    assert isinstance(settled.stopped_by, BudgetSpentError)
    assert 1 < ai_server.seen.chats < 10
    assert 5.0 <= _rows(session)[0][5] < 7.0


def test_a_budget_counts_what_the_jobs_other_stages_and_models_have_spent(
    job_id: str, ai_server: AiServer, make_provider: MakeProvider
) -> None:
    with transaction() as session:
        _add(session, job_id, "vectorize", "embedder", Usage(1, 1, 0, 3.0))
    with metered(job_id, "analyze", budget_usd=3.0):
        settled = _ask(make_provider(), 5)
    assert isinstance(settled.stopped_by, BudgetSpentError)
    assert ai_server.seen.calls == 0


def test_what_could_not_be_written_is_written_the_next_time(
    session: Session, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_arguments: object) -> None:
        raise psycopg.OperationalError("gone")

    meter = Meter(job_id, "analyze", None)
    meter._unwritten["chatter"] = Usage(2, 10, 5, 0.5)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.ai.spending._add", stumble)
        with pytest.raises(TransientError):
            meter.write()
    meter.write()
    meter.write()
    assert _rows(session) == [("analyze", "chatter", 2, 10, 5, 0.5)]


@pytest.mark.parametrize("budget", [None, 100.0])
def test_an_answer_is_kept_whose_cost_cannot_be_written_down_at_the_moment(
    job_id: str,
    ai_server: AiServer,
    make_provider: MakeProvider,
    monkeypatch: pytest.MonkeyPatch,
    budget: float | None,
) -> None:
    def stumble(*_arguments: object) -> None:
        raise psycopg.OperationalError("gone")

    monkeypatch.setattr("pipeline.ai.spending._WRITE_SECONDS", 0.0)
    with metered(job_id, "analyze", budget_usd=budget):
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.ai.spending._add", stumble)
            settled = _ask(make_provider(), 5)
        assert len(settled.results) == ai_server.seen.chats > 0
        # Whether a budget lasts is not known, then.
        assert (settled.stopped_by is None) == (budget is None)
    with transaction() as session:
        assert read_spent(session, job_id).calls == ai_server.seen.chats


def test_the_calls_of_a_deleted_job_are_nobodys(
    session: Session, job_id: str, make_provider: MakeProvider
) -> None:
    session.execute(text("DELETE FROM work_jobs"))
    session.commit()
    with metered(job_id, "analyze"):
        assert len(_ask(make_provider(), 2).results) == 2
    assert _rows(session) == []


def test_a_call_is_accounted_for_only_when_its_cost_is_committed(session: Session, job_id: str) -> None:
    """Who finds its cost taken along by another call's writing waits for that: its slot is free after it."""
    meter = Meter(job_id, "analyze", budget_usd=5.0)
    asyncio.run(meter.record("chatter", Usage(1, 1, 1, 0.5)))
    session.rollback()
    session.execute(text("SELECT * FROM ai_usage FOR UPDATE"))
    # Of two calls that were answered together: the first to write takes both along, and waits for the row.
    meter._unwritten["chatter"] = Usage(2, 2, 2, 1.0)
    with ThreadPoolExecutor() as threads:
        writes = [threads.submit(meter.write) for _ in range(2)]
        too_early = wait(writes, timeout=0.5).done
        session.rollback()
        for write in writes:
            write.result(timeout=10)
    assert not too_early
    assert read_spent(session, job_id).cost_usd == 1.5


def test_the_works_own_error_is_told_where_its_cost_cannot_be_written(
    session: Session, job_id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stumble(*_arguments: object) -> None:
        raise psycopg.OperationalError("gone")

    def work() -> None:
        with metered(job_id, "analyze") as meter:
            meter._unwritten["chatter"] = Usage(2, 10, 5, 0.5)
            raise FatalError("the key is refused")

    monkeypatch.setattr("pipeline.ai.spending._add", stumble)
    with pytest.raises(FatalError, match="the key is refused"):
        work()
    assert f"what job {job_id} has spent could not be written down" in caplog.text
    assert _rows(session) == []
