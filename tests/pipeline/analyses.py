"""Starting analyses and looking at what they left, for the tests of the analyze stage."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.analyze import start_analysis
from pipeline.database import transaction
from pipeline.jobs import retry_job
from pipeline.jobviews import JobView, view_job
from pipeline.ledger import ChunkRef
from pipeline.projects import ProjectRef
from pipeline.runner import publish_next, run_chunk
from schemas.options import AnalysisOptions
from tests.ai_server import AiServer

Load = Callable[[str], None]
Row = Mapping[str, Any]
ALIGNMENT = {"score": 70, "summary": "It is good.", "analysis": "It obeys.", "suggestions": ["Be shorter."]}
RATING = {"realism": 5, "quality": 6}


def csv_of(texts: Iterable[str]) -> str:
    """Write a batch with a record for each text."""
    return "prompt\n" + "".join(f"{entry}\n" for entry in texts)


def stories(count: int) -> str:
    """Write a batch of so many records."""
    return csv_of(f"write the story number {number} now" for number in range(count))


def story_of(said: str) -> int:
    """Tell which of the stories a prompt is about."""
    return int(said.split("write the story number ")[1].split(" ", maxsplit=1)[0])


def start(session: Session, project: ProjectRef, **options: object) -> ChunkRef:
    """Put an analysis on the ledger; gives its plan."""
    plan = start_analysis(session, project.id, AnalysisOptions.model_validate(options)).plan
    session.commit()
    return plan


def work(refs: Iterable[ChunkRef]) -> None:
    """Work on chunks and on what they publish."""
    waiting = list(refs)
    while waiting:
        waiting.extend(run_chunk(waiting.pop(0)))


def analyze(session: Session, project: ProjectRef, **options: object) -> JobView:
    """Analyze a project in this process."""
    plan = start(session, project, **options)
    work([plan])
    return view(plan.job_id)


def retry(job_id: str, *, budget_usd: float | None = None) -> JobView:
    """Take up a job again and work on it."""
    with transaction() as session:
        retry_job(session, job_id, budget_usd=budget_usd)
    work(publish_next(job_id, 10))
    return view(job_id)


def view(job_id: str) -> JobView:
    """Look at a job."""
    with transaction() as session:
        return view_job(session, job_id)


def rows(session: Session, statement: str) -> list[Row]:
    """Ask the database as it is now."""
    session.rollback()
    return [dict(row) for row in session.execute(text(statement)).mappings()]


def number_of(session: Session, table: str) -> int:
    """Count a table's rows."""
    return int(rows(session, f"SELECT count(*) AS number FROM {table}")[0]["number"])  # noqa: S608 - a constant


def is_rating(said: str) -> bool:
    """Tell whether a prompt asks for a rating."""
    return "two scales" in said


def answer_well(said: str) -> str:
    """Answer as asked, always the same."""
    return orjson.dumps(RATING if is_rating(said) else ALIGNMENT).decode()


def take_the_credit_after(server: AiServer, count: int) -> None:
    """Let a server answer so many questions more, and then say that nobody pays for any."""
    last = server.seen.chats + count

    def chat(said: str) -> str:
        if server.seen.chats >= last:
            server.behaviour.is_without_credit = True
        return answer_well(said)

    server.behaviour.chat = chat
