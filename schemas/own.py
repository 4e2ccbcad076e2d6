"""The pipeline's own tables beside the reference: the ledger of work and what results carry along."""

from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    LargeBinary,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from schemas.base import Base, CreatedMoment, Cuid, Moment

_ZERO = text("0")
_EMPTY = text("'{}'::jsonb")


class Upload(Base):
    """A file as it was submitted, kept in storage."""

    __tablename__ = "uploads"
    __table_args__ = (Index("idx_uploads_project_sha256", "project_id", "sha256"),)

    id: Mapped[Cuid] = mapped_column(primary_key=True)
    project_id: Mapped[Cuid] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    file_name: Mapped[str] = mapped_column(String)
    storage_key: Mapped[str] = mapped_column(String)
    # One of `schemas.enums.UploadFormat`.
    format: Mapped[str] = mapped_column(String, server_default="csv")
    # Where a worker is to fetch it from; size and hash are unknown until it has.
    url: Mapped[str | None] = mapped_column(String)
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[CreatedMoment]
    # When upkeep removed the file from storage; the row stays as long as its jobs do.
    removed_at: Mapped[Moment | None]


class WorkJob(Base):
    """What a job of either reference table is to do: its options, and the job that it follows."""

    __tablename__ = "work_jobs"
    __table_args__ = (
        CheckConstraint("num_nonnulls(ingest_job_id, analytics_job_id) = 1", name="one_job"),
        CheckConstraint("job_id = coalesce(ingest_job_id, analytics_job_id)", name="same_id"),
        # An ingest job is followed by one analysis, however often its last message is delivered.
        UniqueConstraint("follows_job_id"),
    )

    job_id: Mapped[Cuid] = mapped_column(primary_key=True)
    ingest_job_id: Mapped[Cuid | None] = mapped_column(
        ForeignKey("ingest_jobs.id", ondelete="CASCADE"), unique=True
    )
    analytics_job_id: Mapped[Cuid | None] = mapped_column(
        ForeignKey("analytics_jobs.id", ondelete="CASCADE"), unique=True
    )
    upload_id: Mapped[Cuid | None] = mapped_column(ForeignKey("uploads.id", ondelete="SET NULL"), index=True)
    follows_job_id: Mapped[Cuid | None] = mapped_column(ForeignKey("work_jobs.job_id", ondelete="SET NULL"))
    options: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=_EMPTY)
    # Why the job is to fail as soon as the chunks that are being worked on have kept what they have.
    stopping: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[CreatedMoment]


class WorkStage(Base):
    """One stage of a job: how much there is and how much of it is done, in records."""

    __tablename__ = "work_stages"

    job_id: Mapped[Cuid] = mapped_column(ForeignKey("work_jobs.job_id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[str] = mapped_column(String, primary_key=True)
    # What every chunk of the stage needs to know: the header and delimiter of a file, a guidelines hash.
    context: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=_EMPTY)
    chunk_count: Mapped[int] = mapped_column(server_default=_ZERO)
    ended_chunk_count: Mapped[int] = mapped_column(server_default=_ZERO)
    failed_chunk_count: Mapped[int] = mapped_column(server_default=_ZERO)
    total_count: Mapped[int] = mapped_column(BigInteger, server_default=_ZERO)
    done_count: Mapped[int] = mapped_column(BigInteger, server_default=_ZERO)
    failed_count: Mapped[int] = mapped_column(BigInteger, server_default=_ZERO)
    queued_at: Mapped[CreatedMoment]
    planned_at: Mapped[Moment | None]
    ended_at: Mapped[Moment | None]


class WorkChunk(Base):
    """The ledger: one unit of work. Number 0 of a stage is its planning, the rest are its chunks."""

    __tablename__ = "work_chunks"
    __table_args__ = (
        ForeignKeyConstraint(
            ["job_id", "stage"], ["work_stages.job_id", "work_stages.stage"], ondelete="CASCADE"
        ),
        # The sweeper looks at unfinished chunks only, however many finished ones there are.
        Index(
            "idx_work_chunks_unfinished",
            "job_id",
            "stage",
            "number",
            postgresql_where=text("state IN ('PENDING', 'LEASED')"),
        ),
    )

    job_id: Mapped[Cuid] = mapped_column(primary_key=True)
    stage: Mapped[str] = mapped_column(String, primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    # A byte range of the upload, or a range of record ids.
    span: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=_EMPTY)
    state: Mapped[str] = mapped_column(String, server_default="PENDING")
    # Counts claims for good: the claim's own number fences its completion.
    fence: Mapped[int] = mapped_column(server_default=_ZERO)
    # Claims that count against the chunk; waiting for a service that is down uses up none.
    attempts: Mapped[int] = mapped_column(server_default=_ZERO)
    leased_by: Mapped[str | None] = mapped_column(String)
    leased_until: Mapped[Moment | None]
    not_before: Mapped[Moment | None]
    published_at: Mapped[Moment | None]
    publications: Mapped[int] = mapped_column(server_default=_ZERO)
    record_count: Mapped[int] = mapped_column(server_default=_ZERO)
    done_count: Mapped[int] = mapped_column(server_default=_ZERO)
    failed_count: Mapped[int] = mapped_column(server_default=_ZERO)
    skipped: Mapped[dict[str, int]] = mapped_column(JSONB, server_default=_EMPTY)
    # Of a load: what became of each row (see `pipeline.ingest.outcomes`); null where all became records.
    outcomes: Mapped[bytes | None] = mapped_column(LargeBinary)
    error: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[Moment | None]
    ended_at: Mapped[Moment | None]


class RecordIdentity(Base):
    """Who came first: one row per (project, type, identity), so that no record is stored twice.

    Rows go with their record by a statement trigger on data_records (see the migrations): a foreign key would
    be checked once per loaded row. Records of other clients claim theirs by a row trigger.
    """

    __tablename__ = "record_identities"
    __table_args__ = (Index("idx_record_identities_record", "record_id"),)

    # The first 16 bytes of a SHA-256 over project, type and identity (see `pipeline.ingest.identity`).
    digest: Mapped[UUID] = mapped_column(primary_key=True)
    record_id: Mapped[Cuid]


class Removal(Base):
    """A job that was deleted and whose records are being removed, batch by batch."""

    __tablename__ = "removals"

    job_id: Mapped[Cuid] = mapped_column(primary_key=True)
    project_id: Mapped[Cuid] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    created_at: Mapped[CreatedMoment]
    # When somebody last worked on it or was asked to: long ago means that nobody does.
    touched_at: Mapped[CreatedMoment]


class RecordFailure(Base):
    """A record that a stage could not work on, with the reason; `retry` takes it up again."""

    __tablename__ = "record_failures"

    job_id: Mapped[Cuid] = mapped_column(ForeignKey("work_jobs.job_id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[str] = mapped_column(String, primary_key=True)
    record_id: Mapped[Cuid] = mapped_column(
        ForeignKey("data_records.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    code: Mapped[str] = mapped_column(String)
    message: Mapped[str] = mapped_column(Text)
    created_at: Mapped[CreatedMoment]


class GuidelinesText(Base):
    """The text and rules found in a guidelines PDF, kept by the PDF's hash so that it is read once."""

    __tablename__ = "guidelines_texts"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    rules: Mapped[list[str]] = mapped_column(JSONB)
    created_at: Mapped[CreatedMoment]


class Alignment(Base):
    """The score behind `alignmentAnalysis` and where it comes from."""

    __tablename__ = "alignments"
    __table_args__ = (
        CheckConstraint("score BETWEEN 0 AND 100", name="score"),
        Index("idx_alignments_score", "score", "record_id"),
    )

    record_id: Mapped[Cuid] = mapped_column(
        ForeignKey("data_records.id", ondelete="CASCADE"), primary_key=True
    )
    score: Mapped[int]
    report: Mapped[dict[str, Any]] = mapped_column(JSONB)
    provider: Mapped[str] = mapped_column(String)
    llm_model: Mapped[str] = mapped_column(String)
    prompt_version: Mapped[str] = mapped_column(String)
    guidelines_sha256: Mapped[str] = mapped_column(String(64))
    input_tokens: Mapped[int | None]
    output_tokens: Mapped[int | None]
    cost_usd: Mapped[float | None] = mapped_column(Float(53))
    job_id: Mapped[Cuid | None]
    created_at: Mapped[CreatedMoment]


class EmbeddingSpace(Base):
    """What the embeddings of a project are comparable by: one model, one number of dimensions."""

    __tablename__ = "embedding_spaces"

    project_id: Mapped[Cuid] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    model: Mapped[str] = mapped_column(String)
    # Null until the first embedding is stored.
    dimensions: Mapped[int | None]
    # The job that had everything embedded anew, because the name may mean another model since; else empty.
    generation: Mapped[str] = mapped_column(Text, server_default="")
    created_at: Mapped[CreatedMoment]


class RecordEmbedding(Base):
    """Who made a record's embedding, and of which text: a digest of both finds equal texts again.

    No foreign key: it would be checked once per embedding. A row whose record is gone or has another text by
    now is found by nobody, and upkeep removes it.
    """

    __tablename__ = "record_embeddings"

    record_id: Mapped[Cuid] = mapped_column(primary_key=True)
    # The first 16 bytes of a SHA-256 over maker and text (see `pipeline.embeddings`).
    digest: Mapped[UUID] = mapped_column(index=True)
    # More than 1 where the text was longer than the model takes and was embedded in so many pieces.
    pieces: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))


class AiServer(Base):
    """How an AI server does, as all workers see it: whether to wait, how long it has been failing."""

    __tablename__ = "ai_servers"

    url: Mapped[str] = mapped_column(String, primary_key=True)
    # Nobody calls it before this time.
    paused_until: Mapped[Moment | None]
    # When the first call failed after the last that succeeded; null while it answers.
    failing_since: Mapped[Moment | None]
    failures: Mapped[int] = mapped_column(server_default=_ZERO)
    # How many calls at a time it was found to take; null where it never refused one for that.
    slots: Mapped[int | None]
    reason: Mapped[str | None] = mapped_column(Text)
    updated_at: Mapped[CreatedMoment]


class AiUsage(Base):
    """What a job's calls of a model have used so far, also those whose results were not kept."""

    __tablename__ = "ai_usage"

    job_id: Mapped[Cuid] = mapped_column(ForeignKey("work_jobs.job_id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[str] = mapped_column(String, primary_key=True)
    model: Mapped[str] = mapped_column(String, primary_key=True)
    call_count: Mapped[int] = mapped_column(BigInteger, server_default=_ZERO)
    input_tokens: Mapped[int] = mapped_column(BigInteger, server_default=_ZERO)
    output_tokens: Mapped[int] = mapped_column(BigInteger, server_default=_ZERO)
    cost_usd: Mapped[float] = mapped_column(Float(53), server_default=_ZERO)


class SimilarityFlag(Base):
    """Two TASKs of one creator that are nearly the same: the later one, and the one that was there before."""

    __tablename__ = "similarity_flags"
    __table_args__ = (Index("idx_similarity_flags_similar", "similar_id"),)

    record_id: Mapped[Cuid] = mapped_column(
        ForeignKey("data_records.id", ondelete="CASCADE"), primary_key=True
    )
    similar_id: Mapped[Cuid] = mapped_column(
        ForeignKey("data_records.id", ondelete="CASCADE"), primary_key=True
    )
    # Cosine, -1 to 1.
    similarity: Mapped[float] = mapped_column(Float(53))
    model: Mapped[str] = mapped_column(String)
    created_at: Mapped[CreatedMoment]


class BonusStanding(Base):
    """One person's counts and tier in a bonus window."""

    __tablename__ = "bonus_standings"

    window_id: Mapped[UUID] = mapped_column(
        ForeignKey("bonus_windows.id", ondelete="CASCADE"), primary_key=True
    )
    person: Mapped[str] = mapped_column(String, primary_key=True)
    name: Mapped[str | None] = mapped_column(String)
    task_count: Mapped[int]
    feedback_count: Mapped[int]
    task_progress: Mapped[int | None]
    feedback_progress: Mapped[int | None]
    task_progress_tier2: Mapped[int | None]
    feedback_progress_tier2: Mapped[int | None]
    tier: Mapped[int]


class BonusTotal(Base):
    """A bonus window's totals, records without a person included."""

    __tablename__ = "bonus_totals"

    window_id: Mapped[UUID] = mapped_column(
        ForeignKey("bonus_windows.id", ondelete="CASCADE"), primary_key=True
    )
    task_count: Mapped[int]
    feedback_count: Mapped[int]
    person_count: Mapped[int]
    computed_at: Mapped[CreatedMoment]
    frozen_at: Mapped[Moment | None]


class ApiToken(Base):
    """A bearer token; only its SHA-256 is stored."""

    __tablename__ = "api_tokens"

    id: Mapped[Cuid] = mapped_column(primary_key=True)
    profile_id: Mapped[UUID] = mapped_column(ForeignKey("profiles.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[CreatedMoment]
    revoked_at: Mapped[Moment | None]
    # Null: it does not end by itself.
    expires_at: Mapped[Moment | None]
    # Kept coarsely (see `pipeline.tokens`).
    last_used_at: Mapped[Moment | None]


class AuditEntry(Base):
    """Who did what to which thing. Rows are only added: a trigger refuses everything else (0006).

    No foreign keys: the log outlives users, projects and jobs.
    """

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("idx_audit_log_actor", "actor", "id"),
        Index("idx_audit_log_project", "project_id", "id"),
        Index("idx_audit_log_thing", "thing_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    # When it was done, not when its transaction began.
    at: Mapped[Moment] = mapped_column(server_default=text("clock_timestamp()"))
    # An e-mail address, `cli:` and a user of the machine, or `system`.
    actor: Mapped[str] = mapped_column(Text)
    actor_id: Mapped[UUID | None]
    action: Mapped[str] = mapped_column(String)
    kind: Mapped[str] = mapped_column(String)
    thing_id: Mapped[str] = mapped_column(Text)
    project_id: Mapped[str | None] = mapped_column(Text)
    details: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=_EMPTY)


class IdempotencyKey(Base):
    """A request that named itself by a key: what it was, which job it made, and what was answered."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("idx_idempotency_keys_created_at", "created_at"),)

    profile_id: Mapped[UUID] = mapped_column(ForeignKey("profiles.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    route: Mapped[str] = mapped_column(String)
    # No foreign key: the job is in either table, and the key outlives it.
    job_id: Mapped[Cuid | None]
    # Null where the process died between the job and its answer.
    answer_status: Mapped[int | None]
    answer: Mapped[Any | None] = mapped_column(JSONB)
    created_at: Mapped[CreatedMoment]
