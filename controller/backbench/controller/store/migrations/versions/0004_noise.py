"""Devices' noise floors."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "noise",
        sa.Column("device_name", sa.String(), primary_key=True),
        sa.Column("measured_unix_ns", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.String(), nullable=False),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("noise")
