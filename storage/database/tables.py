"""Our tables. Optuna's own tables stand beside them in the same database and stay Optuna's.

Times are seconds since the epoch by the database's clock (`storage.database.clock`). `optuna_study_id` and
`trial_id` point into Optuna's tables without a foreign key, so that Optuna may migrate its own.
"""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sa
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

from storage.database.records import AttemptState, StudyState, TicketState, WorkerState

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class AnyFloat(TypeDecorator[float]):
    """A double that keeps NaN on SQLite too, which would turn it into NULL."""

    impl = Float(53)
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> Any:
        if value is not None and math.isnan(value) and dialect.name == "sqlite":
            return "nan"
        return value

    def process_result_value(self, value: Any, dialect: Dialect) -> float | None:
        return None if value is None else float(value)


def _state(states: type[AttemptState] | type[StudyState] | type[TicketState] | type[WorkerState]) -> Any:
    allowed = ", ".join(f"'{state}'" for state in states)
    return CheckConstraint(f"state IN ({allowed})", name="state")


study = Table(
    "hpo_study",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uid", String(32), nullable=False, unique=True),  # part of artifact paths; never reused
    Column("name", String(200), nullable=False, unique=True),
    Column("optuna_study_id", Integer, nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("spec", Text, nullable=False),  # the validated study file as JSON
    Column("digest", String(64), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("budget_trials", Integer),  # None: tickets are made as they are claimed
    Column("budget_seconds", Float(53)),
    Column("budget_target", Float(53)),
    Column("budget_epochs", Integer),  # distinct steps that trials report in all
    Column("budget_patience", Integer),  # trials in a row without a better result
    Column("stale", Integer, nullable=False, server_default="0"),  # how many there were, where that ends it
    Column("best_value", Float(53)),  # of complete, feasible trials of one direction; None: not known yet
    Column("failing", Integer, nullable=False, server_default="0"),  # attempts, since the last result
    Column("marked", Integer, nullable=False, server_default="0"),  # how often stars, tags or notes changed
    Column("maximize", Integer, nullable=False),  # 1 when the first direction is maximize
    Column("retry_lost", Integer, nullable=False),
    Column("retry_failed", Integer, nullable=False),
    Column("artifacts", Text, nullable=False),  # URL of the artifact store
    Column("code", Text),  # JSON: what the first completed trial ran on
    Column("test_evaluation", Text),  # JSON: the winner on the test set, with its trial number
    Column("prior", Text),  # JSON: what another study observed, for the sampler to start from
    Column("created_at", Float(53), nullable=False),
    Column("clock_started_at", Float(53)),  # when `seconds` last began to count; None while it does not
    Column("seconds_used", Float(53), nullable=False, default=0.0),
    Column("ended_at", Float(53)),
    Column("ended_why", String(200)),
    Column("repeats_of", Integer),  # the study whose trials are repeated here, which nobody searches
    Column("repeats", String(16)),  # what for: confirm | regret
    _state(StudyState),
)

worker = Table(
    "hpo_worker",
    metadata,
    Column("id", String(32), primary_key=True),  # new at every start
    Column("name", String(200), nullable=False),
    Column("host", String(200), nullable=False),
    Column("host_key", String(200), nullable=False),  # same value: a pid can be looked up here
    Column("pid", Integer, nullable=False),
    Column("pid_started", Float(53), nullable=False),  # start ticks: tells a reused pid
    Column("lease_seconds", Float(53)),  # how long it may be silent; None: of version 0.1
    Column("runners", Text),  # JSON: [pid, start ticks] of each runner's process, which leads a session
    Column("state", String(16), nullable=False),
    Column("study_id", Integer),  # the study it serves; None: every running one
    Column("devices", Text, nullable=False),  # JSON list, one per runner
    Column("versions", Text, nullable=False),  # JSON
    Column("status", Text),  # JSON: utilisation, memory, what each runner does
    Column("started_at", Float(53), nullable=False),
    Column("beat_at", Float(53), nullable=False),
    Column("ended_at", Float(53)),
    Column("reason", Text),  # why it was quarantined or lost
    Column("good_attempts", Integer, nullable=False, default=0),
    Column("bad_attempts", Integer, nullable=False, default=0),
    _state(WorkerState),
)

load = Table(  # how busy a worker's machine was since it started
    "hpo_load",
    metadata,
    Column("worker_id", String(32), primary_key=True),
    Column("samples", Text, nullable=False),  # JSON: names, and at most a fixed number of samples
)

witness = Table(  # one row: the last heartbeat of a dashboard
    "hpo_witness",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("beat_at", Float(53), nullable=False),
)

ticket = Table(
    "hpo_ticket",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("hpo_study.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),  # 0, 1, ... in its study
    Column("state", String(16), nullable=False),
    Column("priority", Integer, nullable=False, default=0),  # higher first
    Column("point", Text),  # JSON: a grid cell or an enqueued point; None: the sampler chooses
    Column("cell", Integer, nullable=False, default=0),  # 1: `point` is a grid cell
    Column("attempt", Integer, nullable=False, default=0),  # the fencing token: the newest attempt
    Column("lost", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("rejected", Integer, nullable=False, default=0),  # writes of stale attempts that were refused
    Column("not_before", Float(53)),  # back-off after a lost or failed attempt
    Column("worker_id", String(32)),  # who holds the lease
    Column("runner", Integer),
    Column("slot", Integer, nullable=False, default=0, server_default="0"),  # the runner's place for it
    Column("lease_until", Float(53)),
    Column("trial_id", Integer),  # Optuna's; None until the first attempt has chosen parameters
    Column("trial_number", Integer),
    Column("retry_of", Integer),  # number of the failed trial tried again, or of the pruned one copied
    Column("asked_by", String(300)),  # who proposed `point` while the search ran; None: nobody did
    Column("asked_why", Text),
    Column("sampler_saw", Text),  # JSON: what a sampler knew when it chose
    Column("alone", Integer, nullable=False, default=0, server_default="0"),  # a Need
    Column("epochs", Integer, nullable=False, default=0, server_default="0"),  # reserved; at rest, trained
    Column("stop_at", Integer),  # epoch at which it is parked next; None: not promoted yet, the first rung's
    UniqueConstraint("study_id", "number"),
    Index(None, "study_id", "state", "trial_id"),
    Index(None, "trial_id"),
    Index(None, "worker_id", "state"),
    _state(TicketState),
)
# The states are written into statements as they are here: with a parameter in their place a database
# cannot tell that a partial index will do.
is_queued = ticket.c.state == sa.literal_column("'queued'")
is_running = ticket.c.state == sa.literal_column("'running'")
is_parked = ticket.c.state == sa.literal_column("'parked'")


_partial = {
    Index("ix_hpo_ticket_waiting", ticket.c.study_id, ticket.c.priority.desc(), ticket.c.number): is_queued,
    Index("ix_hpo_ticket_leased", ticket.c.lease_until): is_running,
}


def declare_partial_indexes(dialect: str) -> None:
    """For who makes tables. Naming a dialect imports it, which takes as long as a short command's queries."""
    for index, where in _partial.items():
        index.dialect_options[dialect]["where"] = where


attempt = Table(
    "hpo_attempt",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("ticket_id", Integer, ForeignKey("hpo_ticket.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("trial_id", Integer),
    Column("trial_number", Integer),
    Column("worker_id", String(32), nullable=False),
    Column("runner", Integer, nullable=False),
    Column("device", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("resumed_from", Integer),  # checkpoint step this attempt went on from
    Column("started_at", Float(53), nullable=False),
    Column("ended_at", Float(53)),
    Column("error", Text),  # traceback, or what ended it
    Column("peak_memory", Float(53)),  # bytes; on a CPU, of the runner's process during the attempt
    Column("blames", Integer, nullable=False, default=1, server_default="1"),  # 1: perhaps its worker's fault
    UniqueConstraint("ticket_id", "number"),
    Index(None, "trial_id"),
    _state(AttemptState),
)

repeat = Table(  # a ticket that trains a trial's setting again; it has no trial of Optuna's
    "hpo_repeat",
    metadata,
    Column(
        "ticket_id",
        Integer,
        ForeignKey("hpo_ticket.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("trial_id", Integer, nullable=False),  # whose parameters; Optuna's id
    Column("trial_number", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("seeds", Integer, nullable=False),  # trainings in it, side by side; the first has the seed
    Column("from_epoch", Integer),  # of the trial's checkpoint, from which it goes on; None: anew
    Column("result", Text),  # JSON: a value of each training; [] where it ended without
)

metric = Table(
    "hpo_metric",
    metadata,
    Column("trial_id", Integer, primary_key=True, autoincrement=False),
    Column("name", String(200), primary_key=True),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("value", AnyFloat),
)

rung = Table(  # what trials had when they came to a rung of their bracket, by which halving compares them
    "hpo_rung",
    metadata,
    Column("trial_id", Integer, primary_key=True, autoincrement=False),
    Column("rung", Integer, primary_key=True, autoincrement=False),  # 0, 1, ... in its bracket
    Column("study_id", Integer, ForeignKey("hpo_study.id", ondelete="CASCADE"), nullable=False),
    Column("bracket", Integer, nullable=False),  # of Hyperband; 0 elsewhere
    Column("epoch", Integer, nullable=False),  # the report's step
    Column("value", Float(53)),  # None: it was taken over from a checkpoint before it
    Column("reached_at", Float(53), nullable=False),
    Column("written", BigInteger, nullable=False),  # in which order (`storage.queue.rungs`)
    Index(None, "study_id", "written"),
)

artifact = Table(
    "hpo_artifact",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("hpo_study.id", ondelete="CASCADE"), nullable=False),
    Column("trial_id", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("name", String(200), nullable=False),
    Column("path", Text, nullable=False),  # relative to the study's artifact store
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Float(53), nullable=False),
    UniqueConstraint("trial_id", "name"),
)

launch = Table(
    "hpo_launch",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("hpo_study.id", ondelete="CASCADE"), nullable=False),
    Column("launcher", String(16), nullable=False),  # local | ray | slurm
    Column("host", String(200), nullable=False),  # where it was started from
    Column("workers", Integer, nullable=False),
    Column("handle", Text, nullable=False),  # JSON: what the launcher needs to find its workers again
    Column("created_at", Float(53), nullable=False),
    Column("stopped_at", Float(53)),
)

token = Table(  # of the dashboard; the tokens themselves are nowhere
    "hpo_token",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256
    Column("may", String(16), nullable=False),  # view | act
    Column("study_id", Integer, ForeignKey("hpo_study.id", ondelete="CASCADE")),  # None: every study
    Column("created_at", Float(53), nullable=False),
    # What its holder may give studies, and has given; None: as much as they like.
    *(Column(what, Float(53)) for what in ("trials", "epochs", "seconds")),
    *(
        Column(f"spent_{what}", Float(53), nullable=False, server_default="0")
        for what in ("trials", "epochs", "seconds")
    ),
)

event = Table(  # who did what; without a key into the study, whose end it outlives
    "hpo_event",
    metadata,
    Column("id", Integer, primary_key=True),  # in the order in which one study's were written
    Column("study_uid", String(32), nullable=False),
    Column("study", String(200), nullable=False),  # its name then
    Column("what", String(32), nullable=False),
    Column("who", String(300), nullable=False),  # user@host, a token's name, a trial
    Column("details", Text, nullable=False),  # JSON
    Column("at", Float(53), nullable=False),
    Index(None, "study_uid", "id"),
    Index(None, "study", "id"),
)

notice = Table(  # who is told of a study's events, and how far
    "hpo_notice",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", Integer, ForeignKey("hpo_study.id", ondelete="CASCADE"), nullable=False),
    Column("channel", Text, nullable=False),  # JSON: where to, as the study file says it
    Column("told", Integer, nullable=False),  # id of the last event that arrived there, or need not
    Column("holder", String(32)),  # who sends just now, and until when that is their right
    Column("held_until", Float(53)),
    Column("not_before", Float(53)),  # the other side was away
    Index(None, "study_id"),
)
