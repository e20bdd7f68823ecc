"""A trial whose setting diverges has an end of its own"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _diverged()


def _diverged() -> None:
    """`diverged` is a state of tickets and attempts."""
    states = {
        "hpo_ticket": "'queued', 'running', 'complete', 'pruned', 'failed', 'diverged', 'cancelled'",
        "hpo_attempt": (
            "'running', 'complete', 'pruned', 'failed', 'diverged', 'lost', 'released', 'cancelled'"
        ),
    }
    for table, allowed in states.items():
        name = op.f(f"ck_{table}_state")
        with op.batch_alter_table(table) as batch:
            batch.drop_constraint(name, type_="check")
            batch.create_check_constraint(name, sa.text(f"state IN ({allowed})"))
