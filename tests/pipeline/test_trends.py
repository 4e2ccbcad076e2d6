"""Trends: the sample, what a language model is shown, and what is counted without one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ai import guess_tokens
from pipeline.ai.health import note_failure
from pipeline.analyze import analyze_trends
from pipeline.analyze.contrast import contrast
from pipeline.analyze.trends import _shorten
from pipeline.errors import AnswerError, FatalError, InputError, ServerError
from pipeline.ingest.submit import Submission
from pipeline.projects import ProjectRef, set_guidelines
from pipeline.sample import write_guidelines_pdf
from pipeline.system_settings import write_setting
from schemas.enums import RecordType
from tests.ai_server import AiServer

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]


def csv(count: int) -> str:
    """Make as many best tasks as worst ones, by turns, a minute apart."""
    lines = []
    for number in range(count):
        moment = f"2026-01-{1 + number // 1440:02}T{number // 60 % 24:02}:{number % 60:02}:00Z"
        lines.append(f"b{number},explain carefully the reason for case {number},5,{moment}\n")
        lines.append(f"w{number},dunno maybe thing {number},1,{moment}\n")
    return "id,prompt,rating,created_at\n" + "".join(lines)


def kept(session: Session, column: str = "lastTaskAnalysis") -> str | None:
    session.commit()
    return session.scalar(text(f'SELECT "{column}" FROM projects'))  # noqa: S608 - of this module


def shown(prompt: str) -> list[int]:
    """Give the numbers of the best cases in a prompt."""
    return [int(line.split()[-1]) for line in prompt.splitlines() if line.startswith("explain carefully")]


def test_a_model_is_shown_a_sample_that_is_spread_over_time_and_always_the_same(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    write_setting(session, "llm_context", "8192")
    session.commit()
    run_all(submit(csv(1_000)))
    report = analyze_trends(project.id, RecordType.TASK)
    assert kept(session) == report.to_markdown()
    assert kept(session, "lastFeedbackAnalysis") is None
    assert report.method.startswith("Judged by chatter from 25 TOP_10 and 25 BOTTOM_10 TASK records")
    (prompt,) = use_ai_server.seen.prompts
    assert shown(prompt) == [40 * place for place in range(25)]
    analyze_trends(project.id, RecordType.TASK)
    assert use_ai_server.seen.prompts[1] == prompt


def test_records_longer_than_their_share_are_cut_and_the_report_says_so(
    project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.context = {"chatter": 4_096}
    long = "word " * 5_000
    run_all(submit(f"id,prompt,rating\n1,{long},5\n2,short and bad,1\n"))
    report = analyze_trends(project.id, RecordType.TASK)
    assert "the longest of them shortened" in report.method
    (prompt,) = use_ai_server.seen.prompts
    assert len(prompt) < 4 * 4_096
    assert "short and bad" in prompt


def test_a_model_is_shown_as_much_as_its_servers_list_says_that_it_takes(
    project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.context = {"chatter": 100_000}
    long = " ".join(f"word{number}" for number in range(5_000))
    run_all(submit(f"id,prompt,rating\n1,{long},5\n2,short and bad,1\n"))
    report = analyze_trends(project.id, RecordType.TASK)
    assert "shortened" not in report.method
    assert long in use_ai_server.seen.prompts[0]


def test_who_asks_for_trends_is_answered_while_jobs_wait_for_the_server(
    project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    run_all(submit(csv(3)))
    note_failure(use_ai_server.url, "chatter", "it rests", failures=0, retry_after=1800.0)
    assert analyze_trends(project.id, RecordType.TASK)


def test_a_misspelt_model_is_refused_before_a_server_that_answers_to_any_name_is_asked(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    run_all(submit(csv(3)))
    use_ai_server.behaviour.knows_any_model = True
    write_setting(session, "llm_model", "chattre")
    session.commit()
    with pytest.raises(FatalError, match="does not list the model 'chattre'"):
        analyze_trends(project.id, RecordType.TASK)
    assert use_ai_server.seen.calls == 0


def test_feedback_is_compared_with_feedback_and_kept_beside_what_was_found_of_tasks(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    run_all(submit(csv(3)))
    of_tasks = analyze_trends(project.id, RecordType.TASK)
    batch = csv(2).replace("explain", "praise").replace("prompt", "feedback")
    run_all(submit(batch, record_type=RecordType.FEEDBACK))
    use_ai_server.behaviour.chat = lambda _said: (
        '{"summary": "Praise.", "best": ["a"], "worst": ["b"], "advice": ["c"]}'
    )
    of_feedback = analyze_trends(project.id, RecordType.FEEDBACK)
    assert "2 TOP_10 and 2 BOTTOM_10 FEEDBACK records" in of_feedback.method
    assert "explain" not in use_ai_server.seen.prompts[1]
    assert kept(session) == of_tasks.to_markdown()
    assert kept(session, "lastFeedbackAnalysis") == of_feedback.to_markdown()


@pytest.mark.parametrize("content", ["語" * 20_000 + "word " * 20_000, "word " * 20_000 + "語" * 20_000])
def test_a_record_of_two_scripts_is_cut_to_its_share_of_tokens(content: str) -> None:
    cut = _shorten(content, 1_000, "chatter")
    assert 950 <= guess_tokens(cut, "chatter") <= 1_000
    assert content.startswith(cut.removesuffix(" …"))


@pytest.mark.usefixtures("use_ai_server")
def test_without_one_of_the_groups_there_is_nothing_to_compare(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll
) -> None:
    run_all(submit("id,prompt,rating\n1,only good ones,5\n"))
    with pytest.raises(InputError, match="no TASK records of the category BOTTOM_10"):
        analyze_trends(project.id, RecordType.TASK)
    assert kept(session) is None


def test_an_answer_that_is_of_no_use_is_not_kept(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    run_all(submit(csv(3)))
    use_ai_server.behaviour.chat = lambda _said: '{"summary": "", "best": [], "worst": [], "advice": []}'
    with pytest.raises(AnswerError, match="not as asked"):
        analyze_trends(project.id, RecordType.TASK)
    use_ai_server.behaviour.fail_next = 99
    with pytest.raises(ServerError, match="answered 503"):
        analyze_trends(project.id, RecordType.TASK)
    assert kept(session) is None


def test_without_a_model_words_lengths_and_guidelines_are_counted_and_labelled_so(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, tmp_path: Path
) -> None:
    write_setting(session, "ai_provider", "local")
    write_guidelines_pdf(tmp_path / "g.pdf")
    set_guidelines(session, project.id, (tmp_path / "g.pdf").read_bytes(), file_name="g.pdf")
    session.commit()
    run_all(submit(csv(40)))
    report = analyze_trends(project.id, RecordType.TASK)
    assert report.method.startswith("Counted without a language model")
    assert "40 TOP_10 and 40 BOTTOM_10 TASK records" in report.summary
    assert "typical best one has 7 words, the typical worst one 4" in report.summary
    assert any("carefully" in line and "reason" in line for line in report.best)
    assert any("dunno" in line and "maybe" in line for line in report.worst)
    assert any(line.startswith("Nearer to the guideline") for line in (*report.best, *report.worst))
    assert kept(session) == report.to_markdown()


def test_equal_groups_have_nothing_that_stands_out() -> None:
    same = ["the same text with the same words"] * 20
    report = contrast("TASK", same, same, ())
    assert report.best == report.worst == ["Nothing that stands out beside the length."]


def test_groups_without_words_are_told_apart_by_length_alone() -> None:
    report = contrast("TASK", ["1 2 3", "4 5"], ["6"], ())
    assert report.best == report.worst == ["Nothing that stands out beside the length."]
