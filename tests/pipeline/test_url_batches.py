"""Batches by URL, from a real server into the database."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import transaction
from pipeline.errors import InputError
from pipeline.ingest.fetched import MAX_FETCHES, submit_url
from pipeline.ingest.rejects import write_rejects
from pipeline.ingest.submit import Submission
from pipeline.jobs import retry_job
from pipeline.jobviews import JobView, view_job
from pipeline.projects import ProjectRef
from pipeline.runner import publish_next, run_chunk
from pipeline.settings import get_settings
from schemas.enums import RecordType
from schemas.options import IngestOptions

Site = Any  # the fixture's class is in the conftest
RunAll = Callable[[Submission], int]

TEXT = "a prompt that is long enough"


@pytest.fixture(autouse=True)
def private_urls(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OPSPIPE_ALLOW_PRIVATE_URLS", "true")
    monkeypatch.setenv("OPSPIPE_CHUNK_ROWS", "2")
    monkeypatch.setattr("pipeline.runner._delay", lambda _attempt: 0.0)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture
def load(project: ProjectRef, run_all: RunAll) -> Callable[..., JobView]:
    def _load(url: str, *, force: bool = False, **options: object) -> JobView:
        asked = {"record_type": RecordType.TASK, "embed": False} | options
        job = submit_url(project.id, url, options=IngestOptions.model_validate(asked), force=force)
        run_all(job)
        with transaction() as session:
            return view_job(session, job.job_id)

    return _load


def records(session: Session) -> list[Any]:
    return list(session.execute(text("SELECT * FROM data_records ORDER BY content")).mappings())


@pytest.mark.parametrize("form", [json.dumps, lambda rows: "\n".join(map(json.dumps, rows))])
def test_a_batch_becomes_records_by_the_rules_of_rows(
    session: Session, site: Site, load: Callable[..., JobView], form: Callable[[object], str]
) -> None:
    rows = [
        {"id": 1, "prompt": f" {TEXT} ", "rating": 5, "created_at": 1767225600, "tags": ["a", {"b": 1.5}]},
        {"id": "2", "prompt": f"{TEXT} too", "rating": "top 10%", "author_id": None},
        {"id": 1, "prompt": "the first identity again", "extra": True},
        {"feedback_id": 9, "feedback": "feedback that is long enough"},
        {"id": 5, "content": 12345678901234},
    ]
    job = load(site.give("/batch.json", form(rows).encode()))

    assert (job.status, job.total_records, job.saved_count) == ("COMPLETED", 5, 3)
    assert job.skipped_details == {"Duplicate ID": 1, "Empty Content": 1}
    first, _, feedback = sorted(records(session), key=lambda record: record["createdAt"] is None)
    by_content = {record["content"]: record for record in (first, _, feedback)}
    one = by_content[TEXT]
    assert one["metadata"] == {
        "id": "1",
        "prompt": TEXT,
        "rating": "5",
        "created_at": "1767225600",
        "tags": '["a",{"b":1.5}]',
    }
    assert (one["category"], str(one["createdAt"])) == ("TOP_10", "2026-01-01 00:00:00")
    assert one["source"] == f"api:{site.url}/batch.json"
    assert by_content[f"{TEXT} too"]["metadata"]["author_id"] is None
    assert by_content["feedback that is long enough"]["type"] == "FEEDBACK"


def test_one_object_is_one_record(session: Session, site: Site, load: Callable[..., JobView]) -> None:
    job = load(site.give("/", json.dumps({"prompt": TEXT}, indent=2).encode()))
    assert (job.saved_count, len(records(session))) == (1, 1)


def test_what_is_no_object_is_skipped_and_listed(site: Site, load: Callable[..., JobView]) -> None:
    body = f'{{"prompt": "{TEXT}"}}\nnope\n{{"id": "7", "note": "=1+1", "n": 5}}\n{{"a": "\\ud83d"}}\n'
    job = load(site.give("/", body.encode()))
    assert job.skipped_details == {"Malformed Row": 1, "Empty Content": 1, "Invalid Characters": 1}
    with transaction() as session:
        rejects = b"".join(write_rejects(session, job.id)).decode()
    assert list(csv.reader(io.StringIO(rejects, newline=""))) == [
        ["opspipe_line", "opspipe_reason", "value", "id", "note", "n", "a"],
        ["2", "Malformed Row", "nope", "", "", "", ""],
        ["3", "Empty Content", "", "7", "'=1+1", "5", ""],
        ["4", "Invalid Characters", "", "", "", "", "\ufffd"],
    ]


def test_a_mapped_name_need_not_be_in_every_object(
    session: Session, site: Site, load: Callable[..., JobView]
) -> None:
    rows = [{"answer": "an answer", "key": "k"}, {"prompt": TEXT}]
    job = load(site.give("/", json.dumps(rows).encode()), mapping={"content": "answer", "id": "key"})
    assert (job.saved_count, job.skipped_details) == (1, {"Empty Content": 1})
    assert records(session)[0]["content"] == "an answer"


def test_the_same_bytes_again_fail_the_job_and_name_the_other(
    site: Site, load: Callable[..., JobView]
) -> None:
    url = site.give("/", json.dumps([{"prompt": TEXT}]).encode())
    first = load(url)
    second = load(url)
    assert (second.status, second.saved_count) == ("FAILED", 0)
    assert first.id in str(second.error)
    assert load(url, force=True).saved_count == 1


def test_a_server_in_trouble_is_asked_again_and_then_the_job_completes(
    session: Session, site: Site, project: ProjectRef
) -> None:
    url = site.give("/", status=503, headers={"Retry-After": "0"})
    options = IngestOptions(record_type=RecordType.TASK, embed=False)
    job = submit_url(project.id, url, options=options)
    run_chunk(job.plan)
    assert "503" in str(session.scalar(text("SELECT error FROM work_chunks")))
    site.give("/", json.dumps([{"prompt": TEXT}]).encode())
    session.execute(text("UPDATE work_chunks SET not_before = NULL"))
    session.commit()
    for ref in run_chunk(job.plan):
        run_chunk(ref)
    assert view_job(session, job.job_id).saved_count == 1


def test_a_server_that_never_answers_fails_the_job_and_a_retry_asks_again(
    session: Session, site: Site, project: ProjectRef
) -> None:
    url = site.give("/", status=500)
    job = submit_url(project.id, url, options=IngestOptions(record_type=RecordType.TASK, embed=False))
    for _ in range(MAX_FETCHES):
        run_chunk(job.plan)
        session.execute(text("UPDATE work_chunks SET not_before = NULL"))
        session.commit()
    view = view_job(session, job.job_id)
    assert (view.status, len(site.asked)) == ("FAILED", MAX_FETCHES)
    assert "500" in str(view.error)
    session.rollback()
    site.give("/", json.dumps([{"prompt": TEXT}]).encode())
    retry_job(session, job.job_id)
    session.commit()
    for ref in publish_next(job.job_id, 1):
        for chunk in run_chunk(ref):
            run_chunk(chunk)
    assert view_job(session, job.job_id).status == "COMPLETED"


@pytest.mark.parametrize(
    ("body", "told"),
    [(b"id,prompt\n1,x\n", "a batch is a JSON array"), (b"[]", "empty"), (b'[{"a": 1}', "broken in line 1")],
)
def test_what_is_no_batch_fails_the_job_before_any_row_is_stored(
    session: Session, site: Site, load: Callable[..., JobView], body: bytes, told: str
) -> None:
    job = load(site.give("/", body))
    assert job.status == "FAILED"
    assert told in str(job.error)
    assert records(session) == []


def test_a_private_address_fails_the_job_and_says_how_to_allow_it(
    site: Site, load: Callable[..., JobView], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSPIPE_ALLOW_PRIVATE_URLS", "false")
    get_settings.cache_clear()
    job = load(site.give("/", b"[{}]"))
    assert "OPSPIPE_ALLOW_PRIVATE_URLS" in str(job.error)
    assert site.asked == []


def test_a_url_that_can_never_be_fetched_is_refused_at_once(session: Session, project: ProjectRef) -> None:
    options = IngestOptions(record_type=RecordType.TASK)
    with pytest.raises(InputError):
        submit_url(project.id, "ftp://example.com/x", options=options)
    assert session.scalar(text("SELECT count(*) FROM uploads")) == 0
