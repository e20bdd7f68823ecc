"""Studies, tickets, attempts, workers, metrics, artifacts"""

import sqlalchemy as sa
from alembic import op

import storage.database.tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hpo_metric",
        sa.Column("trial_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("value", storage.database.tables.AnyFloat(precision=53), nullable=True),
        sa.PrimaryKeyConstraint("trial_id", "name", "step", name=op.f("pk_hpo_metric")),
    )
    op.create_table(
        "hpo_study",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("optuna_study_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("budget_trials", sa.Integer(), nullable=True),
        sa.Column("budget_seconds", sa.Float(precision=53), nullable=True),
        sa.Column("budget_target", sa.Float(precision=53), nullable=True),
        sa.Column("maximize", sa.Integer(), nullable=False),
        sa.Column("retry_lost", sa.Integer(), nullable=False),
        sa.Column("retry_failed", sa.Integer(), nullable=False),
        sa.Column("artifacts", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("test_evaluation", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("clock_started_at", sa.Float(precision=53), nullable=True),
        sa.Column("seconds_used", sa.Float(precision=53), nullable=False),
        sa.Column("ended_at", sa.Float(precision=53), nullable=True),
        sa.Column("ended_why", sa.String(length=200), nullable=True),
        sa.CheckConstraint(
            "state IN ('running', 'paused', 'stopping', 'stopped', 'finished')",
            name=op.f("ck_hpo_study_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hpo_study")),
        sa.UniqueConstraint("name", name=op.f("uq_hpo_study_name")),
        sa.UniqueConstraint("optuna_study_id", name=op.f("uq_hpo_study_optuna_study_id")),
        sa.UniqueConstraint("uid", name=op.f("uq_hpo_study_uid")),
    )
    op.create_table(
        "hpo_worker",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("host", sa.String(length=200), nullable=False),
        sa.Column("host_key", sa.String(length=200), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("pid_started", sa.Float(precision=53), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=True),
        sa.Column("devices", sa.Text(), nullable=False),
        sa.Column("versions", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("started_at", sa.Float(precision=53), nullable=False),
        sa.Column("beat_at", sa.Float(precision=53), nullable=False),
        sa.Column("ended_at", sa.Float(precision=53), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("good_attempts", sa.Integer(), nullable=False),
        sa.Column("bad_attempts", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "state IN ('active', 'draining', 'left', 'lost', 'quarantined')", name=op.f("ck_hpo_worker_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hpo_worker")),
    )
    op.create_table(
        "hpo_artifact",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("trial_id", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"], ["hpo_study.id"], name=op.f("fk_hpo_artifact_study_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hpo_artifact")),
        sa.UniqueConstraint("trial_id", "name", name=op.f("uq_hpo_artifact_trial_id_name")),
    )
    op.create_table(
        "hpo_ticket",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("point", sa.Text(), nullable=True),
        sa.Column("cell", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lost", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("rejected", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Float(precision=53), nullable=True),
        sa.Column("worker_id", sa.String(length=32), nullable=True),
        sa.Column("runner", sa.Integer(), nullable=True),
        sa.Column("lease_until", sa.Float(precision=53), nullable=True),
        sa.Column("trial_id", sa.Integer(), nullable=True),
        sa.Column("trial_number", sa.Integer(), nullable=True),
        sa.Column("retry_of", sa.Integer(), nullable=True),
        sa.Column("sampler_saw", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'complete', 'pruned', 'failed', 'cancelled')",
            name=op.f("ck_hpo_ticket_state"),
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["hpo_study.id"], name=op.f("fk_hpo_ticket_study_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hpo_ticket")),
        sa.UniqueConstraint("study_id", "number", name=op.f("uq_hpo_ticket_study_id_number")),
    )
    with op.batch_alter_table("hpo_ticket", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_hpo_ticket_study_id_state_priority_number"),
            ["study_id", "state", "priority", "number"],
            unique=False,
        )
        batch_op.create_index(batch_op.f("ix_hpo_ticket_trial_id"), ["trial_id"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_hpo_ticket_worker_id_state"), ["worker_id", "state"], unique=False
        )

    op.create_table(
        "hpo_attempt",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("ticket_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("trial_id", sa.Integer(), nullable=True),
        sa.Column("trial_number", sa.Integer(), nullable=True),
        sa.Column("worker_id", sa.String(length=32), nullable=False),
        sa.Column("runner", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("resumed_from", sa.Integer(), nullable=True),
        sa.Column("started_at", sa.Float(precision=53), nullable=False),
        sa.Column("ended_at", sa.Float(precision=53), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("peak_memory", sa.Float(precision=53), nullable=True),
        sa.CheckConstraint(
            "state IN ('running', 'complete', 'pruned', 'failed', 'lost', 'released', 'cancelled')",
            name=op.f("ck_hpo_attempt_state"),
        ),
        sa.ForeignKeyConstraint(
            ["ticket_id"], ["hpo_ticket.id"], name=op.f("fk_hpo_attempt_ticket_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hpo_attempt")),
        sa.UniqueConstraint("ticket_id", "number", name=op.f("uq_hpo_attempt_ticket_id_number")),
    )
    with op.batch_alter_table("hpo_attempt", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_hpo_attempt_trial_id"), ["trial_id"], unique=False)
