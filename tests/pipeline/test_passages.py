"""Guidelines that a model does not take whole: which passages it is shown, and what is embedded for that."""

import io

import pytest
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import ListFlowable, Paragraph, SimpleDocTemplate
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ai import guess_tokens
from pipeline.analyze import align_record
from pipeline.analyze.coverage import assess_coverage
from pipeline.analyze.prompts import alignment_prompt
from pipeline.analyze.texts import read_record_texts
from pipeline.errors import AnswerError
from pipeline.guidelines import split_passages
from pipeline.projects import ProjectRef, load_guidelines, set_guidelines
from pipeline.sample import RULES
from pipeline.system_settings import write_setting
from pipeline.vectorize import start_vectorization
from schemas.enums import JobStatus
from tests.ai_server import AiServer
from tests.pipeline.analyses import Load, analyze, csv_of, rows, work

RECORD = "the translation of medical leaflets into plain language for patients"
OTHER_RECORD = "the delivery of parcels to customers abroad by ship"
# In tokens: only a few passages fit.
ROOM = 250


@pytest.fixture
def short(session: Session, use_ai_server: AiServer) -> AiServer:
    """A server whose model takes a few passages beside a record."""
    prompt = alignment_prompt(RECORD, "")
    used = guess_tokens(prompt.system + prompt.user) + prompt.max_output_tokens + 250
    write_setting(session, "llm_context", str(used + ROOM))
    session.commit()
    return use_ai_server


def _passages(session: Session, project: ProjectRef) -> tuple[str, ...]:
    guidelines = load_guidelines(session, project.id)
    assert guidelines is not None
    session.commit()
    return split_passages(guidelines.text)


def _record_id(session: Session, content: str = RECORD) -> str:
    found = {row["content"]: row["id"] for row in rows(session, "SELECT id, content FROM data_records")}
    return str(found[content])


def _prose(count: int) -> bytes:
    body = getSampleStyleSheet()["BodyText"]
    story = []
    for number in range(count):
        subject = (
            "the translation of medical leaflets for patients" if number == 40 else f"matter number {number}"
        )
        story.append(Paragraph(f"Section {number}", body))
        story.append(Paragraph(f"This section speaks of {subject}. What it says of it is to be kept.", body))
    bullets = [Paragraph(rule, body) for rule in ("Be brief in all that you write.", "Be kind to all.")]
    sink = io.BytesIO()
    SimpleDocTemplate(sink).build([*story, ListFlowable(bullets, bulletType="bullet", start="\u2022")])
    return sink.getvalue()


def test_prose_that_is_no_rule_reaches_the_prompt_where_it_is_nearest_to_the_record(
    session: Session, project: ProjectRef, load: Load, short: AiServer
) -> None:
    guidelines = set_guidelines(session, project.id, _prose(60), file_name="g.pdf")
    session.commit()
    assert guidelines.rules == ("Be brief in all that you write.", "Be kind to all.")
    load(csv_of([RECORD]))
    # Enough for words that have nothing to do with each other to be far from each other.
    short.behaviour.dimensions = 256
    assert analyze(session, project).status == JobStatus.COMPLETED
    (prompt,) = short.seen.prompts
    assert "This section speaks of the translation of medical leaflets for patients." in prompt
    (kept,) = rows(session, "SELECT report FROM alignments")
    passages = split_passages(guidelines.text)
    shown = sum(passage in prompt for passage in passages)
    assert f"the {shown} of {len(passages)} passages" in kept["report"]["method"]


def test_passages_are_embedded_anew_by_another_host_under_the_same_name(
    session: Session, guided: ProjectRef, load: Load, short: AiServer, other_server: AiServer
) -> None:
    load(csv_of([RECORD]))
    record_id = _record_id(session)
    count = len(_passages(session, guided))
    other_server.behaviour.dimensions = 24
    for server, host in ((short, short.url), (other_server, other_server.url)):
        write_setting(session, "ai_host", host)
        session.commit()
        align_record(record_id, is_forced=True)
        align_record(record_id, is_forced=True)
        # The passages once, the record each time.
        assert server.seen.batch_sizes == [count, 1, 1]


def test_passages_are_embedded_anew_where_another_model_answers_to_the_name(
    session: Session, guided: ProjectRef, load: Load, short: AiServer
) -> None:
    load(csv_of([RECORD]))
    record_id = _record_id(session)
    count = len(_passages(session, guided))
    align_record(record_id)
    short.behaviour.dimensions = 24
    assert not align_record(record_id, is_forced=True).is_cached
    assert short.seen.batch_sizes == [count, 1, 1, count, 1]
    assert short.seen.prompts[0].count("\n\n") == short.seen.prompts[1].count("\n\n")


def test_a_passage_that_cannot_be_embedded_is_chosen_last_and_fails_no_record(
    session: Session, guided: ProjectRef, load: Load, short: AiServer
) -> None:
    passages = _passages(session, guided)
    refused = next(passage for passage in passages if "audience" in passage)
    short.behaviour.poison = {"audience that": 400}
    load(csv_of([RECORD, OTHER_RECORD]))
    job = analyze(session, guided)
    assert (job.status, job.stages[0].done, job.stages[0].failed) == (JobStatus.COMPLETED, 2, 0)
    assert all(refused not in prompt for prompt in short.seen.prompts)


def test_where_no_passage_can_be_embedded_the_record_fails_with_the_reason(
    session: Session, guided: ProjectRef, load: Load, short: AiServer
) -> None:
    assert guided
    load(csv_of([RECORD]))
    short.behaviour.longest_input = 1
    with pytest.raises(AnswerError, match="too long"):
        align_record(_record_id(session))
    assert short.seen.chats == 0


def _vectorize(session: Session, project: ProjectRef) -> None:
    plan = start_vectorization(session, project.id).plan
    session.commit()
    work([plan])


def test_records_that_were_vectorized_by_the_model_are_not_embedded_again(
    session: Session, guided: ProjectRef, load: Load, short: AiServer
) -> None:
    load(csv_of([RECORD, OTHER_RECORD]))
    count = len(_passages(session, guided))
    _vectorize(session, guided)
    assert short.seen.batch_sizes == [2]
    assert analyze(session, guided).status == JobStatus.COMPLETED
    assert short.seen.batch_sizes == [2, count]
    embedded_before = {prompt.split("<<<RECORD")[1]: prompt for prompt in short.seen.prompts}
    session.execute(text("UPDATE data_records SET embedding = '{}'"))
    session.commit()
    assert analyze(session, guided, scope="all").status == JobStatus.COMPLETED
    # The same passages are chosen by either.
    assert {prompt.split("<<<RECORD")[1]: prompt for prompt in short.seen.prompts} == embedded_before
    assert short.seen.batch_sizes == [2, count, 2]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE data_records SET content = content || ' changed'",
        "UPDATE data_records SET embedding = embedding || embedding",
        "UPDATE data_records SET embedding = '{}'",
        "UPDATE embedding_spaces SET model = 'another'",
        "UPDATE embedding_spaces SET generation = 'begun since'",
        "DELETE FROM embedding_spaces",
        "DELETE FROM record_embeddings",
    ],
)
def test_a_record_brings_its_embedding_only_if_the_model_is_known_to_have_made_it_of_its_text(
    session: Session, guided: ProjectRef, load: Load, short: AiServer, change: str
) -> None:
    assert short.url
    load(csv_of([RECORD]))
    _vectorize(session, guided)
    asked = {"ids": [_record_id(session)], "project_id": guided.id}
    (own,) = read_record_texts(session, model="embedder", **asked)  # type: ignore[arg-type]  # as made above
    (kept,) = rows(session, "SELECT embedding FROM data_records")
    assert own.embedding is not None
    assert own.embedding.tolist() == kept["embedding"]
    session.execute(text(change))
    (own,) = read_record_texts(session, model="embedder", **asked)  # type: ignore[arg-type]  # as made above
    assert own.embedding is None


@pytest.mark.parametrize(
    "change",
    [
        "embedding[1] = NULL",
        "embedding[1] = 'NaN'",
        "embedding = array_fill(0::float8, ARRAY[cardinality(embedding)])",
        "embedding = ARRAY[embedding]",
    ],
)
def test_what_another_client_wrote_over_a_records_embedding_is_not_held_against_passages(
    session: Session, guided: ProjectRef, load: Load, short: AiServer, change: str
) -> None:
    load(csv_of([RECORD]))
    _vectorize(session, guided)
    session.execute(text(f"UPDATE data_records SET {change}"))  # noqa: S608 - the test's own
    session.commit()
    job = analyze(session, guided)
    assert (job.status, job.stages[0].done) == (JobStatus.COMPLETED, 1)
    assert short.seen.texts[RECORD] == 2


def test_coverage_takes_no_vector_of_another_model_for_its_own_however_long_it_is(
    session: Session, guided: ProjectRef, load: Load, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.dimensions = 512
    load(csv_of([f'"{RULES[0]}"']))
    _vectorize(session, guided)
    write_setting(session, "ai_provider", "local")
    session.commit()
    assert analyze(session, guided).status == JobStatus.COMPLETED
    (kept,) = rows(session, "SELECT * FROM alignments")
    first = kept["report"]["findings"][0]
    assert (first["guideline"], first["similarity"]) == (RULES[0], pytest.approx(1.0, abs=1e-3))


def test_coverage_takes_the_vectors_that_its_own_model_is_known_to_have_made(
    session: Session, guided: ProjectRef, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(csv_of([f'"{RULES[0]}"']))
    _vectorize(session, guided)
    seen: list[object] = []
    monkeypatch.setattr(
        "pipeline.analyze.reviewers.assess_coverage",
        lambda records, rules: seen.extend(records) or assess_coverage(records, rules),
    )
    assert analyze(session, guided).status == JobStatus.COMPLETED
    (record,) = seen
    assert record.embedding is not None  # type: ignore[attr-defined]  # a RecordText
    assert record.embedding.shape == (512,)  # type: ignore[attr-defined]  # a RecordText
