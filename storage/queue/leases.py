"""Leases: check, renew, reap. One live lease a ticket; the database's clock decides when it is over."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import database_now
from storage.database.errors import LeaseLostError
from storage.database.records import Lease, TicketState
from storage.database.tables import is_running, study, ticket, worker
from storage.queue import locks, outcomes

T = TypeVar("T")


@dataclass(frozen=True)
class Sight:
    """What somebody has seen who calls others silent; by default, all there is to see (for tests)."""

    at: float = math.inf  # by the database's clock: when it was last seen to take a write
    watched: float = math.inf  # seconds for which it had then been alive, with a steady clock
    lease: float = 0.0  # seconds; of whoever judges


def hold(
    connection: Connection, wanted: Collection[Lease], *, ending: Collection[Lease] = ()
) -> dict[Lease, LeaseLostError]:
    """Hold the tickets of these leases, by id, and say which leases are lost: those may not write.

    Safe beside others: the rows stay locked until the transaction ends, and whoever takes a ticket over
    changes its row first. Of leases in `ending`, whose attempts may end here, the studies are held first.
    """
    if ending:
        locks.hold_studies_of(connection, {lease.ticket_id for lease in ending})
    ids = sorted({lease.ticket_id for lease in wanted})
    query, given = (_ONE, {"id": ids[0]}) if len(ids) == 1 else (_SEVERAL, {"ids": ids})
    rows = {row.id: row for row in connection.execute(query, given)}
    refused = {lease: refusal(rows.get(lease.ticket_id), lease) for lease in wanted}
    return {lease: why for lease, why in refused.items() if why is not None}


def while_held(connection: Connection, lease: Lease, verb: Callable[[Connection], T]) -> T:
    """What `verb` does for an attempt that holds its lease, whose study is held before its ticket.

    Raises:
        LeaseLostError: it does not, and nothing is done.
    """
    lost = hold(connection, {lease}, ending={lease})
    if lost:
        raise lost[lease]
    return verb(connection)


_HELD = sa.select(ticket.c.id, ticket.c.number, ticket.c.attempt, ticket.c.state).with_for_update()
# Made once: SQLAlchemy takes longer to make and to look up a statement than SQLite to run it.
_ONE = _HELD.where(ticket.c.id == sa.bindparam("id"))
_SEVERAL = _HELD.where(ticket.c.id.in_(sa.bindparam("ids", expanding=True))).order_by(ticket.c.id)


def refusal(row: Any, lease: Lease) -> LeaseLostError | None:
    """Why an attempt may not write, given its ticket's row; None when it may."""
    if row is None:
        return LeaseLostError("the study was deleted")
    if row.attempt != lease.attempt:
        return LeaseLostError(
            f"ticket {row.number}: attempt {lease.attempt} lost its lease; attempt {row.attempt} is newer"
        )
    if row.state != TicketState.RUNNING:
        return LeaseLostError(
            f"ticket {row.number}: attempt {lease.attempt} lost its lease; the ticket is {row.state}"
        )
    return None


def note_rejected(connection: Connection, lease: Lease) -> None:
    """Count one refused write of a stale attempt, for `hpo audit`."""
    locks.change(connection, ticket, lease.ticket_id, rejected=ticket.c.rejected + 1)


def renew(connection: Connection, worker_id: str, seconds: float) -> list[Lease]:
    """Extend every lease this worker still holds by `seconds` from now; what it holds is returned."""
    held = sa.select(ticket.c.id, ticket.c.attempt).where(ticket.c.worker_id == worker_id, is_running)
    # Everyone who locks several tickets does so in this order.
    leases = [Lease(*row) for row in connection.execute(held.order_by(ticket.c.id).with_for_update())]
    if leases:
        theirs = ticket.update().where(ticket.c.id.in_([lease.ticket_id for lease in leases]))
        connection.execute(theirs.values(lease_until=database_now() + seconds))
    return leases


def reap_expired(connection: Connection, sight: Sight) -> int:
    """End every attempt whose lease has expired as far as `sight` reaches; returns how many.

    Safe beside others: a study or a ticket that somebody holds is left for the next time, and a renewal
    that comes first wins.
    """
    now, length = database_now(), sa.func.coalesce(worker.c.lease_seconds, sight.lease)
    # Somebody with a long lease beats seldom and may miss an outage that a short one does not survive.
    extra = sa.case((length < sight.lease, sight.lease - length), else_=0.0)
    expired = sa.and_(ticket.c.lease_until < sight.at - extra, ticket.c.lease_until < now - extra)
    # Of a time that has been: the database's clock went back, and everybody alive has renewed since.
    outdated = ticket.c.lease_until > now + 1.5 * worker.c.lease_seconds
    rows = _hold_free(connection, sa.and_(is_running, length <= sight.watched, sa.or_(expired, outdated)))
    for row in rows:
        outcomes.lose(connection, Lease(row.id, row.attempt), f"worker {row.name} went silent")
    return len(rows)


def reap_worker(connection: Connection, worker_id: str, why: str) -> int:
    """End every attempt of a worker known to be dead; returns how many. What others hold is left."""
    rows = _hold_free(connection, is_running & (ticket.c.worker_id == worker_id))
    for row in rows:
        outcomes.lose(connection, Lease(row.id, row.attempt), why)
    return len(rows)


def _hold_free(connection: Connection, which: sa.ColumnElement[bool]) -> Sequence[Any]:
    """The tickets, of those that nobody else holds, for which `which` holds; their studies are held too.

    `which` may speak of the worker that has the ticket.
    """
    theirs = ticket.outerjoin(worker, ticket.c.worker_id == worker.c.id)
    wanted = sa.select(ticket.c.study_id).select_from(theirs).where(which)
    studies = locks.hold_free_studies(connection, study.c.id.in_(wanted))
    if not studies:
        return ()
    return connection.execute(
        sa.select(ticket.c.id, ticket.c.attempt, worker.c.name)
        .select_from(theirs)
        .where(which, ticket.c.study_id.in_(studies))
        .order_by(ticket.c.id)
        .with_for_update(of=ticket, skip_locked=True)
    ).all()
