"""Brings a store's SQLite file to today's tables, and refuses one that is newer."""

from __future__ import annotations

from importlib.resources import files

from sqlalchemy import Engine, inspect, text

from backbench.domain.errors import StoreUnusable

HEAD = "0005"
"""The newest migration; a test compares it with the scripts."""


def bring_up(engine: Engine) -> None:
    """Run the migrations that are missing. Alembic is imported only when there are any. Raises StoreUnusable."""
    revision = current_revision(engine)
    if revision == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option(
        "script_location", str(files("backbench.controller.store") / "migrations").replace("%", "%%")
    )
    try:
        with engine.begin() as connection:
            # By itself sqlite3 commits every CREATE TABLE: a kill in between would leave tables of no version.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise StoreUnusable(
            f"the store {engine.url.database} was written by a newer Backbench (schema {revision}); "
            "update this one or choose another with --store"
        ) from error


def current_revision(engine: Engine) -> str | None:
    """The migration that the file stands at; None for an empty one."""
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return None if found is None else str(found)
