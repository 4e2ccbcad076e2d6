"""What the demo says at its end, and what must be true of it."""

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from cli.bonus import print_standings
from cli.output import console, format_seconds, print_table, shorten
from pipeline.bonus import WindowStandings
from pipeline.jobviews import JobView
from pipeline.sample import SampleFacts
from pipeline.similarity import nearest_records
from schemas.own import Alignment
from schemas.reference import DataRecord

_BAR_WIDTH = 40
_EXAMPLES = 3
_NEIGHBOURS = 2

# One question an invariant; each asks for the number of rows that break it.
_BROKEN = {
    "records without an embedding": "SELECT count(*) FROM data_records WHERE embedding = '{}'",
    "records without an analysis": (
        "SELECT count(*) FROM data_records AS record LEFT JOIN alignments ON record_id = record.id"
        ' WHERE record_id IS NULL OR "alignmentAnalysis" IS NULL'
    ),
    "identities stored twice": (
        "SELECT count(*) - count(DISTINCT (type, metadata->>'feedback_id', metadata->>'task_id'))"
        " FROM data_records"
    ),
    "chunks that are not done": "SELECT count(*) FROM work_chunks WHERE state <> 'DONE'",
}


def check_invariants(
    session: Session, facts: SampleFacts, views: list[JobView], standings: WindowStandings
) -> list[str]:
    """Hold the database against what the sample is known to hold; gives what is broken."""
    load, analysis = views
    tasks, feedback = _by_person(facts)
    stored = session.scalar(select(func.count()).select_from(DataRecord)) or 0
    expected = [
        ("totalRecords", load.total_records, facts.record_count),
        ("savedCount", load.saved_count, facts.saved_count),
        ("savedCount + skippedCount", load.saved_count + load.skipped_count, load.total_records),
        ("skippedDetails", load.skipped_details, facts.skipped),
        ("rows in data_records", stored, load.saved_count),
        ("records analyzed", analysis.processed_count, load.saved_count),
        ("tasks by person", {row.person: row.task_count for row in standings.rows}, tasks),
        ("feedback by person", {row.person: row.feedback_count for row in standings.rows}, feedback),
    ]
    faults = [f"{name} is {found}, expected {wanted}" for name, found, wanted in expected if found != wanted]
    for name, question in _BROKEN.items():
        if count := session.scalar(text(question)):
            faults.append(f"{count} {name}")
    return faults


def _by_person(facts: SampleFacts) -> tuple[dict[str, int], dict[str, int]]:
    """Give each person's tasks and feedback, zeros included."""
    tasks = {person: facts.tasks_by_person.get(person, 0) for person in facts.people}
    feedback = {person: facts.feedback_by_person.get(person, 0) for person in facts.people}
    return tasks, feedback


def print_report(session: Session, views: list[JobView], standings: WindowStandings) -> None:
    """Print what became of the sample."""
    load = views[0]
    console.rule("What became of the batch", align="left")
    console.print(
        f"{load.total_records:,} rows = {load.saved_count:,} saved + {load.skipped_count:,} skipped",
        highlight=False,
    )
    _print_bars("Skipped, by reason", sorted(load.skipped_details.items(), key=lambda item: -item[1]))
    _print_bars("Categories", _categories(session))
    _print_bars("Alignment scores", _scores(session))
    _print_neighbours(session)
    print_standings(standings)
    _print_stages(views)


def _categories(session: Session) -> list[tuple[str, int]]:
    rows = session.execute(
        select(DataRecord.type, DataRecord.category, func.count())
        .group_by(DataRecord.type, DataRecord.category)
        .order_by(DataRecord.type, DataRecord.category.nulls_last())
    )
    return [(f"{type_} {category or 'none'}", count) for type_, category, count in rows]


def _scores(session: Session) -> list[tuple[str, int]]:
    # The last bucket holds 100 too.
    bucket = func.least(func.div(Alignment.score, 10), 9)
    counts: dict[int, int] = dict(
        session.execute(select(bucket, func.count()).group_by(bucket)).tuples().all()
    )
    bounds = [(10 * number, 10 * number + 9) for number in range(9)] + [(90, 100)]
    return [(f"{low:>2}-{high:<3}", counts.get(number, 0)) for number, (low, high) in enumerate(bounds)]


def _print_bars(title: str, counts: list[tuple[str, int]]) -> None:
    console.print(f"\n[bold]{title}[/]")
    most = max((count for _, count in counts), default=0)
    width = max((len(name) for name, _ in counts), default=0)
    for name, count in counts:
        bar = "█" * round(_BAR_WIDTH * count / most) if most else ""
        console.print(f"  {name:<{width}}  [cyan]{bar:<{_BAR_WIDTH}}[/] {count:>7,}", highlight=False)


def _print_neighbours(session: Session) -> None:
    console.print("\n[bold]Nearest records[/]")
    # Spread over the batch, and the same ones in every run of the same sample.
    examples = session.execute(
        select(DataRecord.id, DataRecord.content)
        .order_by(func.md5(DataRecord.content), DataRecord.id)
        .limit(_EXAMPLES)
    ).all()
    for record in examples:
        console.print(f"  {shorten(record.content)}", highlight=False, markup=False)
        for neighbour in nearest_records(session, record.id, limit=_NEIGHBOURS):
            console.print(
                f"    {neighbour.similarity:.2f}  {shorten(neighbour.content)}", highlight=False, markup=False
            )
    console.print()


def _print_stages(views: list[JobView]) -> None:
    print_table(
        ("stage", "records", "time", "records/s"),
        (
            (stage.stage, stage.settled, format_seconds(stage.seconds), round(stage.rate or 0))
            for view in views
            for stage in view.stages
        ),
        title="How long it took",
    )
