"""The demo's sample: the same from the same seed, and what it says of itself is true."""

from collections import Counter
from datetime import UTC
from pathlib import Path
from random import Random
from statistics import median

import pytest

from pipeline.analyze.coverage import assess_coverage
from pipeline.analyze.review import RecordText
from pipeline.csvfile import plan_file, read_chunk
from pipeline.ingest.rows import Record, RowOptions, RowReader
from pipeline.sample import RULES, SampleFacts, write_sample_csv
from pipeline.sample.texts import task_text
from schemas.enums import RecordCategory, RecordType, SkipReason


def test_the_same_seed_writes_the_same_file(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_sample_csv(tmp_path / name, rows=200, seed=seed)
    first, second, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == second != other


def load(path: Path, facts: SampleFacts) -> tuple[list[Record], dict[str, int]]:
    """Read the sample as a load does; gives the records that are kept and the counts of the others."""
    with path.open("rb") as source:
        plan = plan_file(source, chunk_rows=10_000, chunk_bytes=10**9, max_record_bytes=10**6)
    assert plan.total_records == facts.record_count
    reader = RowReader(plan.header, RowOptions(RecordType.TASK, facts.keywords))
    span, known, skipped = plan.chunks[0], {}, Counter[str]()
    for row in read_chunk(
        path.read_bytes()[span.start : span.end], first_line=span.first_line, delimiter=","
    ):
        found = reader.read(row.fields)
        if not isinstance(found, Record):
            skipped[found] += 1
        elif (found.type, found.identity) in known:
            skipped[SkipReason.DUPLICATE_ID] += 1
        else:
            known[found.type, found.identity] = found
    return list(known.values()), dict(skipped)


@pytest.mark.parametrize(("rows", "seed"), [(100, 20260323), (1000, 1), (1000, 2), (3000, 20260323)])
def test_what_the_sample_says_of_itself_is_what_the_rules_find(tmp_path: Path, rows: int, seed: int) -> None:
    facts = write_sample_csv(tmp_path / "sample.csv", rows=rows, seed=seed)
    records, skipped = load(tmp_path / "sample.csv", facts)
    assert skipped == facts.skipped
    assert len(skipped) == 4
    assert len(records) == facts.saved_count == rows - sum(skipped.values())
    for kind, expected in (
        (RecordType.TASK, facts.tasks_by_person),
        (RecordType.FEEDBACK, facts.feedback_by_person),
    ):
        found = Counter((record.created_by_email or "").lower() for record in records if record.type == kind)
        assert found == expected
    moments = [record.created_at.replace(tzinfo=UTC) for record in records if record.created_at]
    assert len(moments) == len(records)
    assert facts.window_start <= min(moments) <= max(moments) <= facts.window_end


def test_the_sample_has_every_category_and_texts_of_many_kinds(tmp_path: Path) -> None:
    facts = write_sample_csv(tmp_path / "sample.csv", rows=1000)
    records, _ = load(tmp_path / "sample.csv", facts)
    categories = {(record.type, record.category) for record in records}
    assert categories == {(kind, category) for kind in RecordType for category in (*RecordCategory, None)}
    contents = [record.content for record in records]
    assert len(set(contents)) > 0.85 * len(contents)
    for mark in ("\n", '"', "東京"):
        assert any(mark in content for content in contents)
    assert not any(content == "see notes" for content in contents)
    assert any(b'"see notes"' in record.metadata_json for record in records)
    assert len(facts.people) == 7


def test_tasks_that_follow_the_guidelines_score_above_vague_ones() -> None:
    chance = Random(5)
    tasks = [task_text(chance) for _ in range(120)]
    clear = [task for task in tasks if "Background:" in task]
    vague = [task for task in tasks if "you know what I mean" in task or "asap" in task]
    medians = []
    for texts in (clear, vague):
        reports = assess_coverage([RecordText("1", text, None) for text in texts], RULES)
        medians.append(median(report.score for report in reports))
    assert medians[0] > medians[1] + 20
