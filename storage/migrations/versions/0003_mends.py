"""Mends: each worker's lease and runners; the heartbeat of dashboards"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _clocks()


def _clocks() -> None:
    op.add_column("hpo_worker", sa.Column("lease_seconds", sa.Float(precision=53), nullable=True))
    op.add_column("hpo_worker", sa.Column("runners", sa.Text(), nullable=True))
    op.create_table(
        "hpo_witness",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("beat_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hpo_witness")),
    )
