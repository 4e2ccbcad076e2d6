"""Making projects and jobs for the tests of the pipeline."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from pipeline.ingest.submit import Submission, submit_csv
from pipeline.projects import ProjectRef, ensure_project, set_guidelines
from pipeline.runner import run_chunk
from pipeline.sample import write_guidelines_pdf
from schemas.enums import RecordType
from schemas.options import IngestOptions

Submit = Callable[..., Submission]


@pytest.fixture
def project(session: Session) -> ProjectRef:
    found = ensure_project(session, "demo")
    session.commit()
    return found


@pytest.fixture
def submit(project: ProjectRef) -> Submit:
    def _submit(text: str, *, force: bool = False, name: str = "batch.csv", **options: object) -> Submission:
        asked = {"record_type": RecordType.TASK, "embed": False} | options
        return submit_csv(
            project.id,
            io.BytesIO(text.encode()),
            file_name=name,
            options=IngestOptions.model_validate(asked),
            force=force,
        )

    return _submit


@pytest.fixture
def run_all() -> Callable[..., int]:
    """Work on a job's chunks in this process until nothing is published any more; gives their number."""

    def _run_all(submission: Submission) -> int:
        refs, count = [submission.plan], 0
        while refs:
            refs.extend(run_chunk(refs.pop(0)))
            count += 1
        return count

    return _run_all


@pytest.fixture
def load(submit: Submit, run_all: Callable[..., int]) -> Callable[[str], None]:
    """Load a batch, without embeddings."""

    def _load(batch: str) -> None:
        run_all(submit(batch))

    return _load


@pytest.fixture
def guided(session: Session, project: ProjectRef, tmp_path: Path) -> ProjectRef:
    """The project with the sample's guidelines."""
    write_guidelines_pdf(tmp_path / "g.pdf")
    set_guidelines(session, project.id, (tmp_path / "g.pdf").read_bytes(), file_name="g.pdf")
    session.commit()
    return project
