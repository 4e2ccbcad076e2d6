"""Files from public repositories, loaded: each record of the manifest is saved or skipped with a reason."""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import transaction
from pipeline.errors import InputError
from pipeline.ingest.check import check_file
from pipeline.ingest.rejects import write_rejects
from pipeline.ingest.submit import Submission, submit_csv
from pipeline.jobviews import view_job
from pipeline.projects import ProjectRef
from pipeline.settings import get_settings
from pipeline.storage import get_storage
from schemas.enums import RecordType
from schemas.options import IngestOptions

RunAll = Callable[[Submission], int]
FOLDER = Path(__file__).parents[2].parent / "shared" / "data" / "csv"
# Python's names of the encodings that a file must be submitted with, because nothing in it says so.
EXPLICIT = {"cp1252": "cp1252"}

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the folder ../shared/data/csv with real files is not there"
)


def manifest() -> list[dict[str, str]]:
    if not FOLDER.is_dir():
        return []
    with (FOLDER / "MANIFEST.tsv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def options(file: dict[str, str]) -> IngestOptions:
    return IngestOptions(record_type=RecordType.TASK, embed=False, encoding=EXPLICIT.get(file["encoding"]))


@pytest.fixture
def chunks_of_97(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OPSPIPE_CHUNK_ROWS", "97")
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.mark.usefixtures("chunks_of_97")
@pytest.mark.parametrize("file", manifest(), ids=lambda file: file["name"])
def test_a_real_file_is_loaded_whole(
    session: Session, project: ProjectRef, run_all: RunAll, file: dict[str, str]
) -> None:
    path = FOLDER / file["name"]
    with path.open("rb") as source:
        job = submit_csv(project.id, source, file_name=path.name, options=options(file))
    run_all(job)

    view = view_job(session, job.job_id)
    assert (view.status, view.error) == ("COMPLETED", None)
    assert view.total_records == view.saved_count + view.skipped_count == int(file["data_records"])
    assert session.scalar(text("SELECT count(*) FROM data_records")) == view.saved_count
    with transaction() as opened:
        rejects = b"".join(write_rejects(opened, job.job_id)).decode()
    assert len(list(csv.reader(io.StringIO(rejects, newline="")))) == 1 + view.skipped_count
    with path.open("rb") as source:
        report = check_file(source, options(file))
    assert (report.total_records, report.saved_records) == (view.total_records, view.saved_count)
    assert report.skipped == view.skipped_details


def test_a_file_in_utf_16_reads_as_its_twin_in_utf_8(
    session: Session, project: ProjectRef, run_all: RunAll
) -> None:
    contents = []
    for name in ("xstest_prompts.csv", "derived_utf16le_bom.csv"):
        with (FOLDER / name).open("rb") as source:
            option = IngestOptions(record_type=RecordType.TASK, embed=False, mapping={"id": "prompt"})
            job = submit_csv(project.id, source, file_name=name, options=option)
        run_all(job)
        rows = session.execute(
            text('SELECT content, metadata FROM data_records WHERE "ingestJobId" = :job ORDER BY content'),
            {"job": job.job_id},
        ).all()
        contents.append(rows)
        session.execute(text("DELETE FROM data_records"))
        session.commit()
        encoding = session.scalar(
            text("SELECT context->>'encoding' FROM work_stages WHERE job_id = :job"), {"job": job.job_id}
        )
        assert encoding == ("utf-8" if name == "xstest_prompts.csv" else "utf-16")
    assert contents[0] == contents[1]
    assert len(contents[0]) == 450


def test_a_file_in_another_encoding_is_refused_at_once_and_nothing_is_kept(
    session: Session, project: ProjectRef
) -> None:
    path = FOLDER / "istat_cp1252_semicolon.csv"
    option = IngestOptions(record_type=RecordType.TASK)
    before = set(get_storage()._folder.glob("*"))
    with path.open("rb") as source, pytest.raises(InputError, match=r"offset 32 \(line 1.*cp1252"):
        submit_csv(project.id, source, file_name=path.name, options=option)
    assert session.scalar(text("SELECT count(*) FROM uploads")) == 0
    assert set(get_storage()._folder.glob("*")) == before
