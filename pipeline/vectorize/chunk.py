"""One chunk of a vectorize stage: embeddings that are known copied, the others made, all written together."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import exists, select, text
from sqlalchemy.orm import Session

from pipeline import flow
from pipeline.ai import Meter, Settled, TextVector, embed_texts, metered, open_provider
from pipeline.database import retried, transaction
from pipeline.embeddings import (
    IS_PENDING,
    Digest,
    Known,
    Space,
    digest_text,
    find_embedded,
    require_model,
    require_space,
)
from pipeline.errors import TransientError
from pipeline.failures import Failure, list_failures
from pipeline.ledger import ChunkResult, Claim
from pipeline.system_settings import read_ai_config
from pipeline.vectorize.scope import Scope, read_scope
from pipeline.vectorize.write import Origin, copy_embeddings, write_embeddings
from schemas.enums import ChunkState
from schemas.own import WorkChunk

# A chunk of repeated texts looks again after this time whether the first ones are there.
_WAIT_SECONDS = 1.0

_PENDING = """
    SELECT record.id, record.content, record.xmin::text AS version FROM data_records AS record
    WHERE {condition} AND {span} AND {is_pending} ORDER BY record.id LIMIT :most
"""
_IN_RANGE = "record.id BETWEEN :first_id AND :last_id"
_IN_LIST = "record.id = ANY(:ids)"


@dataclass(frozen=True)
class _Work:
    """What a chunk found to do: its pending records, and which of their texts are embedded already.

    `versions` are the rows' `xmin`s, which tell whether a row has changed since.
    """

    scope: Scope
    space: Space
    records: Mapping[str, str]
    versions: Mapping[str, int]
    digests: Mapping[str, Digest]
    known: Known

    @property
    def copies(self) -> list[tuple[str, str, Digest]]:
        """The records whose texts are embedded already, each with the record to copy from."""
        return [
            (record_id, self.known.sources[digest], digest)
            for record_id, digest in self.digests.items()
            if digest in self.known.sources
        ]

    @property
    def new_ids(self) -> list[str]:
        """The records whose texts are to be embedded."""
        return [record_id for record_id, digest in self.digests.items() if digest not in self.known.sources]


@dataclass
class _Outcome:
    """What became of the records; those in none of these are open."""

    copied: set[str] = field(default_factory=set)
    embedded: dict[str, TextVector] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


def vectorize_chunk(held: Claim) -> None:
    """Embed one chunk and write it back; records that have an embedding by now are left alone.

    Work that is interrupted keeps what it has: the records that are left stay a chunk.

    Raises:
        LeaseLostError: another worker has the chunk, or the job was stopped; nothing was written.
        TransientError: the provider or the database is not there for the moment.
        FatalError: the provider refuses all work, or its vectors do not go with the project's.
    """
    with transaction() as session:
        config, scope = read_ai_config(session), read_scope(session, held)
        provider = open_provider(config)
        work = _find_work(session, held, scope, provider.embedding_model)
    ids = work.new_ids
    with metered(held.ref.job_id, held.ref.stage) as meter:
        settled = embed_texts(provider, [work.records[record_id] for record_id in ids])
        is_left = retried(lambda: _store(meter, held, work, settled))
    if settled.stopped_by is not None:
        raise settled.stopped_by
    if is_left:
        raise TransientError(
            "records or their project have changed while they were embedded", retry_after=0.0
        )


def _find_work(session: Session, held: Claim, scope: Scope, model: str) -> _Work:
    span = {name: held.span[name] for name in ("ids", "first_id", "last_id") if name in held.span}
    question = _PENDING.format(
        condition=scope.condition, span=_IN_LIST if "ids" in span else _IN_RANGE, is_pending=IS_PENDING
    )
    # What became pending since the plan, within a range, is nobody's of this job.
    parameters = {**scope.parameters, **span, "most": held.record_count}
    rows = session.execute(text(question), parameters).all()
    space = require_model(session, scope.project_id, model)
    records = {row.id: row.content for row in rows}
    digests = {record_id: digest_text(space.maker, content) for record_id, content in records.items()}
    texts = {digests[record_id]: content for record_id, content in records.items()}
    known = find_embedded(session, texts, dimensions=space.dimensions)
    if held.span.get("is_repeated") and len(known.sources) < len(texts):
        _wait_for_first_texts(session, held)
    return _Work(scope, space, records, {row.id: int(row.version) for row in rows}, digests, known)


def _wait_for_first_texts(session: Session, held: Claim) -> None:
    """Leave repeated texts until the chunks that embed their first occurrences have ended.

    Raises:
        TransientError: they have not.
    """
    is_under_way = select(
        exists().where(
            WorkChunk.job_id == held.ref.job_id,
            WorkChunk.stage == held.ref.stage,
            WorkChunk.state.in_([ChunkState.PENDING, ChunkState.LEASED]),
            ~WorkChunk.span.has_key("is_repeated"),
        )
    )
    if session.scalar(is_under_way):
        raise TransientError(
            "the texts that these records repeat are being embedded", retry_after=_WAIT_SECONDS
        )


def _store(meter: Meter, held: Claim, work: _Work, settled: Settled[TextVector]) -> bool:
    """Store what was found, in one transaction; tells whether records are left to be worked on."""
    with meter.transaction() as session:
        return _keep(session, held, work, settled)


def _keep(session: Session, held: Claim, work: _Work, settled: Settled[TextVector]) -> bool:
    flow.hold_project(session, work.scope.project_id)
    ids = work.new_ids
    outcome = _Outcome(
        embedded={ids[place]: found for place, found in settled.results.items()},
        failures=[Failure(ids[place], error) for place, error in settled.failures.items()],
    )
    dimensions = next((len(found.vector) for found in outcome.embedded.values()), work.known.dimensions)
    if dimensions is not None and (outcome.embedded or work.copies):
        if not require_space(session, work.scope.project_id, work.space, dimensions):
            return True
        outcome.copied = copy_embeddings(session, work.copies, dimensions=dimensions)
        for record_id in _write(session, work, outcome.embedded):
            del outcome.embedded[record_id]
    return _finish(session, held, work, settled, outcome)


def _write(session: Session, work: _Work, embedded: Mapping[str, TextVector]) -> set[str]:
    if not embedded:
        return set()
    origins = [
        Origin(record_id, work.versions[record_id], work.digests[record_id], found.pieces)
        for record_id, found in embedded.items()
    ]
    vectors = [found.vector for found in embedded.values()]
    return write_embeddings(session, origins, vectors, maker=work.space.maker)


def _finish(
    session: Session, held: Claim, work: _Work, settled: Settled[TextVector], outcome: _Outcome
) -> bool:
    flow.lock_running(session, held)
    failed = list_failures(session, held, outcome.failures)
    open_ids = _open_ids(work, outcome)
    if settled.stopped_by is None and not open_ids:
        # Records that vanished or were embedded by another client meanwhile are settled too.
        flow.finish_chunk(session, held, ChunkResult(done=held.record_count - failed, failed=failed))
        return False
    settled_ids = [record_id for record_id in work.records if record_id not in open_ids]
    if settled_ids:
        done = max(held.record_count - len(open_ids) - failed, 0)
        flow.finish_part(
            session, held, ChunkResult(done=done, failed=failed), settled_ids=settled_ids, open_ids=open_ids
        )
    return True


def _open_ids(work: _Work, outcome: _Outcome) -> list[str]:
    settled = outcome.copied | outcome.embedded.keys() | {failure.record_id for failure in outcome.failures}
    return [record_id for record_id in work.records if record_id not in settled]
