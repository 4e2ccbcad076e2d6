"""What the ledger's functions take and give: chunks, claims on them, and what became of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import PipelineError
from schemas.enums import JobKind, Stage

PLAN = 0
MAX_ATTEMPTS = 5


class LeaseLostError(PipelineError):
    """Somebody else has the chunk, or the job was stopped: what was done must be rolled back."""

    code = "LEASE_LOST"


@dataclass(frozen=True)
class ChunkRef:
    """What a message carries: which chunk of which job. Number 0 is the stage's plan."""

    job_id: str
    stage: Stage
    number: int

    def __str__(self) -> str:
        return f"{self.stage} chunk {self.number} of job {self.job_id}"


@dataclass(frozen=True)
class Claim:
    """The right to work on a chunk until the lease ends, and what the work needs to know."""

    ref: ChunkRef
    kind: JobKind
    fence: int
    attempts: int
    span: Mapping[str, Any]
    record_count: int
    context: Mapping[str, Any]
    options: Mapping[str, Any]
    upload_id: str | None


@dataclass(frozen=True)
class ChunkResult:
    """What became of a chunk's records: `done`, `failed` and skipped with a reason.

    `outcomes` says it of each row of a load, as `pipeline.ingest.outcomes` packs it.
    """

    done: int
    failed: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    outcomes: bytes | None = None


@dataclass(frozen=True)
class StageTally:
    """A stage's totals after a chunk of it ended."""

    is_over: bool
    chunk_count: int
    failed_chunk_count: int
    total_count: int
    done_count: int
    failed_count: int


@dataclass(frozen=True)
class PlannedChunk:
    """A chunk to be: its span and how many records it holds."""

    span: Mapping[str, Any]
    record_count: int
