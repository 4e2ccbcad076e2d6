"""Removals say when somebody last worked on them; the jobs of an upload are found by an index.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        ALTER TABLE removals ADD COLUMN touched_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL;
        CREATE INDEX idx_work_jobs_upload_id ON work_jobs (upload_id);
    """)


def downgrade() -> None:
    op.execute("""
        DROP INDEX idx_work_jobs_upload_id;
        ALTER TABLE removals DROP COLUMN touched_at;
    """)
