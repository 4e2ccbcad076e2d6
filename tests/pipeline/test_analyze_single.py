"""One record at a person's request: what is asked for it, and as long as what is kept is returned."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ai.health import note_failure
from pipeline.analyze import align_record
from pipeline.errors import FatalError, InputError, NotFoundError
from pipeline.projects import ProjectRef, load_guidelines
from pipeline.system_settings import write_setting
from schemas.enums import JobStatus
from tests.ai_server import AiServer
from tests.pipeline.analyses import Load, analyze, answer_well, csv_of, rows, stories


@pytest.fixture
def record_id(session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer) -> str:
    """A record of a project with guidelines, and a server that judges it."""
    assert guided
    load(stories(1))
    use_ai_server.behaviour.chat = answer_well
    return str(rows(session, "SELECT id FROM data_records")[0]["id"])


def test_a_record_takes_as_much_as_the_servers_list_says_of_the_model_and_costs_what_it_says(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    assert guided
    load(csv_of([" ".join(f"word{number}" for number in range(5_000))]))
    use_ai_server.behaviour.context = {"chatter": 100_000}
    use_ai_server.behaviour.prices = {"chatter": (1e-6, 2e-6)}
    align_record(rows(session, "SELECT id FROM data_records")[0]["id"])
    (kept,) = rows(session, "SELECT * FROM alignments")
    wanted = kept["input_tokens"] * 1e-6 + kept["output_tokens"] * 2e-6
    assert kept["cost_usd"] == pytest.approx(wanted)
    assert len(use_ai_server.seen.prompts) == 1


def test_a_misspelt_model_is_refused_before_a_server_that_answers_to_any_name_is_asked(
    session: Session, record_id: str, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.knows_any_model = True
    write_setting(session, "llm_model", "chattre")
    session.commit()
    with pytest.raises(FatalError, match="does not list the model 'chattre'"):
        align_record(record_id)
    assert use_ai_server.seen.calls == 0


def test_what_was_found_of_one_record_is_stored_with_all_that_it_came_from_but_a_job(
    session: Session, guided: ProjectRef, record_id: str, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.cost = 0.002
    found = align_record(record_id)
    guidelines = load_guidelines(session, guided.id)
    assert guidelines is not None
    (kept,) = rows(session, "SELECT * FROM alignments JOIN data_records ON id = record_id")
    assert (found.score, found.analysis, found.is_cached) == (70, kept["alignmentAnalysis"], False)
    assert (kept["provider"], kept["llm_model"]) == ("lmstudio", "chatter")
    assert kept["guidelines_sha256"] == guidelines.sha256
    assert (kept["job_id"], kept["cost_usd"]) == (None, 0.002)
    assert (kept["input_tokens"], kept["output_tokens"]) == (len(use_ai_server.seen.prompts[0]) // 4, 20)


def test_who_asks_about_one_record_is_answered_while_jobs_wait_for_the_server(
    record_id: str, use_ai_server: AiServer
) -> None:
    note_failure(use_ai_server.url, "chatter", "it rests", failures=0, retry_after=1800.0)
    assert align_record(record_id).score == 70


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE alignments SET guidelines_sha256 = 'of other guidelines'",
        "UPDATE alignments SET llm_model = 'another'",
        "UPDATE alignments SET prompt_version = 'of old'",
    ],
)
def test_what_is_kept_is_returned_until_it_is_stale(
    session: Session, record_id: str, use_ai_server: AiServer, change: str
) -> None:
    align_record(record_id)
    assert align_record(record_id).is_cached
    assert use_ai_server.seen.chats == 1
    session.execute(text(change))
    session.commit()
    anew = align_record(record_id)
    assert (anew.llm_model, anew.is_cached, use_ai_server.seen.chats) == ("chatter", False, 2)
    assert align_record(record_id).is_cached


def test_what_an_analysis_found_is_returned_without_asking_anybody(
    session: Session, guided: ProjectRef, record_id: str, use_ai_server: AiServer
) -> None:
    assert analyze(session, guided).status == JobStatus.COMPLETED
    use_ai_server.stop()
    assert align_record(record_id).is_cached


def test_a_stale_result_is_no_answer_where_the_model_cannot_be_asked(
    session: Session, record_id: str, use_ai_server: AiServer
) -> None:
    align_record(record_id)
    write_setting(session, "llm_model", "another")
    session.commit()
    with pytest.raises(FatalError, match="does not list the model 'another'"):
        align_record(record_id)
    (kept,) = rows(session, "SELECT llm_model FROM alignments")
    assert kept["llm_model"] == "chatter"
    assert use_ai_server.seen.chats == 1


def test_of_those_who_ask_for_a_record_at_once_one_pays_and_all_are_answered(
    record_id: str, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.latency = 0.5
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: align_record(record_id), range(8)))
    assert use_ai_server.seen.chats == 1
    assert sorted(entry.is_cached for entry in found) == [False, *[True] * 7]
    assert len({entry.created_at for entry in found}) == 1


def test_whoever_waits_for_a_record_that_then_fails_asks_for_it(
    record_id: str, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.answer_next = [(402, b'{"error": {"message": "no credit"}}', {})]
    use_ai_server.behaviour.latency = 0.3
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(align_record, record_id) for _ in range(2)]
        failures = [one.exception() for one in asked]
    assert sorted(type(failure).__name__ for failure in failures) == ["FatalError", "NoneType"]
    assert align_record(record_id).is_cached


def test_without_a_record_or_guidelines_there_is_nothing_to_hold(
    session: Session, project: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    assert project
    load(stories(1))
    with pytest.raises(NotFoundError, match="no record 'nobody'"):
        align_record("nobody")
    with pytest.raises(InputError, match="no guidelines"):
        align_record(rows(session, "SELECT id FROM data_records")[0]["id"])
    assert use_ai_server.seen.calls == 0
