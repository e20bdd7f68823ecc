"""The budget of seconds: counted while somebody holds a live lease and the study is not paused."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import database_now
from storage.database.records import StudyRow, TicketState
from storage.database.tables import study, ticket
from storage.history import columns


def used(connection: Connection, row: StudyRow | sa.Row[Any]) -> float:
    """Seconds counted so far. Where every lease has expired, they ended with the last of them."""
    if row.clock_started_at is None:
        return float(row.seconds_used)
    return _with(row, _counted_until(row, _look(connection, row.id)))


def start(connection: Connection, study_id: int) -> None:
    """Count from now on, unless it is counted already. The caller holds the study's row."""
    connection.execute(_START, {"its_study": study_id})


def stop(connection: Connection, row: sa.Row[Any]) -> None:
    """Count no more. The caller holds the study's row."""
    if row.clock_started_at is not None:
        _note(connection, row, used(connection, row), None)


def stop_when_idle(connection: Connection, row: sa.Row[Any], leaving: Collection[int] = ()) -> bool:
    """Count no more when no tickets but `leaving`, whose attempts end now, have a live lease.

    Returns whether another ticket runs; False where nobody looked, for nothing is counted.

    After an outage the others' leases have expired too, and those alive renew them: what they worked since
    counts. So does what was worked until now where the others turn out to be dead.
    """
    if row.clock_started_at is None:
        return False
    seen = _look(connection, row.id, leaving)
    if seen.live is None:
        until = _counted_until(row, seen)
        goes_on = bool(leaving) and seen.others is not None
        _note(connection, row, _with(row, until), until if goes_on else None)
    return seen.others is not None


def anybody_works(connection: Connection, study_id: int) -> bool:
    """Whether a ticket of the study has a live lease."""
    return _look(connection, study_id).live is not None


def _counted_until(row: Any, seen: sa.Row[Any]) -> float:
    since = row.clock_started_at
    return float(since if seen.last is None else max(since, min(seen.now, seen.last)))


def _with(row: Any, until: float) -> float:
    return float(row.seconds_used + until - row.clock_started_at)


def _look(connection: Connection, study_id: int, leaving: Collection[int] = ()) -> sa.Row[Any]:
    return connection.execute(_LEASES, {"its_study": study_id, **columns.among(leaving).given}).one()


def _note(connection: Connection, row: sa.Row[Any], seconds: float, since: float | None) -> None:
    connection.execute(_THIS, {"its_study": row.id, "seconds_used": seconds, "clock_started_at": since})


# Statements are made once, as in `storage.queue.locks`.
_THIS = study.update().where(study.c.id == sa.bindparam("its_study"))
_START = _THIS.where(study.c.clock_started_at.is_(None)).values(clock_started_at=database_now())
_RUN = (ticket.c.study_id == sa.bindparam("its_study"), ticket.c.state == TicketState.RUNNING)
_OTHERS = sa.select(ticket.c.id).where(*_RUN, sa.not_(columns.is_among(ticket.c.id))).limit(1)
# Now, when the last lease ends, and whether tickets but `leaving` run, and with a live lease.
_LEASES = sa.select(
    database_now().label("now"),
    sa.select(sa.func.max(ticket.c.lease_until)).where(*_RUN).scalar_subquery().label("last"),
    _OTHERS.scalar_subquery().label("others"),
    _OTHERS.where(ticket.c.lease_until > database_now()).scalar_subquery().label("live"),
)
