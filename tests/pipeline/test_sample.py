"""The demo's sample: the same from the same seed, and what it says of itself is true."""

from collections import Counter
from pathlib import Path

import pytest

from pipeline.csvfile import plan_file, read_chunk
from pipeline.ingest.rows import Record, RowOptions, RowReader
from pipeline.sample import write_sample_csv
from pipeline.sample.batch import KEYWORDS
from schemas.enums import RecordCategory, RecordType, SkipReason


def test_the_same_seed_writes_the_same_file(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_sample_csv(tmp_path / name, rows=200, seed=seed)
    first, second, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == second != other


@pytest.mark.parametrize("seed", [1, 2, 20260323])
def test_what_the_sample_says_of_itself_is_what_the_rules_find(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "sample.csv"
    facts = write_sample_csv(path, rows=1000, seed=seed)
    with path.open("rb") as source:
        plan = plan_file(source, chunk_rows=10_000, chunk_bytes=10**9, max_record_bytes=10**6)
    assert plan.total_records == facts.record_count == 1000
    reader = RowReader(plan.header, RowOptions(RecordType.TASK, "csv:sample.csv", KEYWORDS))
    span, known, skipped, categories = plan.chunks[0], set(), Counter[str](), set()
    for row in read_chunk(
        path.read_bytes()[span.start : span.end], first_line=span.first_line, delimiter=","
    ):
        found = reader.read(row.fields)
        if not isinstance(found, Record):
            skipped[found] += 1
        elif (found.type, found.identity) in known:
            skipped[SkipReason.DUPLICATE_ID] += 1
        else:
            known.add((found.type, found.identity))
            categories.add((found.type, found.category))
    assert dict(skipped) == facts.skipped
    assert len(facts.skipped) == 4
    assert categories == {(kind, category) for kind in RecordType for category in (*RecordCategory, None)}
