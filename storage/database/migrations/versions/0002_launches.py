"""Launches; trials that need a device alone; what a study starts from"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hpo_study", sa.Column("prior", sa.Text(), nullable=True))
    op.add_column("hpo_ticket", sa.Column("alone", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "hpo_launch",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("launcher", sa.String(length=16), nullable=False),
        sa.Column("host", sa.String(length=200), nullable=False),
        sa.Column("workers", sa.Integer(), nullable=False),
        sa.Column("handle", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("stopped_at", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(
            ["study_id"], ["hpo_study.id"], name=op.f("fk_hpo_launch_study_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hpo_launch")),
    )
