"""Mends"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _send_older_workers_away()


def _send_older_workers_away() -> None:
    """A worker that is at work would go on as its version knows the tables; it asks for its state at each
    claim and heartbeat, finishes what it runs, says this and leaves."""
    op.execute(
        "UPDATE hpo_worker SET state = 'quarantined', reason = 'its version of hpo is older than the "
        "database, which was upgraded; upgrade hpo on this machine and start the worker again' "
        "WHERE state IN ('active', 'draining')"
    )
