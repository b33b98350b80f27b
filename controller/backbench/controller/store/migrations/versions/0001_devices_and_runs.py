"""Devices and runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "device",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("added_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column("device", sa.LargeBinary()),
        sa.Column("ca_file", sa.String()),
        sa.Column("certificate_file", sa.String()),
        sa.Column("key_file", sa.String()),
    )
    op.create_table(
        "run",
        sa.Column("run_id", sa.String(), primary_key=True),
        sa.Column("device_name", sa.String(), nullable=False),
        sa.Column("device", sa.LargeBinary()),
        sa.Column("spec", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("budgets", sa.String(), nullable=False),
        sa.Column("created_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column("finished_unix_ns", sa.BigInteger()),
        sa.Column("document", sa.String()),
        sa.Column("group", sa.String(), nullable=False),
    )
    op.create_index("run_by_time", "run", ["created_unix_ns"])
    op.create_index("run_by_device", "run", ["device_name"])


def downgrade() -> None:
    """Remove them."""
    op.drop_table("run")
    op.drop_table("device")
