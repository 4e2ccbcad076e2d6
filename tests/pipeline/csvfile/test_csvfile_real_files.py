"""Files from public repositories, and what their manifest says that a correct reader finds in them."""

import csv
import io
from pathlib import Path

import pytest

from pipeline.csvfile import Utf8Reader, inspect_head, needs_transcoding, plan_file, read_chunk
from pipeline.errors import InputError

FOLDER = Path(__file__).parents[3].parent / "shared" / "data" / "csv"
DELIMITERS = {"TAB": "\t"}
# What nothing in the file itself says.
EXPLICIT = {"istat_cp1252_semicolon.csv": "cp1252"}

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the folder ../shared/data/csv with real files is not there"
)


def manifest() -> list[dict[str, str]]:
    if not FOLDER.is_dir():
        return []
    with (FOLDER / "MANIFEST.tsv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.parametrize("file", manifest(), ids=lambda file: file["name"])
def test_a_real_file_has_the_records_of_its_manifest(file: dict[str, str]) -> None:
    data = (FOLDER / file["name"]).read_bytes()
    head = inspect_head(io.BytesIO(data), encoding=EXPLICIT.get(file["name"]))
    transcoded_from = None
    if needs_transcoding(head.encoding):
        data, transcoded_from = Utf8Reader(io.BytesIO(data), head.encoding).read(), head.encoding

    plan = plan_file(
        io.BytesIO(data),
        chunk_rows=7,
        chunk_bytes=10**6,
        max_record_bytes=10**6,
        transcoded_from=transcoded_from,
    )
    read = [
        row
        for chunk in plan.chunks
        for row in read_chunk(
            data[chunk.start : chunk.end], first_line=chunk.first_line, delimiter=plan.delimiter
        )
    ]

    assert plan.total_records == len(read) == int(file["data_records"])
    assert plan.encoding == head.encoding == file["encoding"].replace("ascii", "utf-8")
    assert plan.delimiter == head.delimiter == DELIMITERS.get(file["delimiter"], file["delimiter"])
    assert plan.header == head.header
    assert (plan.chunks[0].start, plan.chunks[0].first_line) == (head.body_start, head.body_line)
    assert str(len(plan.header)) in file["columns"].split("/")
    assert all(row.fields is not None for row in read)


@pytest.mark.parametrize("name", EXPLICIT)
def test_a_real_file_whose_encoding_nothing_says_is_refused_and_never_misread(name: str) -> None:
    with (FOLDER / name).open("rb") as source, pytest.raises(InputError, match=f"in {EXPLICIT[name]}"):
        inspect_head(source)
