"""What an analysis may cost: estimated before, counted as it is spent, and never beyond the budget."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.orm import Session

from pipeline.ai import guess_tokens
from pipeline.analyze.estimate import Estimate, measure_analysis, price_analysis
from pipeline.errors import ConflictError
from pipeline.jobviews import JobView
from pipeline.projects import ProjectRef
from pipeline.runner import run_chunk
from pipeline.settings import get_settings
from pipeline.sweeper import sweep
from pipeline.system_settings import write_setting
from schemas.enums import AnalysisScope, JobStatus
from schemas.options import AnalysisOptions
from tasks import publish
from tests.ai_server import AiServer
from tests.pipeline.analyses import Load, analyze, number_of, retry, rows, start, stories, view, work
from tests.workers import Workers

SLOTS = 4
# In USD, a sum of which is exact.
A_CALL = 1 / 64


@pytest.fixture
def few_slots(monkeypatch: pytest.MonkeyPatch, small_chunks: None) -> Iterator[None]:  # noqa: ARG001 - it must run
    monkeypatch.setenv("OPSPIPE_AI_CONCURRENCY", str(SLOTS))
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


pytestmark = pytest.mark.usefixtures("few_slots")


@pytest.fixture
def priced(session: Session, use_ai_server: AiServer) -> AiServer:
    """The server, whose calls cost the same each."""
    use_ai_server.behaviour.cost = A_CALL
    use_ai_server.behaviour.latency = 0.01
    _set_prices(session, "25", "75")
    return use_ai_server


def _set_prices(session: Session, read: str, written: str) -> None:
    write_setting(session, "llm_input_price", read)
    write_setting(session, "llm_output_price", written)
    session.commit()


def _estimate(session: Session, project: ProjectRef, options: AnalysisOptions) -> Estimate:
    measured = measure_analysis(session, project.id, options)
    session.commit()
    return price_analysis(measured)


def _see_that_the_budget_was_kept(
    session: Session, server: AiServer, job: JobView, *, budget_calls: int, slots: int = SLOTS
) -> None:
    assert job.status == JobStatus.FAILED
    assert str(job.error).startswith("BUDGET_SPENT: the budget of ")
    assert f"opspipe retry {job.id} --budget USD" in str(job.error)
    calls = server.seen.chats
    assert budget_calls <= calls < budget_calls + slots
    assert rows(session, "SELECT call_count, cost_usd FROM ai_usage") == [
        {"call_count": calls, "cost_usd": calls * A_CALL}
    ]
    assert number_of(session, "alignments") == calls == job.processed_count


def test_a_job_stops_at_its_budget_keeps_what_it_has_and_goes_on_with_a_larger_one(
    session: Session, guided: ProjectRef, load: Load, priced: AiServer
) -> None:
    load(stories(50))
    job = analyze(session, guided, budget_usd=25 * A_CALL)
    _see_that_the_budget_was_kept(session, priced, job, budget_calls=25)
    before = priced.seen.chats
    # The same budget is spent: nothing is asked.
    with pytest.raises(ConflictError, match="give a larger one with `--budget`"):
        retry(job.id)
    assert priced.seen.chats == before
    job = retry(job.id, budget_usd=1.0)
    assert (job.status, job.processed_count, job.error) == (JobStatus.COMPLETED, 50, None)
    assert len(set(priced.seen.prompts)) == len(priced.seen.prompts) == 50


def test_with_one_call_at_a_time_a_call_is_counted_before_the_next_begins(
    session: Session, guided: ProjectRef, load: Load, priced: AiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(stories(40))
    monkeypatch.setenv("OPSPIPE_AI_CONCURRENCY", "1")
    get_settings.cache_clear()
    job = analyze(session, guided, budget_usd=25 * A_CALL)
    _see_that_the_budget_was_kept(session, priced, job, budget_calls=25, slots=1)


def test_several_workers_keep_one_budget_together(
    *,
    session: Session,
    guided: ProjectRef,
    load: Load,
    priced: AiServer,
    workers: Workers,
    wait: Callable[..., None],
) -> None:
    priced.behaviour.latency = 0.05
    load(stories(100))
    plan = start(session, guided, budget_usd=30 * A_CALL)
    workers.start(concurrency=3)
    publish([plan])

    def _is_ended() -> bool:
        publish(sweep())
        return view(plan.job_id).is_ended

    wait(_is_ended, seconds=60)
    _see_that_the_budget_was_kept(session, priced, view(plan.job_id), budget_calls=30)
    retry(plan.job_id, budget_usd=5.0)
    wait(_is_ended, seconds=60)
    assert view(plan.job_id).status == JobStatus.COMPLETED
    assert number_of(session, "alignments") == 100
    assert len(set(priced.seen.prompts)) == len(priced.seen.prompts) == 100


def test_without_a_price_no_budget_is_taken_and_nothing_is_asked(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(3))
    job = analyze(session, guided, budget_usd=1.0)
    assert job.status == JobStatus.FAILED
    assert "Set llm_input_price and llm_output_price" in str(job.error)
    assert use_ai_server.seen.calls == 0
    use_ai_server.behaviour.prices = {"chatter": (1e-6, 2e-6)}
    _set_prices(session, "1", "2")
    assert retry(job.id).status == JobStatus.COMPLETED


def test_a_change_to_a_model_without_a_price_stops_a_job_that_has_a_budget(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(30))
    use_ai_server.behaviour.models = ("embedder", "chatter", "better")
    use_ai_server.behaviour.prices = {"chatter": (1e-6, 2e-6)}
    plan = start(session, guided, budget_usd=1.0)
    refs = run_chunk(plan)
    refs += run_chunk(refs.pop(0))
    write_setting(session, "llm_model", "better")
    session.commit()
    work(refs)
    job = view(plan.job_id)
    assert (job.status, job.processed_count) == (JobStatus.FAILED, 20)
    assert "no price is known for the model 'better'" in str(job.error)
    assert use_ai_server.seen.chats == 20


def test_the_cost_of_calls_that_name_none_is_reckoned_from_the_prices(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(3))
    _set_prices(session, "10", "30")
    analyze(session, guided)
    spent = rows(session, "SELECT * FROM ai_usage")[0]
    expected = spent["input_tokens"] * 10e-6 + spent["output_tokens"] * 30e-6
    assert spent["cost_usd"] == pytest.approx(expected)
    assert spent["input_tokens"] == sum(len(said) // 4 for said in use_ai_server.seen.prompts)
    each = rows(session, "SELECT sum(cost_usd) AS total FROM alignments")[0]
    assert each["total"] == pytest.approx(expected)


def test_an_estimate_calls_no_model_and_is_near_what_is_then_used(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(30))
    asked = AnalysisOptions(likert=True)
    assert _estimate(session, guided, asked).cost_usd is None
    _set_prices(session, "10", "30")
    estimate = _estimate(session, guided, asked)
    assert use_ai_server.seen.calls == 0
    assert (estimate.model, estimate.record_count, estimate.call_count) == ("chatter", 30, 60)
    assert estimate.cost_usd == pytest.approx(estimate.input_tokens * 10e-6 + estimate.output_tokens * 30e-6)
    session.commit()
    analyze(session, guided, likert=True)
    used = rows(session, "SELECT input_tokens FROM ai_usage")[0]["input_tokens"]
    assert used <= estimate.input_tokens <= 2 * used


def test_an_estimate_counts_of_guidelines_what_a_call_takes_of_them(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(4))
    whole = _estimate(session, guided, AnalysisOptions()).input_tokens
    used = {}
    for context in ("1800", "1900"):
        write_setting(session, "llm_context", context)
        session.commit()
        before = len(use_ai_server.seen.prompts)
        estimate = _estimate(session, guided, AnalysisOptions(scope=AnalysisScope.ALL))
        # What a call reads and may write is no more than the model takes.
        assert estimate.input_tokens < 4 * (int(context) - 1_000)
        assert estimate.input_tokens < whole
        analyze(session, guided, scope="all")
        prompts = use_ai_server.seen.prompts[before:]
        used[context] = sum(guess_tokens(prompt, "chatter") for prompt in prompts)
        assert 0.9 * used[context] <= estimate.input_tokens <= 1.2 * used[context]
    assert used["1800"] < used["1900"]


def test_an_estimate_counts_only_what_the_scope_leaves_to_do(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(5))
    use_ai_server.behaviour.prices = {"chatter": (1e-6, 2e-6)}
    analyze(session, guided)
    for options, calls in (
        (AnalysisOptions(), 0),
        (AnalysisOptions(likert=True), 5),
        (AnalysisOptions(scope=AnalysisScope.STALE), 0),
        (AnalysisOptions(scope=AnalysisScope.ALL, likert=True), 10),
    ):
        estimate = _estimate(session, guided, options)
        assert estimate.call_count == calls
        assert (estimate.cost_usd == 0.0) == (calls == 0)
    write_setting(session, "ai_provider", "local")
    estimate = _estimate(session, guided, AnalysisOptions(scope=AnalysisScope.STALE))
    assert (estimate.record_count, estimate.call_count, estimate.cost_usd) == (5, 0, 0.0)
