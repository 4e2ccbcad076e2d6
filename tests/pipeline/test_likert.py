"""Ratings of realism and quality: one row a record and model, 1 to 7, and never over another's."""

import orjson
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import transaction
from pipeline.ids import new_cuid
from pipeline.projects import ProjectRef
from pipeline.system_settings import write_setting
from schemas.enums import JobStatus
from schemas.reference import LLM_USER_ID
from tests.ai_server import AiServer
from tests.pipeline.analyses import (
    ALIGNMENT,
    RATING,
    Load,
    Row,
    analyze,
    answer_well,
    is_rating,
    number_of,
    retry,
    rows,
    start,
    stories,
    story_of,
    view,
    work,
)

pytestmark = pytest.mark.usefixtures("small_chunks")


def _ratings(session: Session) -> list[Row]:
    return rows(
        session,
        "SELECT likert_scores.*, content FROM likert_scores JOIN data_records ON data_records.id = "
        '"recordId" ORDER BY content, "llmModel"',
    )


def _rate(server: AiServer, **rating: int) -> None:
    server.behaviour.chat = lambda said: (
        orjson.dumps(rating).decode() if is_rating(said) else answer_well(said)
    )


def test_a_rating_is_stored_under_the_models_name_and_not_as_a_persons(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(3))
    job = analyze(session, guided, likert=True)
    assert (job.status, job.processed_count) == (JobStatus.COMPLETED, 3)
    found = _ratings(session)
    assert len({row["recordId"] for row in found}) == len(found) == 3
    for row in found:
        assert row["userId"] == LLM_USER_ID == "00000000-0000-0000-0000-000000000000"
        assert row["llmModel"] == "chatter"
        assert 1 <= row["realismScore"] <= 7
        assert 1 <= row["qualityScore"] <= 7
    assert number_of(session, "alignments") == 3
    assert use_ai_server.seen.chats == 6


def test_a_second_model_adds_ratings_and_overwrites_none(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(3))
    _rate(use_ai_server, realism=2, quality=3)
    analyze(session, guided, likert=True)
    first = _ratings(session)
    use_ai_server.behaviour.models = ("chatter", "better")
    write_setting(session, "llm_model", "better")
    session.commit()
    _rate(use_ai_server, realism=6, quality=7)
    job = analyze(session, guided, likert=True)
    assert (job.status, job.total_records) == (JobStatus.COMPLETED, 3)
    found = _ratings(session)
    assert [row for row in found if row["llmModel"] == "chatter"] == first
    second = [row for row in found if row["llmModel"] == "better"]
    assert [(row["realismScore"], row["qualityScore"]) for row in second] == [(6, 7)] * 3
    # The alignments of the first were there: only ratings were asked for.
    assert [is_rating(said) for said in use_ai_server.seen.prompts].count(False) == 3


def test_the_same_model_asked_twice_leaves_one_rating_a_record_the_last(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(3))
    _rate(use_ai_server, realism=2, quality=3)
    analyze(session, guided, likert=True)
    ids = [row["id"] for row in _ratings(session)]
    assert analyze(session, guided, likert=True).total_records == 0
    _rate(use_ai_server, realism=4, quality=5)
    assert analyze(session, guided, likert=True, scope="all").total_records == 3
    found = _ratings(session)
    assert [row["id"] for row in found] == ids
    assert [(row["realismScore"], row["qualityScore"]) for row in found] == [(4, 5)] * 3


def test_what_a_person_rated_stays(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(1))
    session.execute(
        text(
            'INSERT INTO likert_scores (id, "recordId", "userId", "realismScore", "qualityScore") '
            "SELECT :id, id, 'a-person', 1, 1 FROM data_records"
        ),
        {"id": new_cuid()},
    )
    session.commit()
    _rate(use_ai_server, realism=7, quality=7)
    analyze(session, guided, likert=True, scope="all")
    found = {row["userId"]: (row["realismScore"], row["llmModel"]) for row in _ratings(session)}
    assert found == {"a-person": (1, None), LLM_USER_ID: (7, "chatter")}


USELESS = [
    RATING | {"realism": 0},
    RATING | {"quality": 8},
    RATING | {"realism": 3.5},
    RATING | {"quality": "5"},
    RATING | {"realism": "5"},
    {"realism": 5},
    {},
]


def test_a_rating_of_no_use_is_listed_and_costs_the_record_not_its_alignment(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(len(USELESS) + 1))

    def chat(said: str) -> str:
        is_bad = is_rating(said) and story_of(said) < len(USELESS)
        return orjson.dumps(USELESS[story_of(said)]).decode() if is_bad else answer_well(said)

    use_ai_server.behaviour.chat = chat
    job = analyze(session, guided, likert=True)
    assert (job.stages[0].done, job.stages[0].failed) == (1, len(USELESS))
    assert [row["content"] for row in _ratings(session)] == [f"write the story number {len(USELESS)} now"]
    assert number_of(session, "alignments") == len(USELESS) + 1
    codes = {row["code"] for row in rows(session, "SELECT code FROM record_failures")}
    assert codes == {"INVALID_ANSWER"}


def test_an_alignment_of_no_use_costs_the_record_not_its_rating(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(4))

    def chat(said: str) -> str:
        is_bad = not is_rating(said) and story_of(said) == 2
        return orjson.dumps(ALIGNMENT | {"score": 101}).decode() if is_bad else answer_well(said)

    use_ai_server.behaviour.chat = chat
    job = analyze(session, guided, likert=True)
    assert (job.stages[0].done, job.stages[0].failed) == (3, 1)
    assert (number_of(session, "likert_scores"), number_of(session, "alignments")) == (4, 3)


def test_a_retry_asks_for_no_rating_that_the_job_has_already(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(4))
    analyze(session, guided, likert=True)
    use_ai_server.seen.prompts.clear()
    use_ai_server.behaviour.chat = lambda said: answer_well(said) if is_rating(said) else "not yet"
    job = analyze(session, guided, likert=True, scope="all")
    assert job.status == JobStatus.FAILED
    use_ai_server.behaviour.chat = answer_well
    assert retry(job.id).status == JobStatus.COMPLETED
    assert [is_rating(said) for said in use_ai_server.seen.prompts].count(True) == 4


def test_the_provider_local_rates_nothing_and_says_what_to_set(
    session: Session, guided: ProjectRef, load: Load
) -> None:
    load(stories(2))
    job = analyze(session, guided, likert=True)
    assert job.status == JobStatus.FAILED
    assert "opspipe settings set ai_provider lmstudio" in str(job.error)
    assert (number_of(session, "likert_scores"), number_of(session, "alignments")) == (0, 0)


def test_a_change_to_the_provider_local_stops_ratings_at_the_next_chunk(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    load(stories(30))
    plan = start(session, guided, likert=True)
    use_ai_server.behaviour.meanwhile = _set_local
    work([plan])
    job = view(plan.job_id)
    assert job.status == JobStatus.FAILED
    assert "ai_provider" in str(job.error)
    assert number_of(session, "likert_scores") == number_of(session, "alignments") == 20


def _set_local() -> None:
    with transaction() as session:
        write_setting(session, "ai_provider", "local")
