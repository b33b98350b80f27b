"""Devices are known by their place in a fleet, no longer by files that the user names."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_FILES = ("ca_file", "certificate_file", "key_file")


def upgrade() -> None:
    """Replace the columns."""
    with op.batch_alter_table("device") as table:
        for name in _FILES:
            table.drop_column(name)
        table.add_column(sa.Column("device_id", sa.String(), nullable=False, server_default=""))
        for name in ("certificate_not_after_unix_s", "revocation_number"):
            table.add_column(sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Put the old ones back, empty."""
    with op.batch_alter_table("device") as table:
        for name in ("device_id", "certificate_not_after_unix_s", "revocation_number"):
            table.drop_column(name)
        for name in _FILES:
            table.add_column(sa.Column(name, sa.String()))
