"""The budget of seconds: counted while somebody holds a live lease and the study is not paused."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import Clock
from storage.database.records import StudyRow, TicketState
from storage.database.tables import study, ticket


def used(connection: Connection, clock: Clock, row: StudyRow | sa.Row[Any]) -> float:
    """Seconds counted so far. Where every lease has expired, they ended with the last of them."""
    if row.clock_started_at is None:
        return float(row.seconds_used)
    return _with(row, _counted_until(row, _look(connection, clock, row.id)))


def start(connection: Connection, clock: Clock, study_id: int) -> None:
    """Count from now on, unless it is counted already. The caller holds the study's row."""
    connection.execute(_start(clock.offset), {"its_study": study_id})


def stop(connection: Connection, clock: Clock, row: sa.Row[Any]) -> None:
    """Count no more. The caller holds the study's row."""
    if row.clock_started_at is not None:
        _note(connection, row, used(connection, clock, row), None)


def stop_when_idle(
    connection: Connection, clock: Clock, row: sa.Row[Any], leaving: int | None = None
) -> None:
    """Count no more when no ticket but `leaving`, whose attempt ends now, has a live lease.

    After an outage the others' leases have expired too, and those alive renew them: what they worked since
    counts. So does what was worked until now where the others turn out to be dead.
    """
    if row.clock_started_at is None:
        return
    seen = _look(connection, clock, row.id, leaving)
    if seen.live is None:
        until = _counted_until(row, seen)
        goes_on = leaving is not None and seen.others is not None
        _note(connection, row, _with(row, until), until if goes_on else None)


def anybody_works(connection: Connection, clock: Clock, study_id: int) -> bool:
    """Whether a ticket of the study has a live lease."""
    return _look(connection, clock, study_id).live is not None


def _counted_until(row: Any, seen: sa.Row[Any]) -> float:
    since = row.clock_started_at
    return float(since if seen.last is None else max(since, min(seen.now, seen.last)))


def _with(row: Any, until: float) -> float:
    return float(row.seconds_used + until - row.clock_started_at)


def _look(connection: Connection, clock: Clock, study_id: int, leaving: int | None = None) -> sa.Row[Any]:
    return connection.execute(_leases(clock.offset), {"its_study": study_id, "leaving": leaving or 0}).one()


def _note(connection: Connection, row: sa.Row[Any], seconds: float, since: float | None) -> None:
    connection.execute(_THIS, {"its_study": row.id, "seconds_used": seconds, "clock_started_at": since})


# Statements are made once, as in `storage.queue.locks`.
_THIS = study.update().where(study.c.id == sa.bindparam("its_study"))


@lru_cache(maxsize=64)
def _start(offset: float) -> Any:
    return _THIS.where(study.c.clock_started_at.is_(None)).values(clock_started_at=Clock(offset).now())


@lru_cache(maxsize=64)
def _leases(offset: float) -> sa.Select[Any]:
    """Now, when the last lease ends, and whether tickets but `leaving` run, and with a live lease."""
    now = Clock(offset).now()
    its = (ticket.c.study_id == sa.bindparam("its_study"), ticket.c.state == TicketState.RUNNING)
    others = sa.select(ticket.c.id).where(*its, ticket.c.id != sa.bindparam("leaving")).limit(1)
    return sa.select(
        now.label("now"),
        sa.select(sa.func.max(ticket.c.lease_until)).where(*its).scalar_subquery().label("last"),
        others.scalar_subquery().label("others"),
        others.where(ticket.c.lease_until > now).scalar_subquery().label("live"),
    )
