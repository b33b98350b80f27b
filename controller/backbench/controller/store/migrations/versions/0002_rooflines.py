"""Devices' peak rates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "roofline",
        sa.Column("device_name", sa.String(), primary_key=True),
        sa.Column("peak_flops_per_s", sa.Float(), nullable=False),
        sa.Column("peak_bytes_per_s", sa.Float(), nullable=False),
        sa.Column("measured_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column("backend", sa.String(), nullable=False),
        sa.Column("precision", sa.String(), nullable=False),
        sa.Column("threads", sa.Integer()),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("roofline")
