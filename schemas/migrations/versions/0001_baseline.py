"""The baseline: the eight tables of the database reference and the pipeline's own.

Revision: 0001.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ENUMS = """
CREATE TYPE "UserRole" AS ENUM ('PENDING', 'USER', 'MANAGER', 'ADMIN');
CREATE TYPE "RecordType" AS ENUM ('TASK', 'FEEDBACK');
CREATE TYPE "RecordCategory" AS ENUM ('TOP_10', 'BOTTOM_10');
"""

_TABLES = """
CREATE TABLE bonus_windows (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    name VARCHAR DEFAULT 'Bonus Window' NOT NULL,
    "startTime" TIMESTAMP WITH TIME ZONE NOT NULL,
    "endTime" TIMESTAMP WITH TIME ZONE NOT NULL,
    "targetTaskCount" INTEGER DEFAULT 0 NOT NULL,
    "targetFeedbackCount" INTEGER DEFAULT 0 NOT NULL,
    "targetTaskCountTier2" INTEGER DEFAULT 0 NOT NULL,
    "targetFeedbackCountTier2" INTEGER DEFAULT 0 NOT NULL,
    "createdBy" UUID NOT NULL,
    "createdAt" TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    "updatedAt" TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT bonus_windows_pkey PRIMARY KEY (id)
);

CREATE INDEX idx_bonus_window_time ON bonus_windows ("startTime", "endTime");

CREATE TABLE guidelines_texts (
    sha256 VARCHAR(64) NOT NULL,
    text TEXT NOT NULL,
    rules JSONB NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT guidelines_texts_pkey PRIMARY KEY (sha256)
);

CREATE TABLE profiles (
    id UUID NOT NULL,
    email VARCHAR NOT NULL,
    role "UserRole" DEFAULT 'PENDING' NOT NULL,
    "mustResetPassword" BOOLEAN DEFAULT false NOT NULL,
    "createdAt" TIMESTAMP WITHOUT TIME ZONE DEFAULT (now() AT TIME ZONE 'utc') NOT NULL,
    "updatedAt" TIMESTAMP WITHOUT TIME ZONE DEFAULT (now() AT TIME ZONE 'utc') NOT NULL,
    CONSTRAINT profiles_pkey PRIMARY KEY (id),
    CONSTRAINT profiles_email_key UNIQUE (email)
);

CREATE INDEX idx_profile_email ON profiles (email);

CREATE TABLE record_identities (
    digest BYTEA NOT NULL,
    record_id TEXT NOT NULL,
    CONSTRAINT record_identities_pkey PRIMARY KEY (digest)
);

CREATE INDEX idx_record_identities_record ON record_identities (record_id);

CREATE TABLE system_settings (
    key VARCHAR NOT NULL,
    value VARCHAR NOT NULL,
    description VARCHAR,
    "updatedAt" TIMESTAMP WITHOUT TIME ZONE DEFAULT (now() AT TIME ZONE 'utc') NOT NULL,
    CONSTRAINT system_settings_pkey PRIMARY KEY (key)
);

CREATE TABLE api_tokens (
    id TEXT NOT NULL,
    profile_id UUID NOT NULL,
    name VARCHAR NOT NULL,
    sha256 VARCHAR(64) NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    revoked_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT api_tokens_pkey PRIMARY KEY (id),
    CONSTRAINT api_tokens_profile_id_fkey FOREIGN KEY(profile_id) REFERENCES profiles (id) ON DELETE CASCADE,
    CONSTRAINT api_tokens_sha256_key UNIQUE (sha256)
);

CREATE INDEX idx_api_tokens_profile_id ON api_tokens (profile_id);

CREATE TABLE bonus_standings (
    window_id UUID NOT NULL,
    person VARCHAR NOT NULL,
    name VARCHAR,
    task_count INTEGER NOT NULL,
    feedback_count INTEGER NOT NULL,
    task_progress INTEGER,
    feedback_progress INTEGER,
    task_progress_tier2 INTEGER,
    feedback_progress_tier2 INTEGER,
    tier INTEGER NOT NULL,
    CONSTRAINT bonus_standings_pkey PRIMARY KEY (window_id, person),
    CONSTRAINT bonus_standings_window_id_fkey FOREIGN KEY(window_id) REFERENCES bonus_windows (id) ON DELETE CASCADE
);

CREATE TABLE bonus_totals (
    window_id UUID NOT NULL,
    task_count INTEGER NOT NULL,
    feedback_count INTEGER NOT NULL,
    person_count INTEGER NOT NULL,
    computed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    frozen_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT bonus_totals_pkey PRIMARY KEY (window_id),
    CONSTRAINT bonus_totals_window_id_fkey FOREIGN KEY(window_id) REFERENCES bonus_windows (id) ON DELETE CASCADE
);

CREATE TABLE projects (
    id TEXT NOT NULL,
    name VARCHAR NOT NULL,
    "ownerId" UUID,
    guidelines TEXT,
    "guidelinesFileName" VARCHAR,
    "lastTaskAnalysis" TEXT,
    "lastFeedbackAnalysis" TEXT,
    "createdAt" TIMESTAMP WITHOUT TIME ZONE DEFAULT (now() AT TIME ZONE 'utc') NOT NULL,
    "updatedAt" TIMESTAMP WITHOUT TIME ZONE DEFAULT (now() AT TIME ZONE 'utc') NOT NULL,
    CONSTRAINT projects_pkey PRIMARY KEY (id),
    CONSTRAINT projects_name_key UNIQUE (name),
    CONSTRAINT "projects_ownerId_fkey" FOREIGN KEY("ownerId") REFERENCES profiles (id) ON DELETE SET NULL ON UPDATE CASCADE
);

CREATE INDEX idx_project_owner ON projects ("ownerId");

CREATE TABLE analytics_jobs (
    id TEXT NOT NULL,
    "projectId" TEXT NOT NULL,
    status VARCHAR DEFAULT 'PENDING' NOT NULL,
    "totalRecords" INTEGER DEFAULT 0 NOT NULL,
    "processedCount" INTEGER DEFAULT 0 NOT NULL,
    error TEXT,
    "createdAt" TIMESTAMP WITHOUT TIME ZONE DEFAULT (now() AT TIME ZONE 'utc') NOT NULL,
    "updatedAt" TIMESTAMP WITHOUT TIME ZONE DEFAULT (now() AT TIME ZONE 'utc') NOT NULL,
    CONSTRAINT analytics_jobs_pkey PRIMARY KEY (id),
    CONSTRAINT "analytics_jobs_projectId_fkey" FOREIGN KEY("projectId") REFERENCES projects (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE UNIQUE INDEX analytics_jobs_one_active ON analytics_jobs ("projectId") WHERE status IN ('PENDING', 'PROCESSING');
CREATE INDEX idx_analytics_job_project ON analytics_jobs ("projectId");

CREATE TABLE data_records (
    id TEXT NOT NULL,
    "projectId" TEXT NOT NULL,
    type "RecordType" NOT NULL,
    category "RecordCategory",
    source VARCHAR NOT NULL,
    content TEXT NOT NULL,
    metadata JSONB,
    embedding FLOAT(53)[] DEFAULT '{}'::double precision[] NOT NULL,
    "alignmentAnalysis" TEXT,
    "hasBeenReviewed" BOOLEAN DEFAULT false NOT NULL,
    "isCategoryCorrect" BOOLEAN,
    "reviewedBy" VARCHAR,
    "createdById" VARCHAR,
    "createdByName" VARCHAR,
    "createdByEmail" VARCHAR,
    "ingestJobId" TEXT,
    "createdAt" TIMESTAMP WITHOUT TIME ZONE DEFAULT (now() AT TIME ZONE 'utc') NOT NULL,
    "updatedAt" TIMESTAMP WITHOUT TIME ZONE DEFAULT (now() AT TIME ZONE 'utc') NOT NULL,
    CONSTRAINT data_records_pkey PRIMARY KEY (id),
    CONSTRAINT "data_records_projectId_fkey" FOREIGN KEY("projectId") REFERENCES projects (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX idx_record_category ON data_records (category);
CREATE INDEX idx_record_composite ON data_records ("projectId", type, category);
CREATE INDEX idx_record_ingest_job ON data_records ("ingestJobId", id);
CREATE INDEX idx_record_project ON data_records ("projectId");
CREATE INDEX idx_record_type ON data_records (type);

CREATE TABLE ingest_jobs (
    id TEXT NOT NULL,
    "projectId" TEXT NOT NULL,
    type "RecordType" NOT NULL,
    status VARCHAR DEFAULT 'PENDING' NOT NULL,
    "totalRecords" INTEGER DEFAULT 0 NOT NULL,
    "savedCount" INTEGER DEFAULT 0 NOT NULL,
    "skippedCount" INTEGER DEFAULT 0 NOT NULL,
    "skippedDetails" JSONB,
    error TEXT,
    "createdAt" TIMESTAMP WITHOUT TIME ZONE DEFAULT (now() AT TIME ZONE 'utc') NOT NULL,
    "updatedAt" TIMESTAMP WITHOUT TIME ZONE DEFAULT (now() AT TIME ZONE 'utc') NOT NULL,
    CONSTRAINT ingest_jobs_pkey PRIMARY KEY (id),
    CONSTRAINT "ingest_jobs_projectId_fkey" FOREIGN KEY("projectId") REFERENCES projects (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX idx_ingest_job_project ON ingest_jobs ("projectId");
CREATE INDEX idx_ingest_job_status ON ingest_jobs (status);

CREATE TABLE uploads (
    id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    file_name VARCHAR NOT NULL,
    storage_key VARCHAR NOT NULL,
    size_bytes BIGINT NOT NULL,
    sha256 VARCHAR(64) NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT uploads_pkey PRIMARY KEY (id),
    CONSTRAINT uploads_project_id_fkey FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);

CREATE INDEX idx_uploads_project_sha256 ON uploads (project_id, sha256);

CREATE TABLE alignments (
    record_id TEXT NOT NULL,
    score INTEGER NOT NULL,
    report JSONB NOT NULL,
    provider VARCHAR NOT NULL,
    llm_model VARCHAR NOT NULL,
    prompt_version VARCHAR NOT NULL,
    guidelines_sha256 VARCHAR(64) NOT NULL,
    input_tokens INTEGER,
    output_tokens INTEGER,
    cost_usd FLOAT(53),
    job_id TEXT,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT alignments_pkey PRIMARY KEY (record_id),
    CONSTRAINT alignments_score_check CHECK (score BETWEEN 0 AND 100),
    CONSTRAINT alignments_record_id_fkey FOREIGN KEY(record_id) REFERENCES data_records (id) ON DELETE CASCADE
);

CREATE INDEX idx_alignments_score ON alignments (score);

CREATE TABLE likert_scores (
    id TEXT NOT NULL,
    "recordId" TEXT NOT NULL,
    "userId" VARCHAR NOT NULL,
    "realismScore" INTEGER NOT NULL,
    "qualityScore" INTEGER NOT NULL,
    "llmModel" VARCHAR,
    "createdAt" TIMESTAMP WITHOUT TIME ZONE DEFAULT (now() AT TIME ZONE 'utc') NOT NULL,
    "updatedAt" TIMESTAMP WITHOUT TIME ZONE DEFAULT (now() AT TIME ZONE 'utc') NOT NULL,
    CONSTRAINT likert_scores_pkey PRIMARY KEY (id),
    CONSTRAINT "likert_scores_recordId_fkey" FOREIGN KEY("recordId") REFERENCES data_records (id) ON DELETE CASCADE ON UPDATE CASCADE
);

CREATE INDEX idx_likert_model ON likert_scores ("llmModel");
CREATE INDEX idx_likert_record ON likert_scores ("recordId");
CREATE INDEX idx_likert_user ON likert_scores ("userId");

CREATE TABLE work_jobs (
    job_id TEXT NOT NULL,
    ingest_job_id TEXT,
    analytics_job_id TEXT,
    upload_id TEXT,
    follows_job_id TEXT,
    options JSONB DEFAULT '{}'::jsonb NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT work_jobs_pkey PRIMARY KEY (job_id),
    CONSTRAINT work_jobs_one_job_check CHECK (num_nonnulls(ingest_job_id, analytics_job_id) = 1),
    CONSTRAINT work_jobs_same_id_check CHECK (job_id = coalesce(ingest_job_id, analytics_job_id)),
    CONSTRAINT work_jobs_follows_job_id_key UNIQUE (follows_job_id),
    CONSTRAINT work_jobs_ingest_job_id_key UNIQUE (ingest_job_id),
    CONSTRAINT work_jobs_ingest_job_id_fkey FOREIGN KEY(ingest_job_id) REFERENCES ingest_jobs (id) ON DELETE CASCADE,
    CONSTRAINT work_jobs_analytics_job_id_key UNIQUE (analytics_job_id),
    CONSTRAINT work_jobs_analytics_job_id_fkey FOREIGN KEY(analytics_job_id) REFERENCES analytics_jobs (id) ON DELETE CASCADE,
    CONSTRAINT work_jobs_upload_id_fkey FOREIGN KEY(upload_id) REFERENCES uploads (id) ON DELETE SET NULL,
    CONSTRAINT work_jobs_follows_job_id_fkey FOREIGN KEY(follows_job_id) REFERENCES work_jobs (job_id) ON DELETE SET NULL
);

CREATE TABLE record_failures (
    job_id TEXT NOT NULL,
    stage VARCHAR NOT NULL,
    record_id TEXT NOT NULL,
    code VARCHAR NOT NULL,
    message TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT record_failures_pkey PRIMARY KEY (job_id, stage, record_id),
    CONSTRAINT record_failures_job_id_fkey FOREIGN KEY(job_id) REFERENCES work_jobs (job_id) ON DELETE CASCADE,
    CONSTRAINT record_failures_record_id_fkey FOREIGN KEY(record_id) REFERENCES data_records (id) ON DELETE CASCADE
);

CREATE INDEX idx_record_failures_record_id ON record_failures (record_id);

CREATE TABLE work_stages (
    job_id TEXT NOT NULL,
    stage VARCHAR NOT NULL,
    context JSONB DEFAULT '{}'::jsonb NOT NULL,
    chunk_count INTEGER DEFAULT 0 NOT NULL,
    ended_chunk_count INTEGER DEFAULT 0 NOT NULL,
    failed_chunk_count INTEGER DEFAULT 0 NOT NULL,
    total_count BIGINT DEFAULT 0 NOT NULL,
    done_count BIGINT DEFAULT 0 NOT NULL,
    failed_count BIGINT DEFAULT 0 NOT NULL,
    queued_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    planned_at TIMESTAMP WITH TIME ZONE,
    ended_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT work_stages_pkey PRIMARY KEY (job_id, stage),
    CONSTRAINT work_stages_job_id_fkey FOREIGN KEY(job_id) REFERENCES work_jobs (job_id) ON DELETE CASCADE
);

CREATE TABLE work_chunks (
    job_id TEXT NOT NULL,
    stage VARCHAR NOT NULL,
    number INTEGER NOT NULL,
    span JSONB DEFAULT '{}'::jsonb NOT NULL,
    state VARCHAR DEFAULT 'PENDING' NOT NULL,
    fence INTEGER DEFAULT 0 NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    leased_by VARCHAR,
    leased_until TIMESTAMP WITH TIME ZONE,
    not_before TIMESTAMP WITH TIME ZONE,
    published_at TIMESTAMP WITH TIME ZONE,
    publications INTEGER DEFAULT 0 NOT NULL,
    record_count INTEGER DEFAULT 0 NOT NULL,
    done_count INTEGER DEFAULT 0 NOT NULL,
    failed_count INTEGER DEFAULT 0 NOT NULL,
    skipped JSONB DEFAULT '{}'::jsonb NOT NULL,
    error TEXT,
    started_at TIMESTAMP WITH TIME ZONE,
    ended_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT work_chunks_pkey PRIMARY KEY (job_id, stage, number),
    CONSTRAINT work_chunks_job_id_fkey FOREIGN KEY(job_id, stage) REFERENCES work_stages (job_id, stage) ON DELETE CASCADE
);

CREATE INDEX idx_work_chunks_unfinished ON work_chunks (job_id, stage, number) WHERE state IN ('PENDING', 'LEASED');
"""

# An embedding is a few kilobytes of noise: trying to compress it costs more than half the rate of writing.
_STORAGE = """
ALTER TABLE data_records ALTER COLUMN embedding SET STORAGE EXTERNAL;
"""

# A record's identity goes with the record, whoever deletes it and by whatever cascade.
_TRIGGERS = """
CREATE FUNCTION public.opspipe_forget_identities() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        -- Not TRUNCATE: the same command may be truncating both tables.
        DELETE FROM public.record_identities;
    ELSE
        DELETE FROM public.record_identities AS identity USING gone WHERE identity.record_id = gone.id;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER opspipe_forget_deleted AFTER DELETE ON data_records
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION public.opspipe_forget_identities();

CREATE TRIGGER opspipe_forget_truncated AFTER TRUNCATE ON data_records
FOR EACH STATEMENT EXECUTE FUNCTION public.opspipe_forget_identities();
"""

_MADE = (
    "bonus_windows",
    "guidelines_texts",
    "profiles",
    "record_identities",
    "system_settings",
    "api_tokens",
    "bonus_standings",
    "bonus_totals",
    "projects",
    "analytics_jobs",
    "data_records",
    "ingest_jobs",
    "uploads",
    "alignments",
    "likert_scores",
    "work_jobs",
    "record_failures",
    "work_stages",
    "work_chunks",
)


def upgrade() -> None:
    for part in (_ENUMS, _TABLES, _STORAGE, _TRIGGERS):
        op.execute(part)


def downgrade() -> None:
    for table in reversed(_MADE):
        op.execute(f'DROP TABLE "{table}"')
    op.execute("DROP FUNCTION public.opspipe_forget_identities()")
    for enum in ("RecordCategory", "RecordType", "UserRole"):
        op.execute(f'DROP TYPE "{enum}"')
