"""A dry run says what a load then does."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.errors import InputError
from pipeline.ingest.check import check_file
from pipeline.ingest.submit import Submission
from pipeline.jobviews import view_job
from schemas.enums import RecordType
from schemas.options import IngestOptions

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]
REAL = ("prompts_2026-03-20.csv", "xstest_prompts.csv", "milk_tab.csv", "ragged.csv", "duplicate_headers.csv")

BATCH = """type,id,prompt,rating
task,1,A prompt that is long enough,top 10%
feedback,1,Another one that is long enough,1
task,1,The first identity once more,5
task,2,x,
,,,
task,3,"A prompt that is long enough"z,5
"""


def options(**others: object) -> IngestOptions:
    return IngestOptions.model_validate({"record_type": RecordType.TASK, "embed": False} | others)


def test_every_row_is_accounted_for_with_its_line() -> None:
    report = check_file(io.BytesIO(BATCH.encode()), options())

    assert (report.total_records, report.saved_records) == (6, 3)
    assert report.types == {"TASK": 2, "FEEDBACK": 1}
    assert report.categories == {"TOP_10": 1, "BOTTOM_10": 1, "none": 1}
    assert report.skipped == {"Duplicate ID": 1, "Empty Content": 1, "Malformed Row": 1}
    assert report.skipped_lines == {"Duplicate ID": [4], "Empty Content": [6], "Malformed Row": [7]}
    assert report.columns["TASK"]["id"] == ["id"]
    assert report.columns["FEEDBACK"]["rating"] == ["rating"]
    assert report.estimated_tokens == -(-(28 + 31 + 1) // 4)


@pytest.mark.parametrize("name", REAL)
def test_a_load_does_what_the_dry_run_said(
    session: Session, submit: Submit, run_all: RunAll, shared_data: Path, name: str
) -> None:
    data = (shared_data / "csv" / name).read_bytes()
    report = check_file(io.BytesIO(data), options())
    job = submit(data.decode())
    run_all(job)

    view = view_job(session, job.job_id)
    assert view.total_records == report.total_records
    assert (view.saved_count, view.skipped_details) == (report.saved_records, report.skipped)
    stored = session.execute(text("SELECT type, count(*) FROM data_records GROUP BY type"))
    assert {row[0]: row[1] for row in stored} == report.types


def test_options_are_taken_into_account() -> None:
    report = check_file(io.BytesIO(BATCH.encode()), options(keywords=("another",), mapping={"rating": "id"}))

    assert (report.saved_records, report.skipped["Keyword Mismatch"]) == (1, 3)
    assert report.columns["FEEDBACK"]["rating"] == ["id"]


def test_columns_are_named_even_where_no_row_becomes_a_record() -> None:
    report = check_file(io.BytesIO(b"id,prompt\n1,\n"), options())

    assert report.columns["TASK"]["content"] == ["prompt"]


def test_progress_ends_with_all_of_it() -> None:
    shares: list[float] = []
    check_file(io.BytesIO(BATCH.encode()), options(), on_progress=shares.append)

    assert shares[-1] == 1.0


@pytest.mark.parametrize("content", [b"", b"id,prompt\n", b'id,prompt\n1,"open\n', b"id,prompt\n1,\xff\n"])
def test_what_a_submission_would_refuse_is_refused(content: bytes) -> None:
    with pytest.raises(InputError):
        check_file(io.BytesIO(content), options())
