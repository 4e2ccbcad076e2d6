"""The words that rows and messages use: enums of the reference schema and of the pipeline's own tables."""

from enum import StrEnum


class UserRole(StrEnum):
    """Access levels of a profile (reference schema)."""

    PENDING = "PENDING"
    USER = "USER"
    MANAGER = "MANAGER"
    ADMIN = "ADMIN"


class RecordType(StrEnum):
    """What a record is (reference schema)."""

    TASK = "TASK"
    FEEDBACK = "FEEDBACK"


class RecordCategory(StrEnum):
    """Quality classes of a record (reference schema)."""

    TOP_10 = "TOP_10"
    BOTTOM_10 = "BOTTOM_10"


class JobStatus(StrEnum):
    """States of IngestJob; an AnalyticsJob uses those without QUEUED_FOR_VEC and VECTORIZING."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    QUEUED_FOR_VEC = "QUEUED_FOR_VEC"
    VECTORIZING = "VECTORIZING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class JobKind(StrEnum):
    """Which of the two job tables a job is in."""

    INGEST = "ingest"
    ANALYTICS = "analytics"


class Stage(StrEnum):
    """The stages a job's work is split into; each has its own queue."""

    LOAD = "load"
    VECTORIZE = "vectorize"
    COMPARE = "compare"
    ANALYZE = "analyze"


class ChunkState(StrEnum):
    """States of a row of work_chunks."""

    PENDING = "PENDING"
    LEASED = "LEASED"
    DONE = "DONE"
    FAILED = "FAILED"
    STOPPED = "STOPPED"


class SkipReason(StrEnum):
    """Why a row of a file became no record (record-rules.md)."""

    MALFORMED = "Malformed Row"
    INVALID_CHARACTERS = "Invalid Characters"
    EMPTY_CONTENT = "Empty Content"
    KEYWORD_MISMATCH = "Keyword Mismatch"
    DUPLICATE_ID = "Duplicate ID"


class UploadFormat(StrEnum):
    """What an upload's file holds."""

    CSV = "csv"
    JSON_LINES = "jsonl"


class RecordOrder(StrEnum):
    """What listings of records are in order of."""

    CREATED_AT = "createdAt"
    ALIGNMENT_SCORE = "alignmentScore"


class SortDirection(StrEnum):
    """Which end of an order comes first."""

    ASC = "asc"
    DESC = "desc"


class AnalysisScope(StrEnum):
    """Which records an analysis takes up."""

    MISSING = "missing"
    STALE = "stale"
    ALL = "all"
