"""The CSV of rejected rows: what is in it, that no spreadsheet runs it, that it can be submitted again."""

import csv
import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.csvfile import read_leniently
from pipeline.database import transaction
from pipeline.errors import ConflictError, NotFoundError
from pipeline.ingest.outcomes import Outcomes
from pipeline.ingest.rejectfile import protect, restore
from pipeline.ingest.rejects import write_rejects
from pipeline.ingest.submit import Submission
from pipeline.jobviews import view_job
from pipeline.runner import run_chunk
from pipeline.storage import get_storage
from schemas.enums import SkipReason

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]

BATCH = """task_id,prompt,notes
t1,A prompt that is long enough,fine
t2,"bad" quoting,x
t3,,

t1,"The same id,
over two lines",again
t5,A prompt that is long enough,one,too many
t6,A prompt with a \0 in it,x
"""


def rejects(job_id: str) -> list[list[str]]:
    with transaction() as session:
        blocks = write_rejects(session, job_id)
    return list(csv.reader(io.StringIO(b"".join(blocks).decode(), newline="")))


@pytest.mark.parametrize("chunk_rows", ["1", "2", "5000"])
def test_each_skipped_row_is_listed_with_line_reason_and_fields(
    session: Session, submit: Submit, run_all: RunAll, chunk_rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.settings import get_settings  # noqa: PLC0415 - its cache is emptied here alone

    monkeypatch.setenv("OPSPIPE_CHUNK_ROWS", chunk_rows)
    get_settings.cache_clear()
    job = submit(BATCH)
    run_all(job)
    get_settings.cache_clear()

    assert rejects(job.job_id) == [
        ["opspipe_line", "opspipe_reason", "task_id", "prompt", "notes"],
        ["3", "Malformed Row", "t2", "bad quoting", "x"],
        ["4", "Empty Content", "t3", "", ""],
        ["6", "Duplicate ID", "t1", "The same id,\nover two lines", "again"],
        ["8", "Malformed Row", "t5", "A prompt that is long enough", "one", "too many"],
        ["9", "Invalid Characters", "t6", "A prompt with a \0 in it", "x"],
    ]
    counted = view_job(session, job.job_id).skipped_details
    assert sum(counted.values()) == 5


def test_corrected_rejects_become_the_records_they_would_have_been(
    session: Session, submit: Submit, run_all: RunAll
) -> None:
    first = submit("id,prompt,=sum\nr1,,-5\nr2,'=is not run at all,'x\n")
    run_all(first)
    rows = rejects(first.job_id)
    assert rows == [
        ["opspipe_line", "opspipe_reason", "id", "prompt", "'=sum"],
        ["2", "Empty Content", "r1", "", "'-5"],
    ]
    rows[1][3] = "=now it has one that is long"
    corrected = io.StringIO(newline="")
    csv.writer(corrected).writerows([rows[0], [*rows[1][:3], protect(rows[1][3]), rows[1][4]]])
    second = submit(corrected.getvalue(), name="rejects.csv")
    run_all(second)

    stored = dict(session.execute(text("SELECT content, metadata FROM data_records")).all())  # type: ignore[arg-type] - rows of two
    assert stored == {
        "'=is not run at all": {"id": "r2", "prompt": "'=is not run at all", "=sum": "'x"},
        "=now it has one that is long": {"id": "r1", "prompt": "=now it has one that is long", "=sum": "-5"},
    }


def test_rejects_of_rejects_have_their_columns_once(submit: Submit, run_all: RunAll) -> None:
    second = submit("opspipe_line,opspipe_reason,id,prompt\n7,Empty Content,x,\n8,Empty Content,'=y,\n")
    run_all(second)

    assert rejects(second.job_id) == [
        ["opspipe_line", "opspipe_reason", "id", "prompt"],
        ["2", "Empty Content", "x", ""],
        ["3", "Empty Content", "'=y", ""],
    ]


def test_the_reason_of_a_row_is_never_taken_for_its_content(submit: Submit, run_all: RunAll) -> None:
    job = submit("opspipe_line,opspipe_reason,id,prompt\n7,a reason that is long enough,x,\n")
    run_all(job)

    assert len(rejects(job.job_id)) == 2


@given(st.text())
def test_what_is_protected_is_restored(value: str) -> None:
    assert restore(protect(value)) == value
    assert protect(value)[:1] not in {"=", "+", "-", "@", "\t", "\r"}


@pytest.mark.parametrize("value", ["=1", "+1", "-1", "@x", "\tx", "\rx"])
def test_a_formula_gets_an_apostrophe(value: str) -> None:
    assert protect(value) == f"'{value}"


@given(st.lists(st.sampled_from([None, *SkipReason]), max_size=300))
def test_outcomes_are_kept_as_they_are(reasons: list[SkipReason | None]) -> None:
    outcomes = Outcomes(len(reasons))
    for place, reason in enumerate(reasons):
        if reason is not None:
            outcomes.skip(place, reason)
    packed = outcomes.pack()

    if packed is None:
        assert not any(reasons)
    else:
        kept = Outcomes.unpack(packed)
        assert [kept.reason(place) for place in range(len(reasons))] == reasons
        assert kept.count() == {reason: reasons.count(reason) for reason in SkipReason if reason in reasons}


def test_a_million_skipped_rows_take_little_space() -> None:
    outcomes = Outcomes(5_000)
    for place in range(0, 5_000, 50):
        outcomes.skip(place, SkipReason.DUPLICATE_ID)

    assert len(outcomes.pack() or b"") < 200


def test_a_malformed_row_takes_no_other_row_along() -> None:
    assert read_leniently(b'a,"b"c,"open\n', delimiter=",") == ["a", "bc", "open\n"]


def test_a_malformed_row_with_an_open_quote_ends_with_its_line(submit: Submit, run_all: RunAll) -> None:
    job = submit('id,prompt\n1,"x"y,"open\n2,A prompt that is long enough\n')
    run_all(job)

    assert rejects(job.job_id)[1:] == [["2", "Malformed Row", "1", "xy", "open\n"]]


def test_there_are_no_rejects_of_a_file_that_was_not_read_yet(submit: Submit) -> None:
    job = submit(BATCH)
    with pytest.raises(ConflictError, match="not read yet"):
        rejects(job.job_id)


def test_a_job_that_is_not_there_has_no_rejects(session: Session) -> None:
    with pytest.raises(NotFoundError, match="no ingest job"):
        write_rejects(session, "nope")


def test_rejects_of_an_upload_that_is_gone_are_refused_before_anything_is_sent(
    session: Session, submit: Submit
) -> None:
    job = submit(BATCH)
    run_chunk(job.plan)
    get_storage().delete(str(session.scalar(text("SELECT storage_key FROM uploads"))))
    with pytest.raises(NotFoundError, match="no longer in storage"):
        rejects(job.job_id)
