"""Named tokens of the dashboard; who did what to which study"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hpo_token",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("may", sa.String(length=16), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"], ["hpo_study.id"], name=op.f("fk_hpo_token_study_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hpo_token")),
        sa.UniqueConstraint("digest", name=op.f("uq_hpo_token_digest")),
        sa.UniqueConstraint("name", name=op.f("uq_hpo_token_name")),
    )
    op.create_table(
        "hpo_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_uid", sa.String(length=32), nullable=False),
        sa.Column("study", sa.String(length=200), nullable=False),
        sa.Column("what", sa.String(length=32), nullable=False),
        sa.Column("who", sa.String(length=300), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hpo_event")),
    )
    op.create_index(op.f("ix_hpo_event_study_uid_id"), "hpo_event", ["study_uid", "id"])
    op.create_index(op.f("ix_hpo_event_study_id"), "hpo_event", ["study", "id"])
