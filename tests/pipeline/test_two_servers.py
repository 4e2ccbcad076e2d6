"""Embeddings by one server and answers by another: each is asked for its own, and neither for the other's."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from sqlalchemy.orm import Session

from pipeline.ai.health import note_failure
from pipeline.errors import InputError
from pipeline.ingest.submit import Submission
from pipeline.probe import probe_models
from pipeline.projects import ProjectRef
from pipeline.similarity import search_records
from pipeline.system_settings import read_ai_config, write_setting
from schemas.enums import JobStatus
from tests.ai_server import AiServer
from tests.pipeline.analyses import analyze, stories, view

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]


@dataclass
class Servers:
    """Who embeds, and who answers."""

    embedder: AiServer
    analyst: AiServer


@pytest.fixture
def servers_of_two(session: Session, use_ai_server: AiServer, other_server: AiServer) -> Servers:
    """Two servers: neither has the other's model, and each wants a key of its own."""
    use_ai_server.behaviour.models, use_ai_server.behaviour.key = ("chatter",), "of-answers"
    other_server.behaviour.models, other_server.behaviour.key = ("embedder",), "of-embeddings"
    values = {"embedding_host": other_server.url, "embedding_key": "of-embeddings", "ai_key": "of-answers"}
    for key, value in values.items():
        write_setting(session, key, value)
    session.commit()
    return Servers(other_server, use_ai_server)


def test_records_are_embedded_by_the_one_and_judged_by_the_other(
    session: Session, guided: ProjectRef, submit: Submit, run_all: RunAll, servers_of_two: Servers
) -> None:
    embedder, analyst = servers_of_two.embedder, servers_of_two.analyst
    run_all(submit(stories(3), embed=True))
    assert search_records(guided.id, "a story")
    job = analyze(session, guided)
    assert (job.status, job.processed_count, job.failed_count) == (JobStatus.COMPLETED, 3, 0)
    assert (embedder.seen.chats, analyst.seen.chats) == (0, 3)
    assert embedder.seen.texts
    assert not analyst.seen.texts
    for server, key in ((embedder, "of-embeddings"), (analyst, "of-answers")):
        assert {sent["authorization"] for sent in server.seen.headers} == {f"Bearer {key}"}


def test_who_embeds_goes_on_while_the_other_is_away(
    submit: Submit, run_all: RunAll, servers_of_two: Servers
) -> None:
    embedder, analyst = servers_of_two.embedder, servers_of_two.analyst
    note_failure(analyst.url, "chatter", "it rests", failures=0, retry_after=1800.0)
    analyst.behaviour.list_answer = (503, b"{}", {})
    submission = submit(stories(3), embed=True)
    run_all(submission)
    assert view(submission.job_id).status == JobStatus.COMPLETED
    assert embedder.seen.calls
    assert analyst.seen.calls == 0


def test_what_is_wrong_with_one_of_them_is_said_of_that_one(
    session: Session, servers_of_two: Servers
) -> None:
    embedder, analyst = servers_of_two.embedder, servers_of_two.analyst
    embedder.behaviour.key = "another"
    embeddings, answers = probe_models(read_ai_config(session))
    assert embedder.url in str(embeddings.error)
    assert "set embedding_key" in str(embeddings.error)
    assert answers.error is None
    assert analyst.seen.calls == 1
    with pytest.raises(InputError, match="must start with http"):
        write_setting(session, "embedding_host", "nowhere")
