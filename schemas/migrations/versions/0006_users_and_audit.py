"""Users behind the profiles, tokens that end, the audit log, keys of requests.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Supabase has the schema and the table: they are kept as they are. What is ours says so in its comment, which
# the way back goes by.
_USERS = """
DO $$
BEGIN
    IF to_regnamespace('auth') IS NULL THEN
        CREATE SCHEMA auth;
        COMMENT ON SCHEMA auth IS 'made by opspipe';
    END IF;
    IF to_regclass('auth.users') IS NULL THEN
        CREATE TABLE auth.users (
            id UUID NOT NULL,
            email VARCHAR(255),
            encrypted_password VARCHAR(255),
            raw_user_meta_data JSONB,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now(),
            updated_at TIMESTAMP WITH TIME ZONE DEFAULT now(),
            CONSTRAINT users_pkey PRIMARY KEY (id)
        );
        COMMENT ON TABLE auth.users IS 'made by opspipe';
    END IF;
END $$;

INSERT INTO auth.users (id, email, raw_user_meta_data, created_at, updated_at)
    SELECT id, email, '{}'::jsonb, "createdAt" AT TIME ZONE 'utc', now() FROM profiles
    ON CONFLICT (id) DO NOTHING;

ALTER TABLE profiles
    ADD CONSTRAINT profiles_id_fkey FOREIGN KEY (id) REFERENCES auth.users (id) ON DELETE CASCADE;
"""

_NO_USERS = """
ALTER TABLE profiles DROP CONSTRAINT profiles_id_fkey;

DO $$
BEGIN
    IF obj_description(to_regclass('auth.users'), 'pg_class') = 'made by opspipe' THEN
        DROP TABLE auth.users;
    END IF;
    IF obj_description(to_regnamespace('auth'), 'pg_namespace') = 'made by opspipe'
        AND NOT EXISTS (
            SELECT FROM pg_depend
            WHERE refclassid = 'pg_namespace'::regclass AND refobjid = to_regnamespace('auth')
        )
    THEN
        DROP SCHEMA auth;
    END IF;
END $$;
"""

_TABLES = """
ALTER TABLE api_tokens
    ADD COLUMN expires_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN last_used_at TIMESTAMP WITH TIME ZONE;

CREATE TABLE audit_log (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    actor TEXT NOT NULL,
    actor_id UUID,
    action VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    thing_id TEXT NOT NULL,
    project_id TEXT,
    details JSONB DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT audit_log_pkey PRIMARY KEY (id)
);

CREATE INDEX idx_audit_log_actor ON audit_log (actor, id);
CREATE INDEX idx_audit_log_project ON audit_log (project_id, id);
CREATE INDEX idx_audit_log_thing ON audit_log (thing_id, id);

CREATE TABLE idempotency_keys (
    profile_id UUID NOT NULL,
    key TEXT NOT NULL,
    request_sha256 VARCHAR(64) NOT NULL,
    route VARCHAR NOT NULL,
    job_id TEXT,
    answer_status INTEGER,
    answer JSONB,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (profile_id, key),
    CONSTRAINT idempotency_keys_profile_id_fkey FOREIGN KEY(profile_id) REFERENCES profiles (id) ON DELETE CASCADE
);

CREATE INDEX idx_idempotency_keys_created_at ON idempotency_keys (created_at);
"""

# Of a statement and not of a row: one that would find nothing is refused, too. There is no setting that lets
# somebody through: only the table's owner can take the trigger away, and `opspipe db check` tells.
_TRIGGER = """
CREATE FUNCTION public.opspipe_keep_audit_log() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'insufficient_privilege',
        MESSAGE = 'the audit log is only added to: ' || TG_OP || ' is refused';
END $$;

CREATE TRIGGER opspipe_keep_audit_log BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
FOR EACH STATEMENT EXECUTE FUNCTION public.opspipe_keep_audit_log();
"""


def upgrade() -> None:
    for part in (_USERS, _TABLES, _TRIGGER):
        op.execute(part)


def downgrade() -> None:
    op.execute("""
        DROP TABLE idempotency_keys;
        DROP TABLE audit_log;
        DROP FUNCTION public.opspipe_keep_audit_log();
        ALTER TABLE api_tokens DROP COLUMN last_used_at, DROP COLUMN expires_at;
    """)
    op.execute(_NO_USERS)
