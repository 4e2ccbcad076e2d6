"""A diagnosis of every part, with what to do about it."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import func, select, text

from pipeline.database import get_engine, transaction
from pipeline.migrations import check as check_drift
from pipeline.settings import get_settings
from pipeline.system_settings import read_ai_config
from schemas.enums import ChunkState
from schemas.own import WorkChunk

_LOW_DISK_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """What was found about one part."""

    part: str
    is_well: bool
    message: str


def diagnose(count_workers: Callable[[], int]) -> list[Finding]:
    """Look at every part. A part that fails to answer is a finding and not an error.

    Args:
        count_workers: asks the broker how many workers answer.
    """
    checks: list[tuple[str, Callable[[], tuple[bool, str]]]] = [
        ("database", _database),
        ("schema", _schema),
        ("broker", lambda: _workers(count_workers)),
        ("ledger", _ledger),
        ("provider", _provider),
        ("storage", _storage),
    ]
    return [_look(part, check) for part, check in checks]


def _look(part: str, check: Callable[[], tuple[bool, str]]) -> Finding:
    try:
        is_well, message = check()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a part is what is being asked
        return Finding(part, is_well=False, message=f"{type(error).__name__}: {error}".split("\n", 1)[0])
    return Finding(part, is_well, message)


def _database() -> tuple[bool, str]:
    with transaction() as session:
        version = session.scalar(text("SHOW server_version"))
        size = session.scalar(text("SELECT pg_size_pretty(pg_database_size(current_database()))"))
    where = "given by OPSPIPE_DATABASE_URL" if get_settings().database_url else "embedded"
    return True, f"PostgreSQL {version}, {size}, {where}"


def _schema() -> tuple[bool, str]:
    drift = check_drift(get_engine())
    if not drift:
        return True, "as the models say"
    return False, f"{len(drift)} differences, the first: {drift[0]}. `opspipe db check` lists all"


def _workers(count_workers: Callable[[], int]) -> tuple[bool, str]:
    count = count_workers()
    if count == 0:
        return False, "reached, but no worker answers: start some with `opspipe up`"
    return True, f"reached, {count} workers answer"


def _ledger() -> tuple[bool, str]:
    with transaction() as session:
        rows = session.execute(
            select(WorkChunk.state, func.count().label("total"))
            .where(WorkChunk.state.in_([ChunkState.PENDING, ChunkState.LEASED]))
            .group_by(WorkChunk.state)
        )
        counts = {row.state: int(row.total) for row in rows}
        stuck = session.execute(
            select(WorkChunk.job_id, WorkChunk.error)
            .where(WorkChunk.state == ChunkState.PENDING, WorkChunk.error.is_not(None))
            .limit(1)
        ).first()
    leased, pending = (counts.get(state, 0) for state in (ChunkState.LEASED, ChunkState.PENDING))
    message = f"{leased} chunks being worked on, {pending} waiting"
    if stuck is None:
        return True, message
    return False, f"{message}; job {stuck.job_id} waits because: {stuck.error}"


def _provider() -> tuple[bool, str]:
    with transaction() as session:
        ai = read_ai_config(session)
    return True, f"{ai.provider}; `opspipe settings test` calls its models"


def _storage() -> tuple[bool, str]:
    folder = get_settings().uploads_folder
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    message = f"{free / 1024**3:,.1f} GiB free in {folder}"
    if free < _LOW_DISK_BYTES:
        return False, f"{message}: make room, uploads and the database need it"
    return True, message
