"""What the controller knows of a run's model and the device does not."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("run", sa.Column("model_facts", sa.String()))


def downgrade() -> None:
    """Remove it."""
    op.drop_column("run", "model_facts")
