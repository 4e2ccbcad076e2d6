"""The sample batch: a CSV as an operations team would export it, with everything that such files have."""

import csv
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from pipeline.sample.texts import KEYWORDS, feedback_text, happens, slightly_changed, task_text
from pipeline.sample.topics import NOTES, STRAYS
from schemas.enums import SkipReason

__all__ = ["HEADER", "KEYWORDS", "WINDOW_END", "WINDOW_START", "SampleFacts", "write_sample_csv"]

WINDOW_START = datetime(2026, 3, 16, tzinfo=UTC)
WINDOW_END = datetime(2026, 3, 22, 23, 59, 59, tzinfo=UTC)

HEADER = (
    "type", "task_id", "feedback_id", "prompt", "feedback_content", "prompt_quality_rating",
    "feedback_quality_rating", "task_creator_name", "task_creator_email", "rater_name", "rater_email",
    "created_at", "notes",
)  # fmt: skip
_PEOPLE = (
    "Ada Lovell",
    "Ben Okafor",
    "Chiara Conti",
    "Dmitri Sokol",
    "Émilie Aubry",
    "Farah Nasser",
    "Grace Lin",
)
_RATINGS = (
    "top 10%", "TOP-10", "top_10", "92%", "0.95", "5", "4.5", "selected", "bottom 10%", "0.15", "1", "2",
    "rejected", "3", "3.5", "55%", "n/a", "",
)  # fmt: skip

# What is wrong with which row of every hundred. A schedule and no lot: the smallest batch has all of it.
_FAULTS = {
    20: SkipReason.KEYWORD_MISMATCH,
    31: SkipReason.DUPLICATE_ID,
    44: SkipReason.EMPTY_CONTENT,
    62: SkipReason.DUPLICATE_ID,
    75: SkipReason.MALFORMED,
    88: SkipReason.KEYWORD_MISMATCH,
    93: SkipReason.DUPLICATE_ID,
}
# A blank line follows this row of every five hundred.
_BLANK_LINE = 250
# How far back a repeated row lies at most: the sample is written in the memory of so many rows.
_REMEMBERED = 500

_Row = dict[str, str]


@dataclass(frozen=True)
class SampleFacts:
    """What a correct load of the sample with `keywords` finds.

    The counts a person are those of the saved records; a person is a lower-cased e-mail address.
    """

    record_count: int
    saved_count: int
    skipped: dict[str, int]
    window_start: datetime
    window_end: datetime
    keywords: tuple[str, ...]
    tasks_by_person: dict[str, int]
    feedback_by_person: dict[str, int]

    @property
    def people(self) -> tuple[str, ...]:
        """Everybody who has a saved record, in the order of the alphabet."""
        return tuple(sorted(self.tasks_by_person.keys() | self.feedback_by_person.keys()))


def write_sample_csv(path: Path, *, rows: int = 3000, seed: int = 20260323) -> SampleFacts:
    """Write a batch of `rows` records; the same seed writes the same file.

    Of every hundred three are duplicates, two have none of `KEYWORDS` in them, one has no content and one a
    field too many.
    """
    chance = Random(seed)  # noqa: S311 - a sample, no secret
    skipped: Counter[str] = Counter()
    by_person: dict[str, Counter[str]] = {"task": Counter(), "feedback": Counter()}
    known: deque[_Row] = deque(maxlen=_REMEMBERED)
    with path.open("w", encoding="utf-8", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow(HEADER)
        for number in range(rows):
            row, fault = _row(chance, number, known), _FAULTS.get(number % 100)
            writer.writerow(_fields(chance, row, fault, known))
            if number % 500 == _BLANK_LINE:
                sink.write("\r\n")
            if fault is None:
                known.append(row)
                by_person[row["type"]][_address(row).lower()] += 1
            else:
                skipped[fault] += 1
    return SampleFacts(
        record_count=rows,
        saved_count=rows - skipped.total(),
        skipped=dict(skipped),
        window_start=WINDOW_START,
        window_end=WINDOW_END,
        keywords=KEYWORDS,
        tasks_by_person=dict(by_person["task"]),
        feedback_by_person=dict(by_person["feedback"]),
    )


def _fields(chance: Random, row: _Row, fault: SkipReason | None, known: deque[_Row]) -> list[str]:
    content = _content_column(row)
    if fault is SkipReason.DUPLICATE_ID:
        row = chance.choice(known)
    elif fault is SkipReason.KEYWORD_MISMATCH:
        row = row | {content: chance.choice(STRAYS), "notes": ""}
    elif fault is SkipReason.EMPTY_CONTENT:
        # Nothing else may be long, or it would take the content's place.
        row = row | {content: "", "notes": ""}
    fields = list(row.values())
    return [*fields, "one field too many"] if fault is SkipReason.MALFORMED else fields


def _row(chance: Random, number: int, known: deque[_Row]) -> _Row:
    kind = "feedback" if number % 3 == 2 else "task"  # noqa: PLR2004 - every third
    row = dict.fromkeys(HEADER, "") | {"type": kind, "task_id": f"T-{number:06}"}
    name, address = _person(chance)
    if kind == "task":
        row |= {"prompt": task_text(chance), "prompt_quality_rating": chance.choice(_RATINGS)}
        row |= {"task_creator_name": name, "task_creator_email": address}
    else:
        row |= {"task_id": f"T-{number - 2:06}", "feedback_id": f"F-{number:06}"}
        row |= {"feedback_content": feedback_text(chance), "feedback_quality_rating": chance.choice(_RATINGS)}
        row |= {"rater_name": name, "rater_email": address}
    row |= {"created_at": _moment(chance), "notes": chance.choice(NOTES)}
    return _with_oddities(chance, row, known)


def _with_oddities(chance: Random, row: _Row, known: deque[_Row]) -> _Row:
    """Make some rows near-duplicates of earlier ones, and write some texts into the wrong column."""
    content = _content_column(row)
    if known and happens(chance, 0.03):
        earlier = chance.choice(known)
        text = earlier[_content_column(earlier)]
        if earlier["type"] == row["type"] and not text.startswith("see notes"):
            row[content] = slightly_changed(chance, text)
    elif happens(chance, 0.01):
        row |= {content: "see notes", "notes": row[content]}
    return row


def _content_column(row: _Row) -> str:
    return "prompt" if row["type"] == "task" else "feedback_content"


def _address(row: _Row) -> str:
    return row["task_creator_email"] or row["rater_email"]


def _moment(chance: Random) -> str:
    seconds = chance.randrange(int((WINDOW_END - WINDOW_START).total_seconds()))
    moment = WINDOW_START + timedelta(seconds=seconds)
    spellings = (
        moment.isoformat(),
        moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        moment.strftime("%Y-%m-%d %H:%M:%S"),
        str(int(moment.timestamp())),
    )
    return chance.choices(spellings, (70, 15, 10, 5))[0]


def _person(chance: Random) -> tuple[str, str]:
    # Some are busier than others, so that the standings differ.
    name = _PEOPLE[min(int(chance.expovariate(0.45)), len(_PEOPLE) - 1)]
    address = f"{name.split()[0].lower()}@example.com"
    return name, address.upper() if happens(chance, 0.1) else address
