"""Runs the store's migrations on the connection that `schema.bring_up` gives."""

from __future__ import annotations

from alembic import context

from backbench.controller.store.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
