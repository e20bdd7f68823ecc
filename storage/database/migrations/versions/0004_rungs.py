"""Rungs: what trials had when they came to one; and a runner's slots, for one that holds several tickets"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hpo_ticket", sa.Column("slot", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "hpo_rung",
        sa.Column("trial_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("rung", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("bracket", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("value", sa.Float(precision=53), nullable=True),
        sa.Column("reached_at", sa.Float(precision=53), nullable=False),
        sa.Column("written", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"], ["hpo_study.id"], name=op.f("fk_hpo_rung_study_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("trial_id", "rung", name=op.f("pk_hpo_rung")),
    )
    op.create_index(op.f("ix_hpo_rung_study_id_written"), "hpo_rung", ["study_id", "written"])
