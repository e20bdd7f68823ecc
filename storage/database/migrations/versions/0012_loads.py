"""How busy machines were over time; how often a person marked trials of a study"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hpo_study", sa.Column("marked", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "hpo_load",
        sa.Column("worker_id", sa.String(length=32), nullable=False),
        sa.Column("samples", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("worker_id", name=op.f("pk_hpo_load")),
    )
