"""The sample batch: a CSV as an operations team would export it, with everything that such files have."""

import csv
import random
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from schemas.enums import SkipReason

WINDOW_START = datetime(2026, 3, 16, tzinfo=UTC)
WINDOW_END = datetime(2026, 3, 22, 23, 59, 59, tzinfo=UTC)
KEYWORDS = ("answer", "write")

HEADER = (
    "type", "task_id", "feedback_id", "prompt", "feedback_content", "prompt_quality_rating",
    "feedback_quality_rating", "task_creator_name", "task_creator_email", "rater_name", "rater_email",
    "created_at",
)  # fmt: skip

_CONTENT = ("prompt", "feedback_content")
_PEOPLE = (
    "Ada Lovell",
    "Ben Okafor",
    "Chiara Conti",
    "Dmitri Sokol",
    "Émilie Aubry",
    "Farah Nasser",
    "Grace Lin",
)
_AUDIENCES = (
    "new employees",
    "customers",
    "engineers",
    "school children",
    "the board",
    "patients",
    "tourists",
)
_TOPICS = (
    "a delayed shipment", "the new expense policy", "a broken login page", "the history of tea",
    "safe use of ladders", "planting tomatoes on a balcony", "the moons of Jupiter", "saving for retirement",
    "choosing a bicycle", "onboarding in the first week", "the migration of storks",
    "a failed database backup",
    "how vaccines work", "a museum visit with children", "renting a flat", "the rules of chess",
)  # fmt: skip
_FORMATS = (
    "an email of 120 words", "a table with three columns", "a list of five points", "a dialogue",
    "one paragraph", "step-by-step instructions", "a headline with a short text", "a poem of eight lines",
)  # fmt: skip
_FACTS = (
    "The change takes effect on the first of next month.", "Most readers have never heard of it before.",
    "Last year there were twelve complaints about it.", "The budget is small and cannot be raised.",
    "Two colleagues disagree about the cause.", "A short summary exists but is out of date.",
)  # fmt: skip
_STRENGTHS = (
    "is clearly structured",
    "uses plain language",
    "names its sources",
    "keeps to the length that was asked for",
)
_WEAKNESSES = (
    "never says who it is for",
    "repeats the question",
    "invents a figure",
    "ends without a conclusion",
)
_ASIDES = (
    "Café, naïve, 東京 and 🚲 should stay as they are.",
    'Somebody said: "keep it short".',
    "Semicolons; commas, and all.",
)
_RATINGS = (
    "top 10%", "TOP-10", "top_10", "92%", "0.95", "5", "4.5", "selected", "bottom 10%", "0.15", "1", "2",
    "rejected", "3", "3.5", "55%", "n/a", "",
)  # fmt: skip


@dataclass(frozen=True)
class SampleFacts:
    """What a correct load of the sample finds."""

    record_count: int
    saved_count: int
    skipped: dict[str, int]
    window_start: datetime
    window_end: datetime


def write_sample_csv(path: Path, *, rows: int = 3000, seed: int = 20260323) -> SampleFacts:
    """Write a batch of `rows` records; the same seed writes the same file.

    About 3% are duplicates, 1% have no content, 1% have a field too many, 2% have none of `KEYWORDS` in them.
    """
    chance = random.Random(seed)  # noqa: S311 - a sample, no secret
    skipped: Counter[str] = Counter()
    known: list[list[str]] = []
    with path.open("w", encoding="utf-8", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow(HEADER)
        for number in range(rows):
            row, reason = _row(chance, number, known)
            writer.writerow(row)
            if number % 500 == 250:  # noqa: PLR2004 - now and then a blank line, which is no record
                sink.write("\r\n")
            if reason is None:
                known.append(row)
            else:
                skipped[reason] += 1
    return SampleFacts(rows, rows - skipped.total(), dict(skipped), WINDOW_START, WINDOW_END)


def _row(chance: random.Random, number: int, known: list[list[str]]) -> tuple[list[str], SkipReason | None]:
    row = _feedback(chance, number) if number % 3 == 2 else _task(chance, number)  # noqa: PLR2004 - every third
    lot = chance.random()
    if known and lot < 0.03:  # noqa: PLR2004 - shares as the docstring of write_sample_csv says
        return chance.choice(known), SkipReason.DUPLICATE_ID
    if lot < 0.04:  # noqa: PLR2004
        return [
            "" if name == "prompt" or "content" in name else value
            for name, value in zip(HEADER, row, strict=True)
        ], SkipReason.EMPTY_CONTENT
    if lot < 0.05:  # noqa: PLR2004
        return [*row, "one field too many"], SkipReason.MALFORMED
    if lot < 0.07:  # noqa: PLR2004
        column = HEADER.index("feedback_content" if row[0] == "feedback" else "prompt")
        row[column] = "Nothing to see here, please move along to the next one."
        return row, SkipReason.KEYWORD_MISMATCH
    return row, None


def _without_content(row: list[str]) -> list[str]:
    return ["" if name in _CONTENT else value for name, value in zip(HEADER, row, strict=True)]


def _moment(chance: random.Random) -> str:
    span = WINDOW_END - WINDOW_START
    return (WINDOW_START + timedelta(seconds=chance.randrange(int(span.total_seconds())))).isoformat()


def _person(chance: random.Random) -> tuple[str, str]:
    # Some are busier than others, so that the standings differ.
    name = _PEOPLE[min(int(chance.expovariate(0.45)), len(_PEOPLE) - 1)]
    address = f"{name.split()[0].lower()}@example.com"
    return name, address.upper() if chance.random() < 0.1 else address  # noqa: PLR2004 - spelled either way


def _task(chance: random.Random, number: int) -> list[str]:
    topic, audience = chance.choice(_TOPICS), chance.choice(_AUDIENCES)
    if chance.random() < 0.2:  # noqa: PLR2004 - as people do write tasks
        parts = [f"Write something about {topic}, you know what I mean."]
    else:
        parts = [f"Write {chance.choice(_FORMATS)} about {topic} for {audience}."]
    if chance.random() < 0.6:  # noqa: PLR2004
        parts.append(f"The goal is that {audience} understand it at once. {chance.choice(_FACTS)}")
    if chance.random() < 0.5:  # noqa: PLR2004
        parts.append(f"Background: {chance.choice(_FACTS)} {chance.choice(_FACTS)}\nKeep the language plain.")
    if chance.random() < 0.2:  # noqa: PLR2004
        parts.append(chance.choice(_ASIDES))
    name, address = _person(chance)
    rating = chance.choice(_RATINGS)
    return [
        "task",
        f"T-{number:06}",
        "",
        "\n".join(parts),
        "",
        rating,
        "",
        name,
        address,
        "",
        "",
        _moment(chance),
    ]


def _feedback(chance: random.Random, number: int) -> list[str]:
    topic = chance.choice(_TOPICS)
    parts = [f"The answer about {topic} {chance.choice(_STRENGTHS)}, which helps the reader."]
    if chance.random() < 0.7:  # noqa: PLR2004
        parts.append(f"It {chance.choice(_WEAKNESSES)}; I suggest to mend that first.")
    if chance.random() < 0.4:  # noqa: PLR2004
        parts.append(f"I rate it {chance.randrange(1, 6)} because of this sentence: {chance.choice(_FACTS)}")
    if chance.random() < 0.2:  # noqa: PLR2004
        parts.append(chance.choice(_ASIDES))
    name, address = _person(chance)
    rating = chance.choice(_RATINGS)
    task = f"T-{max(0, number - 2):06}"
    return [
        "feedback",
        task,
        f"F-{number:06}",
        "",
        "\n".join(parts),
        "",
        rating,
        "",
        "",
        name,
        address,
        _moment(chance),
    ]
