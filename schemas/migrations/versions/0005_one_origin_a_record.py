"""A record's embedding has one origin, and a project's embeddings a generation.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        ALTER TABLE embedding_spaces
            DROP COLUMN replaced_models,
            ADD COLUMN generation TEXT DEFAULT '' NOT NULL;
        -- Of several origins nobody knows the right one: such a record is embedded anew when asked for.
        DELETE FROM record_embeddings AS known USING record_embeddings AS other
            WHERE other.record_id = known.record_id AND other.digest <> known.digest;
        ALTER TABLE record_embeddings
            DROP CONSTRAINT record_embeddings_pkey,
            ADD CONSTRAINT record_embeddings_pkey PRIMARY KEY (record_id);
        CREATE INDEX idx_record_embeddings_digest ON record_embeddings (digest);
    """)


def downgrade() -> None:
    op.execute("""
        DROP INDEX idx_record_embeddings_digest;
        ALTER TABLE record_embeddings
            DROP CONSTRAINT record_embeddings_pkey,
            ADD CONSTRAINT record_embeddings_pkey PRIMARY KEY (digest, record_id);
        ALTER TABLE embedding_spaces
            DROP COLUMN generation,
            ADD COLUMN replaced_models JSONB DEFAULT '[]'::jsonb NOT NULL;
    """)
