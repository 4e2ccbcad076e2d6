"""The analysis by a language model: what is stored, what never is, and what is asked again."""

from collections import Counter

import orjson
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ai import guess_tokens
from pipeline.ai.answers import read_usage
from pipeline.analyze.prompts import ALIGNMENT_VERSION
from pipeline.database import transaction
from pipeline.errors import ConflictError
from pipeline.projects import ProjectRef, load_guidelines
from pipeline.system_settings import write_setting
from schemas.enums import JobStatus
from schemas.report import AlignmentReport
from tests.ai_server import AiServer
from tests.pipeline.analyses import (
    ALIGNMENT,
    Load,
    analyze,
    answer_well,
    csv_of,
    number_of,
    retry,
    rows,
    stories,
    story_of,
)

pytestmark = pytest.mark.usefixtures("small_chunks")


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
    said = {"usage": {"prompt_tokens": 2**40, "completion_tokens": -3, "cost": 1e400}}
    usage = read_usage(said, "chatter", ["a question"])
    assert (usage.input_tokens, usage.output_tokens, usage.cost_usd) == (guess_tokens("a question"), 0, None)
    assert not usage.is_counted


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


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({}, "opspipe analyze demo"),
        ({"scope": "stale", "likert": True}, "opspipe analyze demo --scope stale --likert"),
    ],
)
def test_the_failed_records_of_a_completed_analysis_are_taken_up_by_the_command_that_its_refusal_names(
    *,
    session: Session,
    guided: ProjectRef,
    load: Load,
    use_ai_server: AiServer,
    options: dict[str, object],
    command: str,
) -> None:
    load(stories(4))
    use_ai_server.behaviour.chat = lambda said: "no" if story_of(said) == 2 else answer_well(said)
    job = analyze(session, guided, **options)
    assert (job.status, job.stages[0].failed) == (JobStatus.COMPLETED, 1)
    with pytest.raises(ConflictError, match=f"`{command}` takes up the 1 record that failed"):
        retry(job.id)
    use_ai_server.behaviour.chat = answer_well
    again = analyze(session, guided, **options)
    assert (again.status, again.total_records) == (JobStatus.COMPLETED, 1)
    assert number_of(session, "alignments") == 4


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


def test_an_answer_that_was_cut_is_given_more_room_but_no_more_than_the_model_has(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(1))
    use_ai_server.behaviour.finish_reason = "length"
    write_setting(session, "llm_context", "4096")
    session.commit()
    analyze(session, guided)
    assert [row["code"] for row in rows(session, "SELECT code FROM record_failures")] == ["TRUNCATED_ANSWER"]
    rooms, prompt = use_ai_server.seen.rooms, use_ai_server.seen.prompts[0]
    assert rooms[:2] == [1_000, 2_000]
    # What a chat's form adds has its room as well.
    assert 2_000 < rooms[2] <= 4_096 - len(prompt) // 3 - 250


def test_a_record_that_is_deleted_while_it_is_judged_leaves_nothing_behind(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(3))

    def delete() -> None:
        with transaction() as opened:
            opened.execute(text("DELETE FROM data_records WHERE content LIKE '%number 1 %'"))

    use_ai_server.behaviour.meanwhile = delete
    job = analyze(session, guided, likert=True)
    assert (job.status, job.stages[0].done, job.stages[0].failed) == (JobStatus.COMPLETED, 3, 0)
    assert (number_of(session, "alignments"), number_of(session, "likert_scores")) == (2, 2)
