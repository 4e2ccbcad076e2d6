"""A large file to load: rows of about 1.25 KB in 12 columns, 2% of them with an identity that came before.

python benchmarks/make_rows.py 200000 > rows.csv
"""

import csv
import random
import sys

HEADER = (
    "task_id", "prompt", "prompt_quality_rating", "task_creator_name", "task_creator_email", "created_at",
    "project", "language", "difficulty", "notes", "reviewer", "context",
)  # fmt: skip
WORDS = (
    "answer", "audience", "background", "budget", "clear", "customer", "deadline", "delivery", "detail",
    "example", "format", "goal", "language", "length", "market", "number", "order", "paragraph", "plan",
    "policy", "question", "reader", "reason", "report", "result", "review", "rule", "sentence", "source",
    "step", "summary", "table", "task", "team", "text", "title", "topic", "update", "user", "value", "week",
)  # fmt: skip


def main(count: int, seed: int = 7) -> None:
    """Write `count` rows to stdout; the same seed writes the same file."""
    chance = random.Random(seed)  # noqa: S311 - a sample, no secret
    text = " ".join(chance.choices(WORDS, k=400_000))
    writer = csv.writer(sys.stdout)
    writer.writerow(HEADER)
    for number in range(count):
        start = chance.randrange(len(text) - 2_000)
        identity = chance.randrange(number) if number and chance.random() < 0.02 else number  # noqa: PLR2004
        person = chance.randrange(200)
        writer.writerow([
            f"T-{identity:09}",
            f'{text[start : start + 640]}\n"quoted", {number}',
            chance.choice(("top 10%", "3", "0.15", "4.5", "n/a")),
            f"Person {person}",
            f"person{person}@example.com",
            f"2026-03-{chance.randrange(1, 29):02}T{chance.randrange(24):02}:15:00Z",
            "alpha",
            "en",
            chance.randrange(1, 6),
            text[start + 640 : start + 800],
            f"reviewer{person % 20}",
            text[start + 800 : start + 1_130],
        ])  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]))
