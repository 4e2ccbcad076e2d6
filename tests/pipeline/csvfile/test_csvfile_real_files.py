"""Files from public repositories, and what their manifest says that a correct reader finds in them."""

import csv
from pathlib import Path

import pytest

from pipeline.csvfile import FilePlan, plan_file, read_chunk
from pipeline.errors import InputError

FOLDER = Path(__file__).parents[3].parent / "shared" / "data" / "csv"
READABLE = ("utf-8", "utf-8-sig", "ascii")
DELIMITERS = {"TAB": "\t"}

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the folder ../shared/data/csv with real files is not there"
)


def manifest(*, readable: bool) -> list[dict[str, str]]:
    if not FOLDER.is_dir():
        return []
    with (FOLDER / "MANIFEST.tsv").open(encoding="utf-8", newline="") as lines:
        files = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [file for file in files if (file["encoding"] in READABLE) is readable]


def plan(name: str, chunk_rows: int) -> FilePlan:
    with (FOLDER / name).open("rb") as source:
        return plan_file(source, chunk_rows=chunk_rows, chunk_bytes=10**6, max_record_bytes=10**6)


@pytest.mark.parametrize("file", manifest(readable=True), ids=lambda file: file["name"])
def test_a_real_file_has_the_records_of_its_manifest(file: dict[str, str]) -> None:
    found = plan(file["name"], chunk_rows=7)
    data = (FOLDER / file["name"]).read_bytes()
    read = [
        row
        for chunk in found.chunks
        for row in read_chunk(
            data[chunk.start : chunk.end], first_line=chunk.first_line, delimiter=found.delimiter
        )
    ]

    assert found.total_records == len(read) == int(file["data_records"])
    assert found.delimiter == DELIMITERS.get(file["delimiter"], file["delimiter"])
    assert str(len(found.header)) in file["columns"].split("/")
    assert all(row.fields is not None for row in read)


@pytest.mark.parametrize("file", manifest(readable=False), ids=lambda file: file["name"])
def test_a_real_file_in_another_encoding_is_refused_and_never_misread(file: dict[str, str]) -> None:
    with pytest.raises(InputError, match=file["encoding"]):
        plan(file["name"], chunk_rows=7)
