"""Listings of records are walked in order by indexes.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE INDEX idx_record_project_created ON data_records ("projectId", "createdAt", id);
        CREATE INDEX idx_record_created ON data_records ("createdAt", id);
        DROP INDEX idx_alignments_score;
        CREATE INDEX idx_alignments_score ON alignments (score, record_id);
    """)


def downgrade() -> None:
    op.execute("""
        DROP INDEX idx_alignments_score;
        CREATE INDEX idx_alignments_score ON alignments (score);
        DROP INDEX idx_record_created;
        DROP INDEX idx_record_project_created;
    """)
