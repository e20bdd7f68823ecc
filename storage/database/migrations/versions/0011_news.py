"""News of a study and who is told; who proposed a point and why; what a token may spend"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hpo_study", sa.Column("failing", sa.Integer(), server_default="0", nullable=False))
    op.add_column("hpo_ticket", sa.Column("asked_by", sa.String(length=300), nullable=True))
    op.add_column("hpo_ticket", sa.Column("asked_why", sa.Text(), nullable=True))
    for what in ("trials", "epochs", "seconds"):
        op.add_column("hpo_token", sa.Column(what, sa.Float(precision=53), nullable=True))
        op.add_column(
            "hpo_token",
            sa.Column(f"spent_{what}", sa.Float(precision=53), server_default="0", nullable=False),
        )
    op.create_table(
        "hpo_notice",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("told", sa.Integer(), nullable=False),
        sa.Column("holder", sa.String(length=32), nullable=True),
        sa.Column("held_until", sa.Float(precision=53), nullable=True),
        sa.Column("not_before", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(
            ["study_id"], ["hpo_study.id"], name=op.f("fk_hpo_notice_study_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hpo_notice")),
    )
    op.create_index(op.f("ix_hpo_notice_study_id"), "hpo_notice", ["study_id"])
