"""The eight tables of the database reference, column for column. No column is added here.

The reference says DEFAULT without NOT NULL for counters and flags; they are NOT NULL here, as the Prisma
models behind the reference make them (a counter that is null counts nothing).
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import TIMESTAMP, Enum, Float, ForeignKey, Index, String, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from schemas.auth import AuthUser
from schemas.base import Base, Cuid, UtcTimestamp
from schemas.enums import JobStatus, RecordCategory, RecordType, UserRole

USER_ROLE = Enum(UserRole, name="UserRole")
RECORD_TYPE = Enum(RecordType, name="RecordType")
RECORD_CATEGORY = Enum(RecordCategory, name="RecordCategory")

# Whose ratings are a language model's (contract.md, section 6).
LLM_USER_ID = "00000000-0000-0000-0000-000000000000"

_ZERO = text("0")
_FALSE = text("false")


class Profile(Base):
    """A user of the application; the id is that of auth.users."""

    __tablename__ = "profiles"
    __table_args__ = (Index("idx_profile_email", "email"),)

    id: Mapped[UUID] = mapped_column(ForeignKey(AuthUser.id, ondelete="CASCADE"), primary_key=True)
    email: Mapped[str] = mapped_column(String, unique=True)
    role: Mapped[UserRole] = mapped_column(USER_ROLE, server_default=UserRole.PENDING)
    must_reset_password: Mapped[bool] = mapped_column("mustResetPassword", server_default=_FALSE)
    created_at: Mapped[UtcTimestamp] = mapped_column("createdAt")
    updated_at: Mapped[UtcTimestamp] = mapped_column("updatedAt")


class Project(Base):
    """The container of records, guidelines and jobs."""

    __tablename__ = "projects"
    __table_args__ = (Index("idx_project_owner", "ownerId"),)

    id: Mapped[Cuid] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String, unique=True)
    # A project outlives its owner's account: the records belong to the team.
    owner_id: Mapped[UUID | None] = mapped_column(
        "ownerId", ForeignKey("profiles.id", ondelete="SET NULL", onupdate="CASCADE")
    )
    guidelines: Mapped[str | None] = mapped_column(Text)
    guidelines_file_name: Mapped[str | None] = mapped_column("guidelinesFileName", String)
    last_task_analysis: Mapped[str | None] = mapped_column("lastTaskAnalysis", Text)
    last_feedback_analysis: Mapped[str | None] = mapped_column("lastFeedbackAnalysis", Text)
    created_at: Mapped[UtcTimestamp] = mapped_column("createdAt")
    updated_at: Mapped[UtcTimestamp] = mapped_column("updatedAt")


def _project_fk() -> ForeignKey:
    return ForeignKey("projects.id", ondelete="CASCADE", onupdate="CASCADE")


class DataRecord(Base):
    """One task or feedback with its embedding; `[]` means that the embedding is pending."""

    __tablename__ = "data_records"
    __table_args__ = (
        Index("idx_record_project", "projectId"),
        Index("idx_record_type", "type"),
        Index("idx_record_category", "category"),
        Index("idx_record_composite", "projectId", "type", "category"),
        # Not of the reference: vectorization, deletion and listings ask for the records of one job.
        Index("idx_record_ingest_job", "ingestJobId", "id"),
        # Nor these: listings are walked in order, from wherever the page before ended (decision 0018).
        Index("idx_record_project_created", "projectId", "createdAt", "id"),
        Index("idx_record_created", "createdAt", "id"),
    )

    id: Mapped[Cuid] = mapped_column(primary_key=True)
    project_id: Mapped[Cuid] = mapped_column("projectId", _project_fk())
    type: Mapped[RecordType] = mapped_column(RECORD_TYPE)
    category: Mapped[RecordCategory | None] = mapped_column(RECORD_CATEGORY)
    source: Mapped[str] = mapped_column(String)
    content: Mapped[str] = mapped_column(Text)
    meta: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSONB)
    embedding: Mapped[list[float]] = mapped_column(
        ARRAY(Float(53)), server_default=text("'{}'::double precision[]")
    )
    alignment_analysis: Mapped[str | None] = mapped_column("alignmentAnalysis", Text)
    has_been_reviewed: Mapped[bool] = mapped_column("hasBeenReviewed", server_default=_FALSE)
    is_category_correct: Mapped[bool | None] = mapped_column("isCategoryCorrect")
    reviewed_by: Mapped[str | None] = mapped_column("reviewedBy", String)
    created_by_id: Mapped[str | None] = mapped_column("createdById", String)
    created_by_name: Mapped[str | None] = mapped_column("createdByName", String)
    created_by_email: Mapped[str | None] = mapped_column("createdByEmail", String)
    ingest_job_id: Mapped[Cuid | None] = mapped_column("ingestJobId")
    created_at: Mapped[UtcTimestamp] = mapped_column("createdAt")
    updated_at: Mapped[UtcTimestamp] = mapped_column("updatedAt")


class IngestJob(Base):
    """One batch on its way into the database, with counters that are exact at every moment."""

    __tablename__ = "ingest_jobs"
    __table_args__ = (
        Index("idx_ingest_job_project", "projectId"),
        Index("idx_ingest_job_status", "status"),
    )

    id: Mapped[Cuid] = mapped_column(primary_key=True)
    project_id: Mapped[Cuid] = mapped_column("projectId", _project_fk())
    type: Mapped[RecordType] = mapped_column(RECORD_TYPE)
    status: Mapped[str] = mapped_column(String, server_default=JobStatus.PENDING)
    total_records: Mapped[int] = mapped_column("totalRecords", server_default=_ZERO)
    saved_count: Mapped[int] = mapped_column("savedCount", server_default=_ZERO)
    skipped_count: Mapped[int] = mapped_column("skippedCount", server_default=_ZERO)
    skipped_details: Mapped[dict[str, int] | None] = mapped_column("skippedDetails", JSONB)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[UtcTimestamp] = mapped_column("createdAt")
    updated_at: Mapped[UtcTimestamp] = mapped_column("updatedAt")


class AnalyticsJob(Base):
    """One analysis of a project's records against its guidelines."""

    __tablename__ = "analytics_jobs"
    __table_args__ = (
        Index("idx_analytics_job_project", "projectId"),
        # One active analysis a project, held by the database and not by looking first.
        Index(
            "analytics_jobs_one_active",
            "projectId",
            unique=True,
            postgresql_where=text("status IN ('PENDING', 'PROCESSING')"),
        ),
    )

    id: Mapped[Cuid] = mapped_column(primary_key=True)
    project_id: Mapped[Cuid] = mapped_column("projectId", _project_fk())
    status: Mapped[str] = mapped_column(String, server_default=JobStatus.PENDING)
    total_records: Mapped[int] = mapped_column("totalRecords", server_default=_ZERO)
    processed_count: Mapped[int] = mapped_column("processedCount", server_default=_ZERO)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[UtcTimestamp] = mapped_column("createdAt")
    updated_at: Mapped[UtcTimestamp] = mapped_column("updatedAt")


class SystemSetting(Base):
    """One value of the configuration that admins change while the system runs."""

    __tablename__ = "system_settings"

    key: Mapped[str] = mapped_column(String, primary_key=True)
    value: Mapped[str] = mapped_column(String)
    description: Mapped[str | None] = mapped_column(String)
    updated_at: Mapped[UtcTimestamp] = mapped_column("updatedAt")


class BonusWindow(Base):
    """A time span with targets; bounds are inclusive."""

    __tablename__ = "bonus_windows"
    __table_args__ = (Index("idx_bonus_window_time", "startTime", "endTime"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    name: Mapped[str] = mapped_column(String, server_default="Bonus Window")
    start_time: Mapped[datetime] = mapped_column("startTime", TIMESTAMP(timezone=True))
    end_time: Mapped[datetime] = mapped_column("endTime", TIMESTAMP(timezone=True))
    target_task_count: Mapped[int] = mapped_column("targetTaskCount", server_default=_ZERO)
    target_feedback_count: Mapped[int] = mapped_column("targetFeedbackCount", server_default=_ZERO)
    target_task_count_tier2: Mapped[int] = mapped_column("targetTaskCountTier2", server_default=_ZERO)
    target_feedback_count_tier2: Mapped[int] = mapped_column("targetFeedbackCountTier2", server_default=_ZERO)
    created_by: Mapped[UUID] = mapped_column("createdBy")
    created_at: Mapped[datetime] = mapped_column(
        "createdAt", TIMESTAMP(timezone=True), server_default=text("now()")
    )
    updated_at: Mapped[datetime] = mapped_column(
        "updatedAt", TIMESTAMP(timezone=True), server_default=text("now()")
    )


class LikertScore(Base):
    """A rating of a record by a user or a model, both scores 1 to 7."""

    __tablename__ = "likert_scores"
    __table_args__ = (
        Index("idx_likert_record", "recordId"),
        Index("idx_likert_user", "userId"),
        Index("idx_likert_model", "llmModel"),
        # Not of the reference: a model rates a record once, whoever asks at the same time.
        Index(
            "likert_scores_one_per_model",
            "recordId",
            "llmModel",
            unique=True,
            postgresql_where=text(f"\"userId\" = '{LLM_USER_ID}'"),
        ),
    )

    id: Mapped[Cuid] = mapped_column(primary_key=True)
    record_id: Mapped[Cuid] = mapped_column(
        "recordId", ForeignKey("data_records.id", ondelete="CASCADE", onupdate="CASCADE")
    )
    user_id: Mapped[str] = mapped_column("userId", String)
    realism_score: Mapped[int] = mapped_column("realismScore")
    quality_score: Mapped[int] = mapped_column("qualityScore")
    llm_model: Mapped[str | None] = mapped_column("llmModel", String)
    created_at: Mapped[UtcTimestamp] = mapped_column("createdAt")
    updated_at: Mapped[UtcTimestamp] = mapped_column("updatedAt")
