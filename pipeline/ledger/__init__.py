"""The ledger: who works on which chunk, with what outcome. The truth about work; the broker only hints at it.

A chunk is claimed in a short transaction, which hands out a fence number; its completion names that number
and is refused if another claim came after it. What a stage does and what follows it is not known here.
"""

from pipeline.ledger.claims import claim, look_again, release, renew
from pipeline.ledger.conditions import is_expired
from pipeline.ledger.outcomes import complete, give_up, split_off
from pipeline.ledger.publication import count_room, find_small, take_unpublished
from pipeline.ledger.stages import open_stage, record_plan
from pipeline.ledger.stopping import begin_stop, stop_job, stop_reason
from pipeline.ledger.work import (
    MAX_ATTEMPTS,
    PLAN,
    ChunkRef,
    ChunkResult,
    Claim,
    LeaseLostError,
    PlannedChunk,
    StageTally,
)

__all__ = [
    "MAX_ATTEMPTS",
    "PLAN",
    "ChunkRef",
    "ChunkResult",
    "Claim",
    "LeaseLostError",
    "PlannedChunk",
    "StageTally",
    "begin_stop",
    "claim",
    "complete",
    "count_room",
    "find_small",
    "give_up",
    "is_expired",
    "look_again",
    "open_stage",
    "record_plan",
    "release",
    "renew",
    "split_off",
    "stop_job",
    "stop_reason",
    "take_unpublished",
]
