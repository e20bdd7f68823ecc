"""Parking: a state of tickets and attempts, and where a promoted ticket is parked next"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TICKET = "'queued', 'running', 'parked', 'complete', 'pruned', 'failed', 'diverged', 'cancelled'"
_ATTEMPT = "'running', 'complete', 'pruned', 'parked', 'failed', 'diverged', 'lost', 'released', 'cancelled'"


def upgrade() -> None:
    queued = sa.text("state = 'queued'")
    op.drop_index(
        "ix_hpo_ticket_waiting", "hpo_ticket"
    )  # a table that is rebuilt forgets its descending order
    for table, allowed in (("hpo_ticket", _TICKET), ("hpo_attempt", _ATTEMPT)):
        with op.batch_alter_table(table) as batch:
            batch.drop_constraint(op.f(f"ck_{table}_state"), type_="check")
            batch.create_check_constraint(op.f(f"ck_{table}_state"), sa.text(f"state IN ({allowed})"))
            if table == "hpo_ticket":
                batch.add_column(sa.Column("stop_at", sa.Integer(), nullable=True))
    op.create_index(
        "ix_hpo_ticket_waiting",
        "hpo_ticket",
        ["study_id", sa.text("priority DESC"), "number"],
        postgresql_where=queued,
        sqlite_where=queued,
    )
