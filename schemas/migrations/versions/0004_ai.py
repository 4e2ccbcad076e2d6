"""Embeddings know their model, AI servers their state, jobs their cost; near-duplicates; stored for updates.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TABLES = """
ALTER TABLE work_jobs ADD COLUMN stopping TEXT;

CREATE TABLE embedding_spaces (
    project_id TEXT NOT NULL,
    model VARCHAR NOT NULL,
    dimensions INTEGER,
    replaced_models JSONB DEFAULT '[]'::jsonb NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT embedding_spaces_pkey PRIMARY KEY (project_id),
    CONSTRAINT embedding_spaces_project_id_fkey
        FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);

CREATE TABLE record_embeddings (
    digest UUID NOT NULL,
    record_id TEXT NOT NULL,
    pieces SMALLINT DEFAULT 1 NOT NULL,
    CONSTRAINT record_embeddings_pkey PRIMARY KEY (digest, record_id)
);

CREATE TABLE ai_servers (
    url VARCHAR NOT NULL,
    paused_until TIMESTAMP WITH TIME ZONE,
    failing_since TIMESTAMP WITH TIME ZONE,
    failures INTEGER DEFAULT 0 NOT NULL,
    slots INTEGER,
    reason TEXT,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT ai_servers_pkey PRIMARY KEY (url)
);

CREATE TABLE ai_usage (
    job_id TEXT NOT NULL,
    stage VARCHAR NOT NULL,
    model VARCHAR NOT NULL,
    call_count BIGINT DEFAULT 0 NOT NULL,
    input_tokens BIGINT DEFAULT 0 NOT NULL,
    output_tokens BIGINT DEFAULT 0 NOT NULL,
    cost_usd DOUBLE PRECISION DEFAULT 0 NOT NULL,
    CONSTRAINT ai_usage_pkey PRIMARY KEY (job_id, stage, model),
    CONSTRAINT ai_usage_job_id_fkey FOREIGN KEY(job_id) REFERENCES work_jobs (job_id) ON DELETE CASCADE
);

CREATE TABLE similarity_flags (
    record_id TEXT NOT NULL,
    similar_id TEXT NOT NULL,
    similarity DOUBLE PRECISION NOT NULL,
    model VARCHAR NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT similarity_flags_pkey PRIMARY KEY (record_id, similar_id),
    CONSTRAINT similarity_flags_record_id_fkey
        FOREIGN KEY(record_id) REFERENCES data_records (id) ON DELETE CASCADE,
    CONSTRAINT similarity_flags_similar_id_fkey
        FOREIGN KEY(similar_id) REFERENCES data_records (id) ON DELETE CASCADE
);
CREATE INDEX idx_similarity_flags_similar ON similarity_flags (similar_id);

CREATE UNIQUE INDEX likert_scores_one_per_model ON likert_scores ("recordId", "llmModel")
    WHERE "userId" = '00000000-0000-0000-0000-000000000000';
"""


# As `pipeline.embeddings.digest_text` does it.
_FUNCTION = r"""
CREATE FUNCTION public.opspipe_embedding_digest(model text, content text)
RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = '' AS $$
    SELECT encode(substr(sha256(
        convert_to(model, 'UTF8') || '\x00'::bytea || convert_to(content, 'UTF8')
    ), 1, 16), 'hex')::uuid
$$;
"""

# Nearest records are found without it too, in more time: whoever may not create it does without.
_PGVECTOR = """
DO $$ BEGIN
    CREATE EXTENSION IF NOT EXISTS vector;
EXCEPTION WHEN insufficient_privilege OR undefined_file OR feature_not_supported THEN
    RAISE NOTICE 'pgvector is not used: %', SQLERRM;
END $$;
"""

# Half of each page is left for the row with its embedding: the indexes need not know that it moved.
_STORAGE = """
ALTER TABLE data_records SET (fillfactor = 50);
"""


def upgrade() -> None:
    op.execute(_TABLES)
    op.execute(_FUNCTION)
    op.execute(_STORAGE)
    op.execute(_PGVECTOR)


def downgrade() -> None:
    op.execute("""
        ALTER TABLE data_records RESET (fillfactor);
        DROP FUNCTION public.opspipe_embedding_digest(text, text);
        DROP INDEX likert_scores_one_per_model;
        DROP TABLE similarity_flags;
        DROP TABLE ai_usage;
        DROP TABLE ai_servers;
        DROP TABLE record_embeddings;
        DROP TABLE embedding_spaces;
        ALTER TABLE work_jobs DROP COLUMN stopping;
    """)
