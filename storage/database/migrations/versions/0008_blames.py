"""Which failed attempts count against nobody"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hpo_attempt", sa.Column("blames", sa.Integer(), server_default="1", nullable=False))
    op.execute(
        "UPDATE hpo_attempt SET blames = 0 WHERE ticket_id IN (SELECT id FROM hpo_ticket WHERE alone = 1)"
    )
