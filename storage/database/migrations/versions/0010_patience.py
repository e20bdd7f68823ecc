"""A budget of trials without a better result, and how many there were"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hpo_study", sa.Column("budget_patience", sa.Integer(), nullable=True))
    op.add_column("hpo_study", sa.Column("stale", sa.Integer(), server_default="0", nullable=False))
    op.add_column("hpo_study", sa.Column("best_value", sa.Float(53), nullable=True))
