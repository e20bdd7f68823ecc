"""Tickets: make them, claim one, count them. Number of tickets = the budget, so overshoot is impossible."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import Clock
from storage.database.records import (
    AttemptState,
    Claim,
    Counts,
    Lease,
    NothingToClaim,
    StudyState,
    TicketState,
    WorkerState,
)
from storage.database.tables import attempt, is_queued, ticket, worker
from storage.queue import blame, locks, outcomes, seconds

# Made once, as in `storage.queue.locks`.
_MINE = sa.select(ticket).where(
    ticket.c.study_id == sa.bindparam("study"),
    ticket.c.worker_id == sa.bindparam("worker"),
    ticket.c.runner == sa.bindparam("runner"),
    ticket.c.slot == sa.bindparam("slot"),
    ticket.c.state == TicketState.RUNNING,
)
_STANDING = sa.select(worker.c.state, worker.c.reason, worker.c.study_id, worker.c.bad_attempts).where(
    worker.c.id == sa.bindparam("worker")
)
ENQUEUED = 1  # priority of a point a person asked for


def add(
    connection: Connection,
    study_id: int,
    points: Sequence[Mapping[str, Any] | None],
    *,
    first: int,
    cells: bool = False,
    priority: int = 0,
) -> None:
    """Append tickets `first`, `first + 1`, ...; None is a blank ticket."""
    if points:
        connection.execute(
            ticket.insert(),
            [
                {
                    "study_id": study_id,
                    "number": first + i,
                    "state": TicketState.QUEUED,
                    "point": None if point is None else json.dumps(point),
                    "cell": int(cells),
                    "priority": priority,
                }
                for i, point in enumerate(points)
            ],
        )


def claim_next(
    connection: Connection,
    clock: Clock,
    study_id: int,
    worker_id: str,
    runner: int,
    device: str,
    lease_seconds: float,
    alone: bool | None = None,
    slot: int = 0,
) -> Claim | NothingToClaim:
    """Lease the next ticket to a new attempt of this runner.

    `alone`: False leaves tickets that need a card to themselves, True takes only those.
    `slot`: the runner's place for the ticket, for a runner that holds several.

    Safe beside others: the study's row is locked, so that claims of one study come one after another
    and pause, stop and target take effect before or after but never during; tickets that others hold
    are skipped, never waited for. What failed on this worker comes last, so that another may try it.
    A slot has one ticket at a time, so a claim whose answer was lost is found again, not repeated.
    """
    row = locks.hold_study(connection, study_id)
    if row is None:
        return NothingToClaim(ended=True, why="the study was deleted")
    mine = connection.execute(
        _MINE, {"study": study_id, "worker": worker_id, "runner": runner, "slot": slot}
    ).first()
    if mine is not None:
        return _claim(mine, mine.attempt)
    state = StudyState(row.state)
    if state.ended:
        return NothingToClaim(ended=True, why=f"the study is {state}: {row.ended_why}")
    if state is not StudyState.RUNNING:
        outcomes.conclude(connection, clock, study_id)
        return NothingToClaim(ended=False, why=f"the study is {state}")
    standing = connection.execute(_STANDING, {"worker": worker_id}).first()
    if standing is None or standing.state == WorkerState.LEFT:
        return NothingToClaim(ended=True, why="this worker is not registered any more")
    if standing.state == WorkerState.QUARANTINED:
        return NothingToClaim(ended=True, why=f"this worker is quarantined: {standing.reason}", fault=True)
    if (
        standing.study_id is None
        and standing.bad_attempts >= blame.BAD_START
        and blame.bad_start(connection, worker_id, study_id)
    ):
        why = f"its first {blame.BAD_START} attempts here all failed"
        return NothingToClaim(ended=False, why=why, fault=True)
    if outcomes.end_when_seconds_are_spent(connection, clock, row):
        outcomes.conclude(connection, clock, study_id)
        return NothingToClaim(ended=False, why="the budget of seconds is spent")
    waiting = _waiting(clock, study_id)
    fitting = waiting if alone is None else waiting.where(ticket.c.alone == int(alone))
    # Costs a look at the attempts for waiting tickets, so only a worker with failures asks it.
    asked = (fitting.where(~blame.failed_on(worker_id)), fitting) if standing.bad_attempts else (fitting,)
    found = (connection.execute(query.with_for_update(skip_locked=True)).first() for query in asked)
    chosen = next((one for one in found if one is not None), None)
    if chosen is None and alone is False and connection.execute(waiting).first() is not None:
        return NothingToClaim(ended=False, why="what is left needs a card to itself", alone=True)
    if chosen is None and row.budget_trials is None and alone is not True:
        chosen = _make_one(connection, study_id)
    if chosen is None:
        outcomes.conclude(connection, clock, study_id)
        return NothingToClaim(ended=False, why="every trial is done or running elsewhere")
    seconds.stop_when_idle(connection, clock, row)  # nobody has noticed yet that every lease expired
    seconds.start(connection, clock, study_id)
    number = chosen.attempt + 1
    connection.execute(
        ticket.update()
        .where(ticket.c.id == chosen.id)
        .values(
            state=TicketState.RUNNING,
            attempt=number,
            worker_id=worker_id,
            runner=runner,
            slot=slot,
            lease_until=clock.now() + lease_seconds,
            not_before=None,
        )
    )
    connection.execute(
        attempt.insert().values(
            ticket_id=chosen.id,
            number=number,
            trial_id=chosen.trial_id,
            trial_number=chosen.trial_number,
            worker_id=worker_id,
            runner=runner,
            device=device,
            state=AttemptState.RUNNING,
            started_at=clock.now(),
        )
    )
    return _claim(chosen, number)


def counts(connection: Connection, study_id: int) -> Counts:
    """Tickets by state."""
    rows = connection.execute(
        sa.select(ticket.c.state, sa.func.count(), sa.func.count(ticket.c.trial_id))
        .where(ticket.c.study_id == study_id)
        .group_by(ticket.c.state)
    ).all()
    by_state = {str(state): (int(n), int(begun)) for state, n, begun in rows}
    waiting, given_back = by_state.pop(TicketState.QUEUED, (0, 0))
    ended = {state: n for state, (n, _) in by_state.items()}
    return Counts(waiting=waiting, given_back=given_back, **ended)


def is_over(connection: Connection, ticket_id: int) -> bool:
    """Whether the ticket's trial gets no further attempt."""
    state = connection.scalar(sa.select(ticket.c.state).where(ticket.c.id == ticket_id))
    return state not in (TicketState.QUEUED, TicketState.RUNNING)


def next_number(connection: Connection, study_id: int) -> int:
    """The number the next ticket of the study gets. The caller holds the study's row."""
    newest = connection.scalar(sa.select(sa.func.max(ticket.c.number)).where(ticket.c.study_id == study_id))
    return 0 if newest is None else int(newest) + 1


def _claim(row: sa.Row[Any], number: int) -> Claim:
    return Claim(
        lease=Lease(row.id, number),
        study_id=row.study_id,
        number=row.number,
        point={} if row.point is None else json.loads(row.point),
        trial_id=row.trial_id,
        trial_number=row.trial_number,
        retry_of=row.retry_of,
        alone=bool(row.alone),
        lost=row.lost,
    )


def _waiting(clock: Clock, study_id: int) -> sa.Select[Any]:
    """The first ticket that may be claimed now."""
    return (
        sa.select(ticket)
        .where(
            ticket.c.study_id == study_id,
            is_queued,
            sa.or_(ticket.c.not_before.is_(None), ticket.c.not_before <= clock.now()),
        )
        .order_by(ticket.c.priority.desc(), ticket.c.number)
        .limit(1)
    )


def _make_one(connection: Connection, study_id: int) -> sa.Row[Any]:
    """A further blank ticket of a study that only seconds or a target end. The caller holds its row."""
    number = next_number(connection, study_id)
    add(connection, study_id, [None], first=number)
    return connection.execute(
        sa.select(ticket).where(ticket.c.study_id == study_id, ticket.c.number == number)
    ).one()
