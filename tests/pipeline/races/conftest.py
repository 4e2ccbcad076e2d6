"""A place for races: small chunks, a server of models, and guidelines that are read once."""

from collections.abc import Iterator
from functools import lru_cache

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from pipeline.guidelines import read_guidelines
from pipeline.projects import ProjectRef
from pipeline.settings import get_settings
from schemas.reference import Project
from tests.ai_server import AiServer
from tests.pipeline.races.lives import Lives


@pytest.fixture
def lives(
    session: Session,
    guided: ProjectRef,
    use_ai_server: AiServer,  # noqa: ARG001 - it must run
    small_chunks: None,  # noqa: ARG001 - likewise
    monkeypatch: pytest.MonkeyPatch,
) -> Lives:
    """Two load chunks a job, three of vectorize, two of analyze."""
    monkeypatch.setenv("OPSPIPE_EMBED_BATCH", "10")
    # One at a time, so that a job has chunks that nobody has heard of yet.
    monkeypatch.setenv("OPSPIPE_PUBLISH_WINDOW", "1")
    get_settings.cache_clear()
    monkeypatch.setattr("pipeline.vectorize.plan._CALLS_A_CHUNK", 1)
    # The PDF is the same in each of a hundred rounds.
    monkeypatch.setattr("pipeline.projects.read_guidelines", lru_cache(read_guidelines))
    guidelines = session.scalar(select(Project.guidelines).where(Project.id == guided.id))
    session.rollback()
    assert guidelines is not None
    return Lives(guidelines)


@pytest.fixture
def no_surprise(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """See that no worker came upon an error that nobody foresaw."""
    yield
    surprises = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.exc_info and record.name.startswith("pipeline")
    ]
    assert surprises == []
