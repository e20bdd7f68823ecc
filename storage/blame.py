"""Who is at fault when attempts fail: the setting, or the worker it was tried on.

A setting that fails wherever it is tried is at fault, and its ticket ends as failed. A worker is at fault
when all that it began with failed, or when settings that failed on it succeed elsewhere: it is quarantined,
and what failed on it alone is given to others. Attempts that were lost count against nobody.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.records import AttemptState, TicketState, WorkerState
from storage.tables import attempt, ticket, worker

BAD_START = 5  # attempts: a worker whose first ones all fail is at fault
BLAMED = 3  # settings that succeeded elsewhere


def failed_on(worker_id: str) -> sa.ColumnElement[int]:
    """1 for a ticket that has failed on this worker, else 0."""
    tried = sa.exists().where(
        attempt.c.ticket_id == ticket.c.id,
        attempt.c.worker_id == worker_id,
        attempt.c.state == AttemptState.FAILED,
    )
    return sa.case((ticket.c.failed == 0, 0), (tried, 1), else_=0)


def bad_start(connection: Connection, worker_id: str, study_id: int | None = None) -> int:
    """In how many studies (or in this one: 1 or 0) the worker's attempts, `BAD_START` or more, all failed."""
    failed = sa.func.count(sa.case((attempt.c.state == AttemptState.FAILED, 1)))
    good = sa.func.count(sa.case((attempt.c.state.in_([AttemptState.COMPLETE, AttemptState.PRUNED]), 1)))
    found = (
        sa.select(ticket.c.study_id)
        .join(attempt, attempt.c.ticket_id == ticket.c.id)
        .where(attempt.c.worker_id == worker_id)
        .group_by(ticket.c.study_id)
        .having(failed >= BAD_START, good == 0)
    )
    if study_id is not None:
        found = found.where(ticket.c.study_id == study_id)
    return len(connection.execute(found).all())


def bad_beginning(connection: Connection, worker_id: str, study_id: int, error: str) -> None:
    """A worker whose first attempts all failed gets no more, and its failures are given to others.

    One that serves every study gets no more of this study (`tickets.claim_next` sees to it), for the study
    may be at fault; it is quarantined when it began badly in two of them.
    """
    row = connection.execute(sa.select(worker).where(worker.c.id == worker_id)).first()
    if row is None or row.state != WorkerState.ACTIVE or row.bad_attempts < BAD_START:
        return
    if row.study_id is None and bad_start(connection, worker_id, study_id):
        _give_back_failures_of(connection, worker_id, study_id)
    if row.good_attempts or (row.study_id is None and bad_start(connection, worker_id) < 2):
        return
    last_line = error.strip().splitlines()[-1] if error.strip() else "no message"
    _quarantine(
        connection, worker_id, f"its first {row.bad_attempts} attempts all failed; the last: {last_line}"
    )


def others_failed(connection: Connection, ticket_id: int, succeeded_on: str) -> None:
    """A setting has succeeded on one worker: those it failed on are at fault.

    One is quarantined when at least `BLAMED` settings that failed on it have succeeded elsewhere, and they
    are more than the attempts that went well on it.
    """
    for worker_id in connection.scalars(
        sa.select(attempt.c.worker_id)
        .join(worker, worker.c.id == attempt.c.worker_id)
        .where(
            attempt.c.ticket_id == ticket_id,
            attempt.c.state == AttemptState.FAILED,
            attempt.c.worker_id != succeeded_on,
            worker.c.state == WorkerState.ACTIVE,
        )
        .distinct()
    ).all():
        blamed = _succeeded_elsewhere(connection, worker_id)
        good = connection.scalar(sa.select(worker.c.good_attempts).where(worker.c.id == worker_id)) or 0
        if blamed >= BLAMED and blamed > good:
            _quarantine(
                connection, worker_id, f"{blamed} settings that failed here succeeded on other workers"
            )


def _succeeded_elsewhere(connection: Connection, worker_id: str) -> int:
    """How many tickets failed on this worker and brought a result on another."""
    here, there = attempt.alias("here"), attempt.alias("there")
    return (
        connection.scalar(
            sa.select(sa.func.count(here.c.ticket_id.distinct()))
            .join(ticket, ticket.c.id == here.c.ticket_id)
            .join(there, there.c.ticket_id == here.c.ticket_id)
            .where(
                here.c.worker_id == worker_id,
                here.c.state == AttemptState.FAILED,
                there.c.worker_id != worker_id,
                there.c.state.in_([AttemptState.COMPLETE, AttemptState.PRUNED]),
                ticket.c.alone == 0,  # the card's other trials were at fault
            )
        )
        or 0
    )


def _quarantine(connection: Connection, worker_id: str, reason: str) -> None:
    connection.execute(
        worker.update().where(worker.c.id == worker_id).values(state=WorkerState.QUARANTINED, reason=reason)
    )
    _give_back_failures_of(connection, worker_id)


def _give_back_failures_of(connection: Connection, worker_id: str, study_id: int | None = None) -> None:
    """Tickets that failed on no worker in good standing are queued again, with a new trial."""
    here = sa.select(attempt.c.ticket_id).where(
        attempt.c.worker_id == worker_id, attempt.c.state == AttemptState.FAILED
    )
    elsewhere = (
        sa.select(attempt.c.ticket_id)
        .join(worker, attempt.c.worker_id == worker.c.id)
        .where(
            attempt.c.state == AttemptState.FAILED,
            worker.c.state != WorkerState.QUARANTINED,
            worker.c.id != worker_id,
        )
    )
    its = ticket.c.state == TicketState.FAILED
    if study_id is not None:
        its = its & (ticket.c.study_id == study_id)
    connection.execute(
        ticket.update()
        .where(its, ticket.c.id.in_(here), ticket.c.id.not_in(elsewhere))
        .values(
            state=TicketState.QUEUED,
            failed=0,
            retry_of=ticket.c.trial_number,
            trial_id=None,
            trial_number=None,
            not_before=None,
        )
    )
