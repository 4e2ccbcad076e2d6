"""Records over HTTP: listed page by page, in order of time or score."""

from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ledger import ChunkRef
from pipeline.runner import run_chunk
from schemas.enums import Stage, UserRole
from tests.api.client import Client


@pytest.fixture
def scored(admin: Client, session: Session, project_id: str) -> str:
    """A project with six tasks, four of them analyzed; gives its id."""
    rows = "".join(f"{number},tell the story number {number},5\n" for number in range(6))
    body = {"projectId": project_id, "type": "TASK", "csvData": f"id,prompt,rating\n{rows}"}
    job_id = admin.post("/api/ingest/csv", body | {"generateEmbeddings": False}).body["jobId"]
    refs = [ChunkRef(job_id, Stage.LOAD, 0)]
    while refs:
        refs.extend(run_chunk(refs.pop(0)))
    session.execute(
        text("""
            INSERT INTO alignments (record_id, score, report, provider, llm_model, prompt_version,
                guidelines_sha256)
            SELECT id, 10 * right(content, 1)::int, '{}', 'lmstudio', 'chatter', '1', 'x'
            FROM data_records WHERE right(content, 1)::int < 4
        """)
    )
    session.commit()
    return project_id


def test_records_are_listed_by_score_page_by_page(admin: Client, scored: str) -> None:
    path = f"/api/records?projectId={scored}&sortBy=alignmentScore&order=asc&limit=3"
    first = admin.get(path).body
    assert [record["alignmentScore"] for record in first["records"]] == [0, 10, 20]
    rest = admin.get(f"{path}&cursor={first['nextCursor']}").body
    assert [record["alignmentScore"] for record in rest["records"]] == [30]
    assert rest["nextCursor"] is None


def test_a_record_is_shown_with_all_but_its_embedding(admin: Client, scored: str) -> None:
    (record,) = admin.get(f"/api/records?projectId={scored}&search=number 5".replace(" ", "%20")).body[
        "records"
    ]
    assert record["content"] == "tell the story number 5"
    assert (record["type"], record["category"], record["projectId"]) == ("TASK", "TOP_10", scored)
    assert record["metadata"]["id"] == "5"
    assert (record["alignmentScore"], record["embedding"]) == (None, None)
    (record, *_) = admin.get(f"/api/records?projectId={scored}&include=embedding").body["records"]
    assert record["embedding"] == []


@pytest.mark.parametrize(
    ("change", "name", "shown"),
    [
        ("metadata = '[1, 2]'", "metadata", [1, 2]),
        ("\"createdAt\" = 'infinity'", "createdAt", "9999-12-31T23:59:59.999999Z"),
        ("\"updatedAt\" = '-infinity'", "updatedAt", "0001-01-01T00:00:00Z"),
        ("embedding = ARRAY[1, NULL, 'NaN']::float8[]", "embedding", [1.0, None, None]),
        ("embedding = ARRAY[ARRAY[1, 2]]::float8[]", "embedding", [[1.0, 2.0]]),
    ],
)
def test_what_another_client_wrote_of_a_record_is_shown_and_costs_no_page(
    admin: Client, session: Session, scored: str, *, change: str, name: str, shown: object
) -> None:
    session.execute(text(f"UPDATE data_records SET {change} WHERE content LIKE '%5'"))  # noqa: S608 - the test's own
    session.commit()
    answer = admin.get(f"/api/records?projectId={scored}&include=embedding")
    assert (answer.status, len(answer.body["records"])) == (200, 6)
    (record,) = [found for found in answer.body["records"] if found["content"].endswith("5")]
    assert record[name] == shown


@pytest.mark.parametrize(
    ("query", "status", "reason"),
    [
        ("limit=0", 400, "limit"),
        ("limit=501", 400, "limit"),
        ("sortBy=content", 400, "sortBy"),
        ("include=secrets", 400, "include"),
        ("cursor=nonsense", 400, "the cursor is none"),
        ("sortBy=alignmentScore&hasAlignment=false", 400, "no score"),
        ("search=%00", 400, "it holds a NUL"),
        ("projectId=%00", 400, "it holds a NUL"),
        ("ingestJobId=%00", 400, "it holds a NUL"),
        ("projectId=nobody", 404, "there is no project"),
    ],
)
def test_a_question_for_records_that_cannot_be_answered_says_why(
    admin: Client, query: str, status: int, reason: str
) -> None:
    answer = admin.get(f"/api/records?{query}")
    assert answer.status == status
    assert reason in answer.body["error"]


def test_who_waits_for_approval_sees_no_records(
    sign_in: Callable[[str, UserRole], Client], scored: str
) -> None:
    path = f"/api/records?projectId={scored}"
    assert sign_in("new@x.org", UserRole.PENDING).get(path).status == 403
    assert sign_in("user@x.org", UserRole.USER).get(path).status == 200
