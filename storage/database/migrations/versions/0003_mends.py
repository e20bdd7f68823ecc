"""Mends: a state for what diverged, indexes, each worker's lease and runners, dashboards as witnesses"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _states()
    _index_tickets()
    _let_seconds_rest()
    _clocks()


def _index_tickets() -> None:
    op.drop_index("ix_hpo_ticket_study_id_state_priority_number", "hpo_ticket")
    op.create_index("ix_hpo_ticket_study_id_state_trial_id", "hpo_ticket", ["study_id", "state", "trial_id"])
    queued, running = sa.text("state = 'queued'"), sa.text("state = 'running'")
    op.create_index(
        "ix_hpo_ticket_waiting",
        "hpo_ticket",
        ["study_id", sa.text("priority DESC"), "number"],
        postgresql_where=queued,
        sqlite_where=queued,
    )
    op.create_index(
        "ix_hpo_ticket_leased",
        "hpo_ticket",
        ["lease_until"],
        postgresql_where=running,
        sqlite_where=running,
    )


def _let_seconds_rest() -> None:
    """The count went on after the last worker had left: it ended when the last attempt did."""
    op.execute(
        """
        UPDATE hpo_study SET
            seconds_used = seconds_used + (
                SELECT coalesce(max(a.ended_at), hpo_study.clock_started_at)
                FROM hpo_attempt a JOIN hpo_ticket t ON t.id = a.ticket_id
                WHERE t.study_id = hpo_study.id AND a.ended_at > hpo_study.clock_started_at
            ) - clock_started_at,
            clock_started_at = NULL
        WHERE clock_started_at IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM hpo_ticket t WHERE t.study_id = hpo_study.id AND t.state = 'running'
        )
        """
    )


def _states() -> None:
    """`diverged` is a state of tickets and attempts; no worker was ever `draining`."""
    known = {
        "hpo_ticket": "'queued', 'running', 'complete', 'pruned', 'failed', 'diverged', 'cancelled'",
        "hpo_attempt": (
            "'running', 'complete', 'pruned', 'failed', 'diverged', 'lost', 'released', 'cancelled'"
        ),
        "hpo_worker": "'active', 'left', 'lost', 'quarantined'",
    }
    op.execute("UPDATE hpo_worker SET state = 'active' WHERE state = 'draining'")
    for table, allowed in known.items():
        name = op.f(f"ck_{table}_state")
        with op.batch_alter_table(table) as batch:
            batch.drop_constraint(name, type_="check")
            batch.create_check_constraint(name, sa.text(f"state IN ({allowed})"))


def _clocks() -> None:
    op.add_column("hpo_worker", sa.Column("lease_seconds", sa.Float(precision=53), nullable=True))
    op.add_column("hpo_worker", sa.Column("runners", sa.Text(), nullable=True))
    op.create_table(
        "hpo_witness",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("beat_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hpo_witness")),
    )
