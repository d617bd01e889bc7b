"""Alembic's folder: one file per schema version, run by `schema.migrate` at open."""
