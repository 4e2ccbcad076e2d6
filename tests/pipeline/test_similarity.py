"""Nearest records, held against brute force, with pgvector and without; and near-duplicates by person."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ai import open_provider, run
from pipeline.database import get_engine, transaction
from pipeline.errors import InputError, NotFoundError
from pipeline.ingest.submit import Submission
from pipeline.jobviews import view_job
from pipeline.projects import ProjectRef
from pipeline.runner import run_chunk
from pipeline.similarity import (
    build_index,
    drop_indexes,
    find_pgvector,
    list_flags,
    nearest_records,
    search_records,
)
from pipeline.system_settings import read_ai_config, write_setting
from pipeline.vectorize import start_vectorization
from schemas.enums import JobStatus, Stage
from tests.ai_server import AiServer, vector_of
from tests.pipeline.vectors import store_vectors

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]
Store = Callable[..., list[str]]

WAYS = ("pgvector", "index", "numpy")


@pytest.fixture
def store(session: Session, project: ProjectRef) -> Store:
    return partial(store_vectors, session, project)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One of the ways to find nearest records; the index is made by the test that wants one."""
    if request.param == "numpy":
        monkeypatch.setattr("pipeline.similarity.nearest.find_pgvector", lambda *_, **__: None)
    return str(request.param)


def use_index(session: Session, way: str, dimensions: int) -> None:
    if way == "index":
        pgvector = find_pgvector(session, dimensions=dimensions)
        assert pgvector is not None
        session.commit()
        build_index(get_engine(), pgvector)
        # As if there were so many records that the index pays.
        session.execute(text("SET enable_seqscan = off"))
        session.execute(text("SET enable_bitmapscan = off"))
        session.execute(text("SET enable_sort = off"))


def brute_force(vectors: np.ndarray, place: int) -> np.ndarray:
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(units @ units[place])


@pytest.mark.parametrize("dimensions", [3, 384])
def test_the_nearest_records_are_those_of_brute_force(
    session: Session, store: Store, way: str, dimensions: int
) -> None:
    random = np.random.default_rng(7)
    vectors = random.standard_normal((700, dimensions)) * random.uniform(0.1, 9, (700, 1))
    ids = store(vectors)
    # Neither one with a pending embedding nor one of another length is near to anything.
    store(np.empty((2, 0)))
    store(np.ones((2, dimensions + 1)))
    use_index(session, way, dimensions)
    try:
        for place in (0, 350, 699):
            similarities = brute_force(vectors, place)
            wanted = sorted(set(range(700)) - {place}, key=lambda other: (-similarities[other], ids[other]))
            found = nearest_records(session, ids[place], limit=25)
            assert [neighbour.id for neighbour in found] == [ids[other] for other in wanted[:25]]
            assert np.allclose([neighbour.similarity for neighbour in found], similarities[wanted[:25]])
    finally:
        session.rollback()
        drop_indexes(get_engine())


def test_a_search_uses_the_index_on_the_cast(session: Session, store: Store) -> None:
    ids = store(np.random.default_rng(7).standard_normal((50, 3)))
    use_index(session, "index", 3)
    try:
        pgvector = find_pgvector(session, dimensions=3)
        assert pgvector is not None
        condition = pgvector.condition("record.embedding")
        question = f"SELECT id FROM data_records AS record WHERE {condition} ORDER BY"  # noqa: S608 - ours
        plan = session.scalars(
            text(f"EXPLAIN {question} {pgvector.distance(':query')} LIMIT 3"), {"query": "[1,2,3]"}
        ).all()
        assert "idx_record_embedding_3" in "\n".join(plan)
        assert len(nearest_records(session, ids[0])) == 10
    finally:
        session.rollback()
        assert drop_indexes(get_engine()) == ["idx_record_embedding_3"]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    vectors=st.lists(
        st.tuples(*(st.integers(min_value=-3, max_value=3) for _ in range(3))), min_size=2, max_size=40
    ),
    limit=st.integers(min_value=1, max_value=12),
)
def test_with_ties_both_ways_give_the_same_similarities(
    session: Session,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    vectors: list[tuple[int, ...]],
    limit: int,
) -> None:
    session.execute(text("DELETE FROM data_records"))
    ids = store(np.array(vectors, dtype=float))
    usable = [place for place, vector in enumerate(vectors) if any(vector)]
    if not usable:
        with pytest.raises(InputError, match="no embedding to compare"):
            nearest_records(session, ids[0])
        return
    asked = ids[usable[0]]
    by_pgvector = nearest_records(session, asked, limit=limit)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.similarity.nearest.find_pgvector", lambda *_, **__: None)
        by_numpy = nearest_records(session, asked, limit=limit)
    assert len(by_pgvector) == len(by_numpy) == min(limit, len(usable) - 1)
    assert np.allclose([found.similarity for found in by_pgvector], [found.similarity for found in by_numpy])


def test_what_no_vector_is_stays_out_of_the_answer(session: Session, store: Store, way: str) -> None:
    good = store(np.eye(3) + 0.1)
    store(np.array([[np.nan, 1.0, 1.0], [np.inf, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    session.execute(text("UPDATE data_records SET embedding = ARRAY[1, NULL, 1] WHERE content = 'record 2'"))
    session.commit()
    assert way
    assert {found.id for found in nearest_records(session, good[0])} == {good[1]}


def test_numpy_holds_no_more_than_a_batch(
    session: Session, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.similarity.nearest.find_pgvector", lambda *_, **__: None)
    monkeypatch.setattr("pipeline.similarity.stream._BATCH_BYTES", 1)
    sizes = []
    batch = __import__("pipeline.similarity.stream", fromlist=["_batch"])._batch
    monkeypatch.setattr(
        "pipeline.similarity.stream._batch", lambda rows, size: sizes.append(len(rows)) or batch(rows, size)
    )
    ids = store(np.random.default_rng(7).standard_normal((500, 3)))
    assert len(nearest_records(session, ids[0])) == 10
    assert sum(sizes) == 499
    assert max(sizes) == 64


def test_a_record_that_is_not_there_or_has_no_embedding_is_an_error(session: Session, store: Store) -> None:
    (pending,) = store(np.empty((1, 0)))
    with pytest.raises(InputError, match=f"record {pending} has no embedding"):
        nearest_records(session, pending)
    with pytest.raises(NotFoundError, match="there is no record 'nobody'"):
        nearest_records(session, "nobody")


TASKS = "id,prompt,created_by_email,created_at\n"


def tasks(*rows: tuple[str, str, str]) -> str:
    """Make a file of texts with who made them and on which day of January."""
    lines = (
        f'{number},"{entry}",{who},2026-01-{day}T00:00:00Z\n' for number, (entry, who, day) in enumerate(rows)
    )
    return TASKS + "".join(lines)


def flags(session: Session, project: ProjectRef) -> set[tuple[str, str, str, str]]:
    """Give each flagged pair as text and day, the later one first."""
    session.commit()
    return {
        (
            flag.content,
            f"{flag.created_at:%d}",
            flag.similar_content,
            f"{flag.similar_created_at:%d}",
        )
        for flag in list_flags(session, project.id)
    }


def test_a_text_finds_its_nearest_records(
    project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    run_all(submit(tasks(("feed the grey cat", "a", "01"), ("paint a red house", "b", "02")), embed=True))
    use_ai_server.behaviour.dimensions = 16
    found = search_records(project.id, "feed the black cat", limit=1)
    assert [neighbour.content for neighbour in found] == ["feed the grey cat"]
    cosine = float(vector_of("feed the black cat", 16) @ vector_of("feed the grey cat", 16))
    assert found[0].similarity == pytest.approx(cosine, abs=1e-6)


def test_a_search_waits_for_nobody(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    run_all(submit(tasks(("feed the grey cat", "a", "01")), embed=True))
    provider = open_provider(read_ai_config(session))
    use_ai_server.behaviour.slow = {"text": 1.0}

    async def begin() -> list[asyncio.Task[Any]]:
        # As many as there are slots, and as many who wait for one.
        calls = [asyncio.create_task(provider.embed([f"text {number}"])) for number in range(16)]
        await asyncio.sleep(0.1)
        return calls

    async def end() -> None:
        await asyncio.gather(*calls)

    calls = run(begin())
    assert search_records(project.id, "feed the black cat")
    assert not any(call.done() for call in calls)
    run(end())


def test_a_search_without_embeddings_or_with_another_model_says_what_to_do(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, use_ai_server: AiServer
) -> None:
    with pytest.raises(InputError, match="has no embeddings: `opspipe vectorize PROJECT`"):
        search_records(project.id, "a cat")
    with pytest.raises(InputError, match="blank"):
        search_records(project.id, " ")
    run_all(submit(tasks(("feed the grey cat", "a", "01")), embed=True))
    assert use_ai_server.seen.calls
    write_setting(session, "embedding_model", "better")
    session.commit()
    with pytest.raises(InputError, match="are of the model 'embedder' and the settings say 'better'"):
        search_records(project.id, "a cat")


@pytest.mark.usefixtures("use_ai_server")
def test_equal_tasks_of_one_person_are_flagged_within_a_batch_and_across(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll
) -> None:
    first = submit(
        tasks(
            ("feed the cat", "ann@x.org", "05"),
            ("feed the cat", "ANN@x.org", "03"),
            ("feed the cat", "bob@x.org", "01"),
        ),
        embed=True,
    )
    run_all(first)
    assert flags(session, project) == {("feed the cat", "05", "feed the cat", "03")}
    second = tasks(("feed the cat", "ann@x.org", "04"), ("wash a very dirty car", "ann@x.org", "09"))
    run_all(submit(second.replace("\n0,", "\n10,").replace("\n1,", "\n11,"), embed=True))
    assert flags(session, project) == {
        ("feed the cat", "05", "feed the cat", "03"),
        ("feed the cat", "04", "feed the cat", "03"),
        ("feed the cat", "05", "feed the cat", "04"),
    }
    similarities = session.scalars(text("SELECT similarity FROM similarity_flags")).all()
    assert all(similarity == pytest.approx(1.0) and similarity <= 1.0 for similarity in similarities)


@pytest.mark.usefixtures("use_ai_server")
def test_feedback_and_tasks_of_nobody_are_not_compared(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll
) -> None:
    run_all(submit("id,prompt\n1,feed the big cat\n2,feed the big cat\n", embed=True))
    run_all(
        submit(
            "id,feedback,created_by_email\n3,feed the big cat,ann@x.org\n4,feed the big cat,ann@x.org\n",
            embed=True,
            record_type="FEEDBACK",
        )
    )
    assert flags(session, project) == set()


@pytest.mark.usefixtures("use_ai_server")
def test_the_pairs_are_those_of_brute_force_whatever_the_chunks(
    session: Session,
    project: ProjectRef,
    submit: Submit,
    run_all: RunAll,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_setting(session, "similarity_threshold", "0.3")
    session.commit()
    monkeypatch.setattr("pipeline.similarity.compare._MOST_A_RECORD", 1_000)
    # A chunk holds one person's tasks or a part of them, a batch fewer than these, a block a few.
    monkeypatch.setattr("pipeline.similarity.compare._LEAST_CHUNK", 20)
    monkeypatch.setattr("pipeline.similarity.compare._NEW_BYTES", 1)
    monkeypatch.setattr("pipeline.similarity.compare._BLOCK_BYTES", 500)
    monkeypatch.setattr("pipeline.similarity.stream._BATCH_BYTES", 1)
    random = np.random.default_rng(3)
    words = ["feed", "wash", "paint", "draw", "a", "big", "small", "cat", "dog", "house", "twice"]
    people = [f"p{number}@x.org" for number in range(6)] + ["many@x.org"] * 10
    rows = [
        (" ".join(random.choice(words, 5)), str(random.choice(people)), f"{1 + number % 28:02}")
        for number in range(240)
    ]
    whole = tasks(*rows).splitlines(keepends=True)
    for part in (whole[1:100], whole[100:]):
        run_all(submit(whole[0] + "".join(part), embed=True))
    found = {
        (flag.record_id, flag.similar_id): flag.similarity
        for flag in list_flags(session, project.id, limit=100_000)
    }
    session.commit()
    records = session.execute(
        text(
            'SELECT id, content, "createdByEmail" AS person, "createdAt" AS moment FROM data_records '
            'ORDER BY "createdAt", id'
        )
    ).all()
    wanted = {}
    for place, later in enumerate(records):
        for earlier in records[:place]:
            cosine = float(
                vector_of(later.content, 16).astype(float) @ vector_of(earlier.content, 16).astype(float)
            )
            if later.person == earlier.person and cosine >= 0.3:
                wanted[later.id, earlier.id] = cosine
    assert len(wanted) > 500
    assert found.keys() == wanted.keys()
    assert all(found[pair] == pytest.approx(wanted[pair], abs=1e-6) for pair in wanted)


@pytest.mark.usefixtures("use_ai_server")
def test_of_a_task_that_is_like_hundreds_the_first_fifty_are_kept(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll
) -> None:
    run_all(submit(tasks(*[("feed the cat", "ann@x.org", "05")] * 120), embed=True))
    counts = session.scalars(text("SELECT count(*) FROM similarity_flags GROUP BY record_id")).all()
    assert sorted(counts) == [*range(1, 50), *[50] * 70]
    kept = session.scalar(text("SELECT count(DISTINCT similar_id) FROM similarity_flags"))
    assert kept == 50
    assert list_flags(session, project.id, limit=3)


@pytest.mark.usefixtures("use_ai_server")
def test_vectorizing_anew_compares_anew_and_comparing_twice_changes_nothing(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll
) -> None:
    submission = submit(
        tasks(("feed the cat", "a@x.org", "05"), ("feed the cat", "a@x.org", "06")), embed=True
    )
    run_all(submission)
    (flag,) = list_flags(session, project.id)
    stages = [stage.stage for stage in view_job(session, submission.job_id).stages]
    assert stages == [Stage.LOAD, Stage.VECTORIZE, Stage.COMPARE]
    write_setting(session, "similarity_threshold", "1")
    session.execute(
        text("UPDATE data_records SET content = 'feed the dog', embedding = '{}' WHERE id = :id"),
        {"id": flag.record_id},
    )
    session.commit()
    with transaction() as inner:
        start = start_vectorization(inner, project.id)
    refs = [start.plan]
    while refs:
        refs.extend(run_chunk(refs.pop(0)))
    session.commit()
    assert view_job(session, start.job_id).status == JobStatus.COMPLETED
    assert list_flags(session, project.id) == []


@pytest.mark.usefixtures("use_ai_server")
def test_a_deleted_record_takes_its_flags_along(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll
) -> None:
    run_all(submit(tasks(("feed the cat", "a@x.org", "05"), ("feed the cat", "a@x.org", "06")), embed=True))
    (flag,) = list_flags(session, project.id)
    session.execute(text("DELETE FROM data_records WHERE id = :id"), {"id": flag.similar_id})
    assert list_flags(session, project.id) == []
