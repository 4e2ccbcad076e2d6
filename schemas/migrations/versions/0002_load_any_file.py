"""Identities of other clients' records, outcomes of rows, uploads fetched by URL, removals.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Fixed length: half the work of a bytea to compare, and no header to store.
_DIGESTS = """
ALTER TABLE record_identities ALTER COLUMN digest TYPE uuid USING encode(digest, 'hex')::uuid;
"""

_COLUMNS = """
ALTER TABLE work_chunks ADD COLUMN outcomes BYTEA;

ALTER TABLE uploads ALTER COLUMN size_bytes DROP NOT NULL;
ALTER TABLE uploads ALTER COLUMN sha256 DROP NOT NULL;
ALTER TABLE uploads ADD COLUMN format VARCHAR DEFAULT 'csv' NOT NULL;
ALTER TABLE uploads ADD COLUMN url VARCHAR;
ALTER TABLE uploads ADD COLUMN removed_at TIMESTAMP WITH TIME ZONE;

CREATE TABLE removals (
    job_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT removals_pkey PRIMARY KEY (job_id),
    CONSTRAINT removals_project_id_fkey FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);
"""

# The identity that the record rules find in a record's metadata, as `pipeline.ingest.identity` digests it.
# The white space is that of Python's str.strip.
_FUNCTION = r"""
CREATE FUNCTION public.opspipe_identity(project_id text, kind public."RecordType", metadata jsonb)
RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE SET search_path = '' AS $$
    SELECT encode(substr(sha256(
        convert_to(project_id, 'UTF8') || '\x00'::bytea || convert_to(kind::text, 'UTF8')
        || '\x00'::bytea || convert_to(field.value, 'UTF8')
    ), 1, 16), 'hex')::uuid
    FROM (
        SELECT
            array_position(
                CASE kind
                    WHEN 'TASK' THEN ARRAY['task_id', 'id', 'uuid', 'record_id', 'task_key']
                    ELSE ARRAY['feedback_id', 'id', 'uuid', 'record_id']
                END,
                translate(lower(btrim(entry.key, space.characters)), ' -', '__')
            ) AS rank,
            btrim(entry.value, space.characters) AS value
        FROM
            (SELECT E'\t\n\x0b\f\r\x1c\x1d\x1e\x1f \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005'
                '\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000' AS characters) AS space,
            jsonb_each_text(CASE jsonb_typeof(metadata) WHEN 'object' THEN metadata ELSE '{}' END) AS entry
    ) AS field
    WHERE field.rank IS NOT NULL AND field.value <> ''
    ORDER BY field.rank
    LIMIT 1
$$;
"""

# Records that another client of the database writes claim their identity too. A load has claimed those of
# its records before it copies them and says so with a setting, which costs it less than a function call a row.
_TRIGGERS = """
CREATE FUNCTION public.opspipe_claim_identity() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    claimed uuid := public.opspipe_identity(NEW."projectId", NEW.type, NEW.metadata);
BEGIN
    IF TG_OP = 'UPDATE' THEN
        -- An identity that a load took from a mapped column is none of these and stays.
        DELETE FROM public.record_identities
        WHERE record_id = OLD.id AND digest = public.opspipe_identity(OLD."projectId", OLD.type, OLD.metadata);
    END IF;
    IF claimed IS NOT NULL THEN
        INSERT INTO public.record_identities (digest, record_id) VALUES (claimed, NEW.id)
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER opspipe_claim_inserted AFTER INSERT ON data_records FOR EACH ROW
WHEN (current_setting('opspipe.loading', true) IS DISTINCT FROM 'on')
EXECUTE FUNCTION public.opspipe_claim_identity();

CREATE TRIGGER opspipe_claim_updated AFTER UPDATE OF metadata, type, "projectId" ON data_records FOR EACH ROW
WHEN ((OLD.metadata, OLD.type, OLD."projectId") IS DISTINCT FROM (NEW.metadata, NEW.type, NEW."projectId"))
EXECUTE FUNCTION public.opspipe_claim_identity();

ALTER FUNCTION public.opspipe_forget_identities() SECURITY DEFINER;

-- Of records that were there before, the earliest with an identity has it.
INSERT INTO record_identities (digest, record_id)
SELECT digest, id FROM (
    SELECT public.opspipe_identity("projectId", type, metadata) AS digest, id, "createdAt" FROM data_records
) AS found
WHERE digest IS NOT NULL
ORDER BY "createdAt", id
ON CONFLICT DO NOTHING;
"""


def upgrade() -> None:
    for part in (_DIGESTS, _COLUMNS, _FUNCTION, _TRIGGERS):
        op.execute(part)


def downgrade() -> None:
    op.execute("""
        ALTER FUNCTION public.opspipe_forget_identities() SECURITY INVOKER;
        DROP TRIGGER opspipe_claim_updated ON data_records;
        DROP TRIGGER opspipe_claim_inserted ON data_records;
        DROP FUNCTION public.opspipe_claim_identity();
        DROP FUNCTION public.opspipe_identity(text, "RecordType", jsonb);
        DROP TABLE removals;
        -- The revision before knows no upload that is still to be fetched.
        DELETE FROM uploads WHERE sha256 IS NULL;
        ALTER TABLE uploads DROP COLUMN removed_at, DROP COLUMN url, DROP COLUMN format;
        ALTER TABLE uploads ALTER COLUMN sha256 SET NOT NULL;
        ALTER TABLE uploads ALTER COLUMN size_bytes SET NOT NULL;
        ALTER TABLE work_chunks DROP COLUMN outcomes;
        ALTER TABLE record_identities ALTER COLUMN digest TYPE bytea USING decode(replace(digest::text, '-', ''), 'hex');
    """)
