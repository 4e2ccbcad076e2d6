"""Alembic revisions. Run by `pipeline.migrations`."""
