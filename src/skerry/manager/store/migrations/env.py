"""Runs the migrations on the connection that `schema.migrate` passes; there is no ini file."""

from __future__ import annotations

from alembic import context

from skerry.manager.store.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,
)
context.run_migrations()
