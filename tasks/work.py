"""Working on a chunk, and publishing what comes next."""

import logging
from functools import partial

from pipeline.courtesy import giving_way
from pipeline.errors import TransientError
from pipeline.ledger import PLAN, ChunkRef
from pipeline.runner import find_small, run_chunk
from tasks.publish import publish

log = logging.getLogger(__name__)


def work_on(ref: ChunkRef) -> None:
    """Work on a chunk and publish what comes next; small jobs that wait meanwhile are let in between."""
    with giving_way(partial(_let_in, ref)):
        _work_on(ref)


def _work_on(ref: ChunkRef) -> None:
    """Work on a chunk; who has planned a stage begins it, too.

    Else a small job would wait on the queue twice, for its plan and for its only chunk.
    """
    refs = run_chunk(ref)
    if ref.number == PLAN and refs and refs[0].stage is ref.stage:
        first = refs.pop(0)
        publish(refs)
        refs = run_chunk(first)
    publish(refs)


def _let_in(beside: ChunkRef) -> None:
    try:
        small = find_small(beside)
        if small is not None:
            _work_on(small)
    except TransientError as error:
        # The database is busy or away: whoever waits goes on waiting, and this chunk finds out for itself.
        log.warning("no small job is let in: %s", error)
