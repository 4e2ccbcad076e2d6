"""What the tests of this folder find: people with tokens, and what belongs to them."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from pipeline.bonus import create_window
from pipeline.database import transaction
from pipeline.ledger import ChunkRef
from pipeline.projects import create_project
from pipeline.runner import run_chunk
from pipeline.tokens import create_token
from pipeline.users import create_user
from schemas.enums import Stage, UserRole
from schemas.reference import DataRecord
from tests.api.client import Client

# Rows that a spreadsheet would take for formulas, and one that becomes a record.
FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|'/c calc'!A0", '=HYPERLINK("http://x")')
_ROWS = ["id,prompt,rating", "1,tell the story of the fox,5", "2,tell the story of the owl,1"]


@dataclass(frozen=True)
class World:
    """Tokens by role, and another MANAGER's; ids of what the first MANAGER owns."""

    port: int
    tokens: dict[UserRole, str]
    stranger: str
    project_id: str
    job_id: str
    record_id: str
    window_id: str

    def known(self) -> dict[str, str]:
        """Give the ids by the names that they have in bodies, queries and paths."""
        project, job = self.project_id, self.job_id
        return {
            "projectId": project,
            "project_id": project,
            "jobId": job,
            "job_id": job,
            "ingestJobId": job,
            "recordId": self.record_id,
            "windowId": self.window_id,
        }


def make_world(port: int) -> World:
    """Make it in the database of the web server on this port."""
    # Others may have left people of the same names.
    mark = secrets.token_hex(4)
    with transaction() as session:
        tokens = {role: _sign_up(session, f"{role.lower()}-{mark}@example.org", role) for role in UserRole}
        stranger = _sign_up(session, f"stranger-{mark}@example.org", UserRole.MANAGER)[1]
        owner_id, owner = tokens[UserRole.MANAGER]
        project_id = create_project(session, f"world {mark}", owner_id=owner_id).id
        now = datetime.now(UTC)
        window = create_window(
            session,
            name=mark,
            start_time=now,
            end_time=now + timedelta(days=1),
            target_task_count=1,
            created_by=owner_id,
        )
    job_id = _load(Client(port), owner, project_id)
    with transaction() as session:
        record_id = session.scalars(select(DataRecord.id).where(DataRecord.project_id == project_id)).first()
    assert record_id is not None
    return World(
        port=port,
        tokens={role: token for role, (_, token) in tokens.items()},
        stranger=stranger,
        project_id=project_id,
        job_id=job_id,
        record_id=record_id,
        window_id=str(window.id),
    )


def _sign_up(session: Session, email: str, role: UserRole) -> tuple[UUID, str]:
    user = create_user(session, email, role)
    return user.id, create_token(session, email=email, name="t")


def _load(client: Client, token: str, project_id: str) -> str:
    client.token = token
    refused = [f'"{text.replace(chr(34), 2 * chr(34))}",,9' for text in FORMULAS]
    csv = "\r\n".join([*_ROWS, *refused])
    body = {"projectId": project_id, "type": "TASK", "csvData": csv, "generateEmbeddings": False}
    answer = client.post("/api/ingest/csv", body)
    assert answer.status == 202, answer
    refs = [ChunkRef(answer.body["jobId"], Stage.LOAD, 0)]
    while refs:
        refs.extend(run_chunk(refs.pop(0)))
    return str(answer.body["jobId"])
