"""A budget of epochs, and what each ticket has of it"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hpo_study", sa.Column("budget_epochs", sa.Integer(), nullable=True))
    op.add_column("hpo_ticket", sa.Column("epochs", sa.Integer(), server_default="0", nullable=False))
