"""Workers: register, beat, leave; notice those that died."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import database_now
from storage.database.records import TicketState, WorkerState
from storage.database.tables import attempt, is_running, load, study, ticket, witness, worker
from storage.queue import leases
from storage.queue.locks import change
from storage.queue.optuna_rows import overwriting

LOST_AFTER = 2.0  # leases: silence after which a worker is shown as lost


@dataclass(frozen=True)
class WorkerRow:
    """One worker as stored, with the trials its runners are at."""

    id: str
    name: str
    host: str
    host_key: str
    pid: int
    pid_started: float
    state: WorkerState
    study: str | None
    devices: Sequence[str]
    versions: Mapping[str, Any]
    status: Mapping[str, Any]
    started_at: float
    beat_at: float
    silent_for: float  # seconds since the last beat, by the database's clock
    ended_at: float | None
    reason: str | None
    good_attempts: int
    bad_attempts: int
    trials: Sequence[str]  # "study/17"


_NOW = database_now()
_is_quarantined = worker.c.state == WorkerState.QUARANTINED
_READ = ("state", "devices", "versions", "status", "trials")
_AS_STORED = tuple(one.name for one in fields(WorkerRow) if one.name not in _READ)


def register(
    connection: Connection,
    *,
    worker_id: str,
    devices: Sequence[str],
    versions: Mapping[str, Any],
    **fields: Any,
) -> None:
    """Record a worker at its start. Every start has an id of its own, whatever its name is.

    `fields`: name, host, host_key, pid, pid_started, lease_seconds and study_id, as the table has them.
    """
    if connection.execute(sa.select(worker.c.id).where(worker.c.id == worker_id)).first() is not None:
        return
    new = {"id": worker_id, "state": WorkerState.ACTIVE, "good_attempts": 0, "bad_attempts": 0, **fields}
    told = {"devices": json.dumps(list(devices)), "versions": json.dumps(dict(versions))}
    connection.execute(
        worker.insert().values(**new, **told, started_at=database_now(), beat_at=database_now())
    )


def beat(
    connection: Connection, worker_id: str, status: Mapping[str, Any]
) -> tuple[WorkerState | None, float | None]:
    """Say that the worker lives; returns its state as others see it, and when that was. None: it was deleted.

    A worker that was taken for lost and comes back is active again; quarantine stays.
    """
    was_lost = worker.c.state == WorkerState.LOST
    row = connection.execute(
        worker.update()
        .where(worker.c.id == worker_id)
        .values(
            beat_at=database_now(),
            status=json.dumps(dict(status)),
            state=sa.case((was_lost, WorkerState.ACTIVE.value), else_=worker.c.state),
            reason=sa.case((was_lost, None), else_=worker.c.reason),
            ended_at=sa.case((worker.c.state == WorkerState.LEFT, worker.c.ended_at), else_=None),
        )
        .returning(worker.c.state, worker.c.beat_at)
    ).first()
    return (None, None) if row is None else (WorkerState(row.state), row.beat_at)


def record_load(connection: Connection, worker_id: str, samples: str) -> None:
    """Keep how busy the worker's machine was: JSON, as `machines_of` reads it."""
    row = {"worker_id": worker_id, "samples": samples}
    connection.execute(overwriting(connection.dialect.name, load, "worker_id"), row)


def bear_witness(connection: Connection) -> float:
    """The heartbeat of a dashboard: proof that the database takes writes, and when it was."""
    beat = overwriting(connection.dialect.name, witness, "id", beat_at=_NOW)
    return float(connection.execute(beat.returning(witness.c.beat_at), {"id": 1}).scalar_one())


def sign_off(connection: Connection, worker_id: str) -> None:
    """The worker left in good order. A quarantined one stays so."""
    left = sa.case((_is_quarantined, worker.c.state), else_=WorkerState.LEFT.value)
    change(connection, worker, worker_id, state=left, ended_at=database_now())


def note(connection: Connection, worker_id: str, reason: str) -> None:
    """Show people what an active worker cannot do."""
    change(connection, worker, worker_id, worker.c.state == WorkerState.ACTIVE, reason=reason)


def is_anything_overdue(connection: Connection) -> bool:
    """Whether a lease or a worker may have to be ended: cheaper than `reap_expired` and `mark_silent`.

    It holds nothing, and knows less: whoever is told so looks with what it has seen itself.
    """
    theirs = sa.func.coalesce(worker.c.lease_seconds, 0.0)
    ahead = database_now() + 1.2 * theirs  # of a time that has been: the clock went back
    leased = sa.or_(ticket.c.lease_until < database_now(), ticket.c.lease_until > ahead)
    expired = (
        sa.select(ticket.c.id)
        .outerjoin(worker, ticket.c.worker_id == worker.c.id)
        .where(is_running, leased)
        .limit(1)
    )
    late = sa.or_(worker.c.beat_at < database_now() - theirs, worker.c.beat_at > database_now() + theirs)
    silent = sa.select(worker.c.id).where(worker.c.state == WorkerState.ACTIVE, late).limit(1)
    return any(connection.execute(query).first() is not None for query in (expired, silent))


def mark_silent(connection: Connection, sight: leases.Sight) -> None:
    """Show workers as lost that have not beaten for two leases of theirs, or of whoever judges.

    One that somebody holds is left for the next time.
    """
    theirs = sa.func.coalesce(worker.c.lease_seconds, sight.lease)
    length = sa.case((theirs < sight.lease, sight.lease), else_=theirs)
    too_long = sa.and_(
        worker.c.beat_at < database_now() - LOST_AFTER * length,
        worker.c.beat_at < sight.at - LOST_AFTER * length,
    )
    silent = (
        sa.select(worker.c.id)
        .where(
            worker.c.state == WorkerState.ACTIVE,
            length <= sight.watched,
            sa.or_(too_long, worker.c.beat_at > database_now() + length),  # since then the clock went back
        )
        .order_by(worker.c.id)
        .with_for_update(skip_locked=True)
    )
    connection.execute(
        worker.update().where(worker.c.id.in_(silent)).values(state=WorkerState.LOST, reason="went silent")
    )


@dataclass(frozen=True)
class Neighbour:
    """A worker of one host, as far as its processes can be looked up there."""

    id: str
    name: str
    pid: int
    started: float
    runners: Sequence[tuple[int, float]]  # pid and start of each


def of_host(connection: Connection, host_key: str) -> list[Neighbour]:
    """The workers of this very host that have not signed off."""
    its = sa.select(worker.c.id, worker.c.name, worker.c.pid, worker.c.pid_started, worker.c.runners)
    rows = connection.execute(its.where(worker.c.host_key == host_key, worker.c.ended_at.is_(None)))
    return [Neighbour(*row[:-1], [(pid, at) for pid, at in json.loads(row.runners or "[]")]) for row in rows]


def record_runners(connection: Connection, worker_id: str, runners: Sequence[tuple[int, float]]) -> None:
    """Note the processes of a worker's runners, for whoever has to end what they leave behind."""
    change(connection, worker, worker_id, runners=json.dumps([*map(list, runners)]))


def bury(connection: Connection, worker_id: str) -> int:
    """A worker whose process is known to be gone: free its tickets at once; returns how many.

    One that signed off before its process ended stays shown as that. Safe beside others, whatever this
    transaction holds: nothing is waited for, and a worker with a ticket that somebody holds just now is
    buried by the next who looks.
    """
    its = sa.select(worker.c.id).where(worker.c.id == worker_id).with_for_update(skip_locked=True)
    if connection.execute(its).first() is None:
        return 0
    freed = leases.reap_worker(connection, worker_id, "its worker died")
    left = sa.select(ticket.c.id).where(ticket.c.worker_id == worker_id, is_running)
    if connection.execute(left.limit(1)).first() is not None:
        return freed
    change(
        connection,
        worker,
        worker_id,
        worker.c.state != WorkerState.LEFT,
        state=sa.case((_is_quarantined, worker.c.state), else_=WorkerState.LOST.value),
        reason=sa.case((_is_quarantined, worker.c.reason), else_="its process is gone"),
        ended_at=database_now(),
    )
    return freed


def serves(study_id: int) -> sa.ColumnElement[bool]:
    """Which workers serve the study, or were at a trial of it."""
    tried = (
        sa.select(attempt.c.worker_id)
        .join(ticket, attempt.c.ticket_id == ticket.c.id)
        .where(ticket.c.study_id == study_id)
    )
    return (worker.c.study_id == study_id) | worker.c.id.in_(tried)


def all_workers(connection: Connection, study_id: int | None = None) -> list[WorkerRow]:
    """Every worker, or those that serve or served one study; oldest first."""
    query = (
        sa.select(
            worker, study.c.name.label("study"), (database_now() - worker.c.beat_at).label("silent_for")
        )
        .outerjoin(study, worker.c.study_id == study.c.id)
        .order_by(worker.c.started_at, worker.c.id)
    )
    if study_id is not None:
        query = query.where(serves(study_id))
    running = connection.execute(
        sa.select(ticket.c.worker_id, ticket.c.trial_number, study.c.name)
        .join(study, ticket.c.study_id == study.c.id)
        .where(ticket.c.state == TicketState.RUNNING)
        .order_by(ticket.c.trial_number)
    ).all()
    at: dict[str, list[str]] = {}
    for row in running:
        at.setdefault(row.worker_id, []).append(f"{row.name}/{row.trial_number}")
    return [
        WorkerRow(
            **{name: getattr(row, name) for name in _AS_STORED},
            state=WorkerState(row.state),
            devices=json.loads(row.devices),
            versions=json.loads(row.versions),
            status=json.loads(row.status) if row.status else {},
            trials=at.get(row.id, []),
        )
        for row in connection.execute(query)
    ]
