"""How an attempt ends, and what becomes of its ticket, its trial, its worker and its study.

Every verb runs inside the caller's transaction, which already holds the ticket's row.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage import blame, optuna_rows
from storage.clock import Clock
from storage.optuna_tables import TrialState
from storage.records import AttemptState, Lease, StudyState, TicketState
from storage.tables import attempt, study, ticket, worker

_LONGEST_BACKOFF = 60.0  # seconds


def deliver(
    connection: Connection,
    clock: Clock,
    lease: Lease,
    state: TicketState,
    values: Sequence[float] | None,
    peak_memory: float | None = None,
) -> None:
    """The attempt brought a result: `complete` with values, or `pruned`."""
    row = _close(connection, clock, lease, AttemptState(state.value), None, peak_memory)
    connection.execute(
        ticket.update()
        .where(ticket.c.id == lease.ticket_id)
        .values(state=state, worker_id=None, lease_until=None, runner=None)
    )
    connection.execute(
        worker.update().where(worker.c.id == row.worker_id).values(good_attempts=worker.c.good_attempts + 1)
    )
    if row.failed:
        blame.others_failed(connection, lease.ticket_id, row.worker_id)
    if values is not None and state is TicketState.COMPLETE:
        _end_at_target(connection, row.study_id, values[0])
    conclude(connection, clock, row.study_id)


def fail(
    connection: Connection, clock: Clock, lease: Lease, error: str, peak_memory: float | None = None
) -> None:
    """The objective raised, crashed by itself, hung or returned nonsense: try again or give up."""
    row = _close(connection, clock, lease, AttemptState.FAILED, error, peak_memory)
    budget = connection.scalar(sa.select(study.c.retry_failed).where(study.c.id == row.study_id)) or 0
    _again_or_give_up(connection, clock, row, failed=row.failed + 1, lost=row.lost, more=row.failed < budget)
    connection.execute(
        worker.update().where(worker.c.id == row.worker_id).values(bad_attempts=worker.c.bad_attempts + 1)
    )
    blame.bad_beginning(connection, row.worker_id, row.study_id, error)
    conclude(connection, clock, row.study_id)


def set_aside(
    connection: Connection, clock: Clock, lease: Lease, error: str, peak_memory: float | None = None
) -> None:
    """The attempt ran out of the card's memory beside others: it counts against nothing, and the ticket waits
    for a card of its own.
    """
    row = _close(connection, clock, lease, AttemptState.FAILED, error, peak_memory)
    connection.execute(ticket.update().where(ticket.c.id == row.id).values(alone=1))
    _requeue(connection, row.id, not_before=None)
    conclude(connection, clock, row.study_id)


def lose(connection: Connection, clock: Clock, lease: Lease, why: str) -> None:
    """The worker or runner died or went silent: nobody's fault until it happened too often."""
    row = _close(connection, clock, lease, AttemptState.LOST, why)
    budget = connection.scalar(sa.select(study.c.retry_lost).where(study.c.id == row.study_id)) or 0
    _again_or_give_up(connection, clock, row, failed=row.failed, lost=row.lost + 1, more=row.lost < budget)
    conclude(connection, clock, row.study_id)


def release(connection: Connection, clock: Clock, lease: Lease, why: str = "drained") -> None:
    """The attempt gives its ticket back on purpose; it counts against nothing."""
    row = _close(connection, clock, lease, AttemptState.RELEASED, why)
    _requeue(connection, row.id, not_before=None)
    conclude(connection, clock, row.study_id)


def cancel(connection: Connection, clock: Clock, lease: Lease) -> None:
    """A person ended the attempt: its trial will not go on."""
    row = _close(connection, clock, lease, AttemptState.CANCELLED, "cancelled")
    give_up(connection, row.id, row.trial_id, TicketState.CANCELLED)
    conclude(connection, clock, row.study_id)


def give_up(connection: Connection, ticket_id: int, trial_id: int | None, state: TicketState) -> None:
    """End a ticket without a result; Optuna's trial becomes FAIL."""
    connection.execute(
        ticket.update()
        .where(ticket.c.id == ticket_id)
        .values(state=state, worker_id=None, runner=None, lease_until=None, not_before=None)
    )
    if trial_id is not None:
        optuna_rows.finish(connection, trial_id, TrialState.FAIL)


def conclude(connection: Connection, clock: Clock, study_id: int) -> None:
    """End the study when nothing runs and nothing more may start.

    Safe beside others: what looks like the end is looked at again with the study's row locked, for
    somebody may just have added tickets. Two last attempts that end at the same moment may each see
    the other still running; then whoever next finds nothing to claim concludes.
    """
    if _left_open(connection, study_id):
        return
    row = connection.execute(sa.select(study).where(study.c.id == study_id).with_for_update()).one()
    state = StudyState(row.state)
    if _left_open(connection, study_id):
        return
    by_hand = state is StudyState.STOPPING and row.ended_why == BY_HAND
    if state is StudyState.STOPPING:
        close_leftovers(connection, study_id)
    stop_seconds(connection, clock, study_id)
    connection.execute(
        study.update()
        .where(study.c.id == study_id)
        .values(
            state=StudyState.STOPPED if by_hand else StudyState.FINISHED,
            ended_at=clock.now(),
            ended_why=row.ended_why or "all trials done",
        )
    )


def _left_open(connection: Connection, study_id: int) -> bool:
    """Whether the study goes on: it has ended already, or is paused, or has trials that run or may start."""
    row = connection.execute(
        sa.select(study.c.state, study.c.budget_trials).where(study.c.id == study_id)
    ).one()
    state = StudyState(row.state)
    if state.ended or state is StudyState.PAUSED:
        return True
    open_states = [TicketState.RUNNING]
    if state is StudyState.RUNNING:
        if row.budget_trials is None:
            return True
        open_states.append(TicketState.QUEUED)
    found = connection.execute(
        sa.select(ticket.c.id).where(ticket.c.study_id == study_id, ticket.c.state.in_(open_states)).limit(1)
    )
    return found.first() is not None


BY_HAND = "stopped by hand"


def close_leftovers(connection: Connection, study_id: int) -> None:
    """Trials that wait for another attempt get none any more."""
    rows = connection.execute(
        sa.select(ticket.c.id, ticket.c.trial_id).where(
            ticket.c.study_id == study_id,
            ticket.c.state == TicketState.QUEUED,
            ticket.c.trial_id.is_not(None),
        )
    ).all()
    for row in rows:
        give_up(connection, row.id, row.trial_id, TicketState.CANCELLED)


def stop_seconds(connection: Connection, clock: Clock, study_id: int) -> None:
    """The budget of seconds stops counting (paused or ended)."""
    connection.execute(
        study.update()
        .where(study.c.id == study_id, study.c.clock_started_at.is_not(None))
        .values(
            seconds_used=study.c.seconds_used + (clock.now() - study.c.clock_started_at),
            clock_started_at=None,
        )
    )


def _close(
    connection: Connection,
    clock: Clock,
    lease: Lease,
    state: AttemptState,
    error: str | None,
    peak_memory: float | None = None,
) -> sa.Row[tuple[int, ...]]:
    """End the attempt's record; returns the ticket's row."""
    connection.execute(
        attempt.update()
        .where(attempt.c.ticket_id == lease.ticket_id, attempt.c.number == lease.attempt)
        .values(state=state, ended_at=clock.now(), error=error, peak_memory=peak_memory)
    )
    return connection.execute(sa.select(ticket).where(ticket.c.id == lease.ticket_id)).one()


def _again_or_give_up(
    connection: Connection, clock: Clock, row: sa.Row[tuple[int, ...]], *, failed: int, lost: int, more: bool
) -> None:
    connection.execute(ticket.update().where(ticket.c.id == row.id).values(failed=failed, lost=lost))
    if more:
        tries = failed + lost
        delay = 0.0 if tries <= 1 else min(2.0 ** (tries - 2), _LONGEST_BACKOFF)
        _requeue(connection, row.id, not_before=clock.now() + delay if delay else None)
    else:
        give_up(connection, row.id, row.trial_id, TicketState.FAILED)


def _requeue(connection: Connection, ticket_id: int, not_before: sa.ColumnElement[float] | None) -> None:
    connection.execute(
        ticket.update()
        .where(ticket.c.id == ticket_id)
        .values(
            state=TicketState.QUEUED, worker_id=None, runner=None, lease_until=None, not_before=not_before
        )
    )


def _end_at_target(connection: Connection, study_id: int, value: float) -> None:
    """Once a trial has met the target, nothing new starts."""
    reached = sa.case(
        (study.c.maximize == 1, sa.literal(value) >= study.c.budget_target),
        else_=sa.literal(value) <= study.c.budget_target,
    )
    connection.execute(
        study.update()
        .where(
            study.c.id == study_id,
            study.c.state.in_([StudyState.RUNNING, StudyState.PAUSED]),
            study.c.budget_target.is_not(None),
            reached,
        )
        .values(state=StudyState.STOPPING, ended_why="target reached")
    )
