"""Repeats: tickets that train a trial's setting again, in a study of their own beside the one they are of"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hpo_study", sa.Column("repeats_of", sa.Integer(), nullable=True))
    op.add_column("hpo_study", sa.Column("repeats", sa.String(length=16), nullable=True))
    op.create_table(
        "hpo_repeat",
        sa.Column("ticket_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("trial_id", sa.Integer(), nullable=False),
        sa.Column("trial_number", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("seeds", sa.Integer(), nullable=False),
        sa.Column("from_epoch", sa.Integer(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["ticket_id"], ["hpo_ticket.id"], name=op.f("fk_hpo_repeat_ticket_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("ticket_id", name=op.f("pk_hpo_repeat")),
    )
