"""The analysis by a language model: what is stored, what never is, and what is asked again."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import orjson
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ai import close_providers
from pipeline.ai.answers import read_usage
from pipeline.analyze.prompts import ALIGNMENT_VERSION
from pipeline.analyze.reviewers import LlmReviewer
from pipeline.ingest.submit import Submission
from pipeline.projects import ProjectRef, load_guidelines, set_guidelines
from pipeline.runner import publish_next, run_chunk
from pipeline.sweeper import sweep
from pipeline.system_settings import write_setting
from schemas.enums import JobStatus
from schemas.report import AlignmentReport
from tasks import publish
from tests.ai_server import AiServer
from tests.pipeline.analyses import (
    ALIGNMENT,
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

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]


class Workers(Protocol):
    def start(self, *, queues: str = ..., concurrency: int = ...) -> Any: ...  # noqa: ANN401 - not used here
    def stop(self) -> None: ...


pytestmark = pytest.mark.usefixtures("small_chunks")


@pytest.fixture
def load(submit: Submit, run_all: RunAll) -> Callable[[str], None]:
    def _load(batch: str) -> None:
        run_all(submit(batch))

    return _load


Load = Callable[[str], None]


def test_an_analysis_is_stored_as_markdown_and_with_all_that_it_came_from(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(3))
    use_ai_server.behaviour.cost = 0.002
    use_ai_server.behaviour.chat = answer_well
    job = analyze(session, guided)
    assert (job.status, job.processed_count) == (JobStatus.COMPLETED, 3)
    guidelines = load_guidelines(session, guided.id)
    assert guidelines is not None
    prompts = {story_of(said): said for said in use_ai_server.seen.prompts}
    found = rows(session, "SELECT * FROM alignments JOIN data_records ON id = record_id ORDER BY content")
    for number, row in enumerate(found):
        assert row["score"] == 70
        assert (row["provider"], row["llm_model"]) == ("lmstudio", "chatter")
        assert (row["prompt_version"], row["guidelines_sha256"]) == (ALIGNMENT_VERSION, guidelines.sha256)
        assert (row["input_tokens"], row["output_tokens"]) == (len(prompts[number]) // 4, 20)
        assert (row["cost_usd"], row["job_id"]) == (0.002, job.id)
        markdown = row["alignmentAnalysis"]
        assert markdown == AlignmentReport.model_validate(row["report"]).to_markdown()
        for part in (
            "**Alignment score: 70/100**",
            "### Detailed analysis\n\nIt obeys.",
            "### Suggested improvements\n\n- Be shorter.",
        ):
            assert part in markdown
        assert guidelines.text in prompts[number]
    spent = rows(session, "SELECT * FROM ai_usage")
    assert [(row["job_id"], row["model"], row["call_count"]) for row in spent] == [(job.id, "chatter", 3)]
    assert spent[0]["cost_usd"] == pytest.approx(0.006)
    assert spent[0]["input_tokens"] == sum(row["input_tokens"] for row in found)


def _without(name: str) -> str:
    return orjson.dumps({key: value for key, value in ALIGNMENT.items() if key != name}).decode()


def _but(**values: object) -> str:
    return orjson.dumps(ALIGNMENT | values).decode()


# What a model says of a record, how it ends, and what it says beside; with the code of the failure.
USELESS: dict[str, tuple[str, str, str, str]] = {
    "above": (_but(score=101), "stop", "", "INVALID_ANSWER"),
    "below": (_but(score=-1), "stop", "", "INVALID_ANSWER"),
    "fraction": (_but(score=7.5), "stop", "", "INVALID_ANSWER"),
    "whole fraction": (_but(score=80.0), "stop", "", "INVALID_ANSWER"),
    "words": (_but(score="80"), "stop", "", "INVALID_ANSWER"),
    "yes": (_but(score=True), "stop", "", "INVALID_ANSWER"),
    "no score": (_without("score"), "stop", "", "INVALID_ANSWER"),
    "no analysis": (_without("analysis"), "stop", "", "INVALID_ANSWER"),
    "no suggestions": (_without("suggestions"), "stop", "", "INVALID_ANSWER"),
    "blank": (_but(summary="  "), "stop", "", "INVALID_ANSWER"),
    "nothing stored": (_but(analysis="a \0 that no database takes"), "stop", "", "INVALID_ANSWER"),
    "nothing suggested": (_but(suggestions=["\0"]), "stop", "", "INVALID_ANSWER"),
    "prose": ("I like it very much.", "stop", "", "INVALID_ANSWER"),
    "list": ("[70]", "stop", "", "INVALID_ANSWER"),
    "empty": (" ", "stop", "", "EMPTY_ANSWER"),
    "cut": (_but(), "length", "", "TRUNCATED_ANSWER"),
    "cut empty": ("", "length", "", "TRUNCATED_ANSWER"),
    "filtered": (_but(), "content_filter", "", "REFUSED"),
    "refused": (_but(), "stop", "I cannot \0 judge this.", "REFUSED"),
}


def test_an_answer_of_no_use_is_never_stored_and_costs_no_other_record_its_own(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(csv_of([*(f"the case {name} here" for name in USELESS), "the case good here"]))
    now = use_ai_server.behaviour

    def chat(said: str) -> str:
        name = said.split("the case ")[1].split(" here", maxsplit=1)[0]
        content, now.finish_reason, now.refusal, _ = USELESS.get(name, (_but(), "stop", "", ""))
        return content

    now.chat = chat
    job = analyze(session, guided)
    assert job.status == JobStatus.COMPLETED
    assert (job.stages[0].done, job.stages[0].failed) == (1, len(USELESS))
    listed = rows(session, "SELECT content, code FROM record_failures JOIN data_records ON id = record_id")
    assert {row["content"]: row["code"] for row in listed} == {
        f"the case {name} here": code for name, (_, _, _, code) in USELESS.items()
    }
    stored = rows(session, "SELECT content FROM alignments JOIN data_records ON id = record_id")
    assert [row["content"] for row in stored] == ["the case good here"]
    written = rows(session, 'SELECT content FROM data_records WHERE "alignmentAnalysis" IS NOT NULL')
    assert written == stored


def test_a_number_of_tokens_that_no_call_can_have_is_not_believed() -> None:
    usage = read_usage({"usage": {"prompt_tokens": 2**40, "completion_tokens": -3, "cost": 1e400}})
    assert (usage.input_tokens, usage.output_tokens, usage.cost_usd) == (0, 0, None)


def test_a_job_without_one_good_answer_has_failed_and_says_why(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(3))
    use_ai_server.behaviour.chat = lambda _said: _but(score=101)
    job = analyze(session, guided)
    assert job.status == JobStatus.FAILED
    assert "score: Input should be less than or equal to 100" in str(job.error)
    assert number_of(session, "alignments") == 0
    use_ai_server.behaviour.chat = answer_well
    assert retry(job.id).status == JobStatus.COMPLETED
    assert number_of(session, "alignments") == 3
    assert number_of(session, "record_failures") == 0


def test_what_an_answer_of_no_use_has_cost_is_counted_and_the_next_is_taken(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(4))
    asked: Counter[int] = Counter()

    def chat(said: str) -> str:
        asked[story_of(said)] += 1
        return "not yet" if asked[story_of(said)] == 1 and story_of(said) < 2 else answer_well(said)

    use_ai_server.behaviour.chat, use_ai_server.behaviour.cost = chat, 0.01
    job = analyze(session, guided)
    assert (job.stages[0].done, job.stages[0].failed) == (4, 0)
    assert asked == {0: 2, 1: 2, 2: 1, 3: 1}
    assert rows(session, "SELECT call_count, cost_usd FROM ai_usage") == [
        {"call_count": 6, "cost_usd": pytest.approx(0.06)}
    ]


def test_scope_missing_asks_for_new_records_only(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(3))
    analyze(session, guided)
    load(csv_of(["write the story number 7 now"]))
    job = analyze(session, guided, scope="missing")
    assert job.total_records == 1
    assert sorted(map(story_of, use_ai_server.seen.prompts)) == [0, 1, 2, 7]


def _other_guidelines(session: Session, project: ProjectRef, pdf: bytes) -> None:
    set_guidelines(session, project.id, pdf + b"\n% another edition", file_name="g.pdf")


@pytest.mark.parametrize("change", ["guidelines", "model", "prompt"])
def test_other_guidelines_another_model_or_another_prompt_make_results_stale(
    *,
    session: Session,
    guided: ProjectRef,
    load: Load,
    use_ai_server: AiServer,
    tmp_path: Any,  # noqa: ANN401 - pytest's
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    load(stories(3))
    analyze(session, guided)
    assert analyze(session, guided, scope="stale").total_records == 0
    assert use_ai_server.seen.chats == 3
    if change == "guidelines":
        _other_guidelines(session, guided, (tmp_path / "g.pdf").read_bytes())
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


@pytest.fixture
def other_server() -> Iterator[AiServer]:
    server = AiServer().start()
    yield server
    close_providers()
    server.stop()


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
