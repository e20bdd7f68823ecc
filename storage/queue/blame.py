"""Who is at fault when attempts fail: the setting, or the worker it was tried on.

A setting that fails wherever it is tried is at fault, and its ticket ends as failed. A worker is at fault
when all that it began with failed, or when settings that failed on it succeed elsewhere: it is quarantined,
and what failed on it alone is given to others. Attempts that were lost, went over their study's limits, or
ran out of a card's memory beside others count against nobody. Where one worker after the other begins badly
and nobody brings a result, the study is at fault, and it is stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.records import AttemptState, StudyState, TicketState, WorkerState
from storage.database.tables import attempt, study, ticket, worker
from storage.queue import locks

ANEW: dict[str, Any] = {  # a ticket that failed: it waits for a new trial
    **{"state": TicketState.QUEUED, "retry_of": ticket.c.trial_number, "failed": 0, "epochs": 0},
    **dict.fromkeys(("trial_id", "trial_number", "stop_at", "not_before")),
}

_GOOD = (AttemptState.COMPLETE, AttemptState.PRUNED, AttemptState.PARKED)
BAD_START = 5  # attempts: a worker whose first ones all fail is at fault
BLAMED = 3  # settings that succeeded elsewhere
BAD_STARTS = 3  # workers with a bad start one after the other: a study without a result between is at fault
_is_bad = (attempt.c.state == AttemptState.FAILED) & (attempt.c.blames == 1)
_WENT_WELL = (  # made once, as in `storage.queue.locks`
    worker.update()
    .where(worker.c.id == sa.bindparam("its_worker"))
    .values(good_attempts=worker.c.good_attempts + sa.bindparam("more"))
)


def failed_on(worker_id: str | sa.BindParameter[Any]) -> sa.ColumnElement[bool]:
    """Whether a ticket has failed on this worker."""
    tried = sa.exists().where(attempt.c.ticket_id == ticket.c.id, attempt.c.worker_id == worker_id, _is_bad)
    return (ticket.c.failed > 0) & tried


def bad_start(connection: Connection, worker_id: str, study_id: int | None = None) -> int:
    """In how many studies (or in this one: 1 or 0) the worker's attempts, `BAD_START` or more, all failed."""
    failed = sa.func.count(sa.case((_is_bad, 1)))
    good = sa.func.count(sa.case((attempt.c.state.in_(_GOOD), 1)))
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


def bad_starts(connection: Connection, study_id: int) -> int:
    """How many workers have begun badly in this study since its last result, whether or not they are gone."""
    brought = (
        sa.select(attempt.c.worker_id, attempt.c.ended_at)
        .join(ticket, attempt.c.ticket_id == ticket.c.id)
        .where(ticket.c.study_id == study_id, attempt.c.state.in_(_GOOD))
        .subquery()
    )
    last = sa.select(sa.func.coalesce(sa.func.max(brought.c.ended_at), 0.0)).scalar_subquery()
    bad = (
        sa.select(attempt.c.worker_id)
        .join(ticket, attempt.c.ticket_id == ticket.c.id)
        .join(worker, attempt.c.worker_id == worker.c.id)
        .where(
            ticket.c.study_id == study_id,
            _is_bad,
            attempt.c.ended_at > last,
            attempt.c.worker_id.not_in(sa.select(brought.c.worker_id)),
            worker.c.bad_attempts >= BAD_START,
        )
        .group_by(attempt.c.worker_id)
        .having(sa.func.count() >= BAD_START)
    )
    return len(connection.execute(bad).all())


def failed(connection: Connection, row: sa.Row[Any], error: str) -> bool:
    """An attempt at this ticket has failed: it counts against its worker. Says whether that began badly.

    A worker whose first attempts all failed gets no more, and its failures are given to others. One that
    serves every study gets no more of this study (`tickets.claim` sees to it), for the study may be
    at fault; it is quarantined when it began badly in two of them.
    """
    one = connection.execute(sa.select(worker).where(worker.c.id == row.worker_id)).first()
    if one is None:
        return False
    bad = one.bad_attempts + 1
    quarantined = one.state == WorkerState.QUARANTINED  # and this was another runner, still at work
    begins = bad >= BAD_START and one.state == WorkerState.ACTIVE
    if one.study_id is not None:
        here = at_fault = begins and not one.good_attempts
    else:
        here = begins and bad_start(connection, one.id, row.study_id) > 0
        at_fault = begins and not one.good_attempts and bad_start(connection, one.id) >= 2
    if here or at_fault or quarantined:
        _give_back_failures_of(connection, [one.id], row.study_id, everywhere=at_fault)
    locks.change(connection, worker, one.id, bad_attempts=worker.c.bad_attempts + 1)
    if at_fault:
        why = f"its first {bad} attempts all failed; the last: {last_line(error)}"
        locks.change(connection, worker, one.id, state=WorkerState.QUARANTINED, reason=why)
    return here or at_fault or quarantined


def succeeded(connection: Connection, rows: Sequence[sa.Row[Any]]) -> None:
    """Attempts at these tickets have brought results: they count for their workers, and against those the
    settings failed on.

    One of them is quarantined when at least `BLAMED` settings that failed on it have succeeded elsewhere,
    and they are more than the attempts that went well on it.
    """
    at_fault: dict[str, int] = {}
    for row in rows:
        if row.failed and (found := _at_fault(connection, row)):
            _give_back_failures_of(connection, found, row.study_id, everywhere=True)
            at_fault |= found
    here = Counter(row.worker_id for row in rows)
    if at_fault or len(here) > 1:
        locks.hold_workers(connection, [*here, *at_fault])
    for worker_id, count in here.items():
        connection.execute(_WENT_WELL, {"its_worker": worker_id, "more": count})
    for worker_id, blamed in at_fault.items():
        why = f"{blamed} settings that failed here succeeded on other workers"
        locks.change(connection, worker, worker_id, state=WorkerState.QUARANTINED, reason=why)


def last_line(error: str) -> str:
    """What a traceback ends with."""
    return error.strip().splitlines()[-1] if error.strip() else "no message"


def _at_fault(connection: Connection, row: sa.Row[Any]) -> dict[str, int]:
    """Workers to quarantine now that the ticket has succeeded: how many settings each is blamed for."""
    suspects = connection.execute(
        sa.select(worker.c.id, worker.c.good_attempts)
        .join(attempt, attempt.c.worker_id == worker.c.id)
        .where(
            attempt.c.ticket_id == row.id,
            _is_bad,
            worker.c.id != row.worker_id,
            worker.c.state == WorkerState.ACTIVE,
        )
        .distinct()
    ).all()
    found = {one.id: _succeeded_elsewhere(connection, one.id) for one in suspects}
    good = {one.id: one.good_attempts for one in suspects}
    return {key: blamed for key, blamed in found.items() if blamed >= BLAMED and blamed > good[key]}


def _succeeded_elsewhere(connection: Connection, worker_id: str) -> int:
    """How many tickets failed on this worker and brought a result on another."""
    here, there = attempt.alias("here"), attempt.alias("there")
    query = sa.select(sa.func.count(here.c.ticket_id.distinct()))
    query = query.join(there, there.c.ticket_id == here.c.ticket_id)
    query = query.where(here.c.worker_id == worker_id, here.c.state == AttemptState.FAILED)
    query = query.where(here.c.blames == 1)
    query = query.where(there.c.worker_id != worker_id, there.c.state.in_(_GOOD))
    return int(connection.scalar(query) or 0)


def _give_back_failures_of(
    connection: Connection, worker_ids: Iterable[str], study_id: int, *, everywhere: bool
) -> None:
    """Tickets that failed on these workers, and on none in good standing, are queued again with a new trial.

    Those of this study, whose row is held; `everywhere`: of others too. A finished study keeps its
    failures: nobody works at it any more, and `hpo retry` lets it go on. So does one that is busy just now.
    """
    at_fault = sorted(worker_ids)
    here = sa.select(attempt.c.ticket_id).where(attempt.c.worker_id.in_(at_fault), _is_bad)
    elsewhere = (
        sa.select(attempt.c.ticket_id)
        .join(worker, attempt.c.worker_id == worker.c.id)
        .where(
            attempt.c.state == AttemptState.FAILED,
            worker.c.state != WorkerState.QUARANTINED,
            worker.c.id.not_in(at_fault),
        )
    )
    studies = [study_id]
    if everywhere:
        theirs = sa.select(ticket.c.study_id).where(ticket.c.id.in_(here))
        going = study.c.id.in_(theirs) & (study.c.id != study_id) & (study.c.state != StudyState.FINISHED)
        studies += locks.hold_free_studies(connection, going)
    connection.execute(
        ticket.update()
        .where(
            ticket.c.study_id.in_(studies),
            ticket.c.state == TicketState.FAILED,
            ticket.c.id.in_(here),
            ticket.c.id.not_in(elsewhere),
        )
        .values(ANEW)
    )
