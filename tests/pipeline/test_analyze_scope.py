"""Which records an analysis asks about, and that none is asked about twice, whatever comes in between."""

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from reportlab.pdfgen.canvas import Canvas
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ai import close_providers
from pipeline.analyze.reviewers import LlmReviewer
from pipeline.projects import ProjectRef, set_guidelines
from pipeline.runner import publish_next, run_chunk
from pipeline.sweeper import sweep
from pipeline.system_settings import write_setting
from schemas.enums import JobStatus
from tasks import publish
from tests.ai_server import AiServer
from tests.pipeline.analyses import (
    Load,
    analyze,
    answer_well,
    csv_of,
    number_of,
    retry,
    rows,
    start,
    stories,
    story_of,
    take_the_credit_after,
    view,
    work,
)
from tests.workers import Workers

pytestmark = pytest.mark.usefixtures("small_chunks")


def test_scope_missing_asks_for_new_records_only(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(3))
    analyze(session, guided)
    load(csv_of(["write the story number 7 now"]))
    job = analyze(session, guided, scope="missing")
    assert job.total_records == 1
    assert sorted(map(story_of, use_ai_server.seen.prompts)) == [0, 1, 2, 7]


def _other_guidelines(session: Session, project: ProjectRef) -> None:
    made = io.BytesIO()
    canvas = Canvas(made)
    for place, rule in enumerate(("Be brief in all that you write.", "Be kind to all who read it.")):
        canvas.drawString(72, 700 - 20 * place, f"{place + 1}. {rule}")
    canvas.save()
    set_guidelines(session, project.id, made.getvalue(), file_name="g.pdf")


def test_guidelines_that_were_only_saved_anew_make_nothing_stale(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer, tmp_path: Path
) -> None:
    load(stories(3))
    analyze(session, guided)
    again = (tmp_path / "g.pdf").read_bytes() + b"\n% saved again\n"
    set_guidelines(session, guided.id, again, file_name="g.pdf")
    session.commit()
    assert analyze(session, guided, scope="stale").total_records == 0
    assert use_ai_server.seen.chats == 3


@pytest.mark.parametrize("change", ["guidelines", "model", "prompt"])
def test_other_guidelines_another_model_or_another_prompt_make_results_stale(
    *,
    session: Session,
    guided: ProjectRef,
    load: Load,
    use_ai_server: AiServer,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    load(stories(3))
    analyze(session, guided)
    assert analyze(session, guided, scope="stale").total_records == 0
    assert use_ai_server.seen.chats == 3
    if change == "guidelines":
        _other_guidelines(session, guided)
    elif change == "model":
        use_ai_server.behaviour.models = ("embedder", "chatter", "better")
        write_setting(session, "llm_model", "better")
    else:
        monkeypatch.setattr(LlmReviewer, "prompt_version", "alignment-next")
    session.commit()
    assert analyze(session, guided, scope="missing").total_records == 0
    job = analyze(session, guided, scope="stale")
    assert (job.status, job.total_records, job.processed_count) == (JobStatus.COMPLETED, 3, 3)
    assert use_ai_server.seen.chats == 6
    assert {row["job_id"] for row in rows(session, "SELECT job_id FROM alignments")} == {job.id}
    assert analyze(session, guided, scope="stale").total_records == 0


@pytest.mark.parametrize("scope", ["missing", "stale", "all"])
def test_what_was_paid_for_before_an_interruption_is_kept_and_a_retry_asks_for_the_rest(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer, scope: str
) -> None:
    load(stories(30))
    if scope == "all":
        analyze(session, guided, likert=True)
        use_ai_server.seen.prompts.clear()
    take_the_credit_after(use_ai_server, 25)
    job = analyze(session, guided, scope=scope, likert=True)
    assert job.status == JobStatus.FAILED
    assert "no credit left" in str(job.error)
    kept = f"WHERE job_id = '{job.id}'"
    alignments = number_of(session, f"alignments {kept}")
    ratings = number_of(session, 'likert_scores WHERE "realismScore" = 5 AND "qualityScore" = 6')
    assert alignments + ratings == 25
    use_ai_server.behaviour.is_without_credit = False
    use_ai_server.behaviour.chat = answer_well
    job = retry(job.id)
    assert (job.status, job.processed_count, job.stages[0].done) == (JobStatus.COMPLETED, 30, 30)
    assert number_of(session, f"alignments {kept}") == 30
    assert set(Counter(use_ai_server.seen.prompts).values()) == {1}
    assert len(use_ai_server.seen.prompts) == 60


def test_a_server_that_goes_down_halfway_is_asked_nothing_twice_and_uses_up_no_attempts(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(20))
    now = use_ai_server.behaviour

    def chat(said: str) -> str:
        if use_ai_server.seen.chats == 7:
            now.fail_next, now.retry_after = 10_000, "60"
        return answer_well(said)

    now.chat = chat
    plan = start(session, guided)
    work([plan])
    job = view(plan.job_id)
    assert (job.status, job.processed_count) == (JobStatus.PROCESSING, 7)
    assert number_of(session, "alignments") == 7
    now.fail_next, now.chat = 0, answer_well
    session.execute(text("UPDATE work_chunks SET not_before = NULL, published_at = NULL"))
    session.execute(text("UPDATE ai_servers SET paused_until = NULL"))
    session.commit()
    close_providers()  # what this process knows of the pause is a quarter of a second old at most
    work(publish_next(plan.job_id, 10))
    assert (view(plan.job_id).status, view(plan.job_id).processed_count) == (JobStatus.COMPLETED, 20)
    assert list(Counter(use_ai_server.seen.prompts).values()) == [1] * 20
    assert number_of(session, "work_chunks WHERE attempts > 1") == 0


def test_workers_that_are_killed_cost_no_more_than_the_chunk_that_they_held(
    *,
    session: Session,
    guided: ProjectRef,
    load: Load,
    use_ai_server: AiServer,
    workers: Workers,
    wait: Callable[..., None],
) -> None:
    load(stories(60))
    server = use_ai_server

    def chat(said: str) -> str:
        server.behaviour.latency = 600.0 if server.seen.chats > 50 else 0.0
        return answer_well(said)

    server.behaviour.chat = chat
    plan = start(session, guided, scope="all", likert=True)
    workers.start(queues="analyze", concurrency=1)
    publish([plan])
    # A chunk is forty calls: the first is done, and the second hangs.
    wait(lambda: server.seen.chats > 50, what="the second chunk")
    workers.stop()
    assert number_of(session, "alignments") == view(plan.job_id).processed_count == 20
    server.behaviour.latency, server.behaviour.chat = 0.0, answer_well
    # What time would do: leases end, and what was published long ago is published again.
    session.execute(text("UPDATE work_chunks SET leased_until = now() WHERE state = 'LEASED'"))
    session.execute(text("UPDATE work_chunks SET published_at = published_at - interval '1 day'"))
    session.commit()
    workers.start(queues="analyze", concurrency=1)

    def _is_ended() -> bool:
        publish(sweep())
        return view(plan.job_id).is_ended

    wait(_is_ended, seconds=60)
    job = view(plan.job_id)
    assert (job.status, job.processed_count, job.stages[0].done) == (JobStatus.COMPLETED, 60, 60)
    assert (number_of(session, "alignments"), number_of(session, "likert_scores")) == (60, 60)
    asked = Counter(server.seen.prompts)
    assert len(asked) == 120
    assert max(asked.values()) == 2
    assert asked.total() <= 160


def test_a_retry_asks_for_the_records_that_failed_and_for_those_that_nobody_asked_about(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(20))
    now, seen = use_ai_server.behaviour, use_ai_server.seen
    refused = []

    def chat(said: str) -> str:
        now.is_without_credit, now.refusal = seen.chats >= 12, ""
        if seen.chats == 3:
            now.refusal = "No."
            refused.append(story_of(said))
        return answer_well(said)

    now.chat = chat
    job = analyze(session, guided)
    assert (job.status, job.stages[0].done, job.stages[0].failed) == (JobStatus.FAILED, 11, 1)
    now.is_without_credit, now.refusal, now.chat = False, "", answer_well
    job = retry(job.id)
    assert (job.status, job.stages[0].done, job.stages[0].failed) == (JobStatus.COMPLETED, 20, 0)
    assert job.processed_count == 20
    asked = Counter(story_of(said) for said in seen.prompts)
    assert asked == {number: 2 if number in refused else 1 for number in range(20)}


def test_a_chunk_that_is_delivered_again_asks_nothing(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(30))
    plan = start(session, guided, scope="all")
    refs = run_chunk(plan)
    work(refs)
    work(refs)
    assert view(plan.job_id).processed_count == 30
    assert use_ai_server.seen.chats == 30


def test_a_change_of_settings_holds_from_the_next_chunk_on(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer, other_server: AiServer
) -> None:
    load(stories(30))
    plan = start(session, guided)
    refs = run_chunk(plan)
    refs += run_chunk(refs.pop(0))
    other_server.behaviour.models = ("better",)
    write_setting(session, "ai_host", other_server.url)
    write_setting(session, "llm_model", "better")
    session.commit()
    work(refs)
    assert view(plan.job_id).status == JobStatus.COMPLETED
    counted = rows(session, "SELECT llm_model, count(*) AS number FROM alignments GROUP BY 1 ORDER BY 1")
    assert [tuple(row.values()) for row in counted] == [("better", 10), ("chatter", 20)]
    assert (use_ai_server.seen.chats, other_server.seen.chats) == (20, 10)
