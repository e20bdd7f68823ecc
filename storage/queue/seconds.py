"""The budget of seconds: counted while somebody holds a live lease and the study is not paused."""

from __future__ import annotations

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
    until = _counted_until(connection, clock, row.id, row.clock_started_at)
    return float(row.seconds_used + until - row.clock_started_at)


def _counted_until(connection: Connection, clock: Clock, study_id: int, since: float) -> float:
    last_lease = (
        sa.select(sa.func.max(ticket.c.lease_until))
        .where(ticket.c.study_id == study_id, ticket.c.state == TicketState.RUNNING)
        .scalar_subquery()
    )
    now, until = connection.execute(sa.select(clock.now(), last_lease)).one()
    return since if until is None else float(max(since, min(now, until)))


def start(connection: Connection, clock: Clock, study_id: int) -> None:
    """Count from now on, unless it is counted already. The caller holds the study's row."""
    connection.execute(
        study.update()
        .where(study.c.id == study_id, study.c.clock_started_at.is_(None))
        .values(clock_started_at=clock.now())
    )


def stop(connection: Connection, clock: Clock, row: sa.Row[Any]) -> None:
    """Count no more. The caller holds the study's row."""
    if row.clock_started_at is not None:
        connection.execute(
            study.update()
            .where(study.c.id == row.id)
            .values(seconds_used=used(connection, clock, row), clock_started_at=None)
        )


def stop_when_idle(
    connection: Connection, clock: Clock, row: sa.Row[Any], leaving: int | None = None
) -> None:
    """Count no more when no ticket but `leaving`, whose attempt ends now, has a live lease.

    After an outage the others' leases have expired too, and those alive renew them: what they worked since
    counts. So does what was worked until now where the others turn out to be dead.
    """
    if row.clock_started_at is None or anybody_works(connection, clock, row.id, leaving):
        return
    if leaving is None or not _exists(connection, _at_work(row.id, leaving)):
        stop(connection, clock, row)
        return
    until = _counted_until(connection, clock, row.id, row.clock_started_at)
    counted = row.seconds_used + until - row.clock_started_at
    connection.execute(
        study.update().where(study.c.id == row.id).values(seconds_used=counted, clock_started_at=until)
    )


def anybody_works(connection: Connection, clock: Clock, study_id: int, but: int | None = None) -> bool:
    """Whether a ticket of the study, another than `but`, has a live lease."""
    return _exists(connection, _at_work(study_id, but).where(ticket.c.lease_until > clock.now()))


def _at_work(study_id: int, but: int | None) -> sa.Select[Any]:
    found = sa.select(ticket.c.id).where(ticket.c.study_id == study_id, ticket.c.state == TicketState.RUNNING)
    return found if but is None else found.where(ticket.c.id != but)


def _exists(connection: Connection, found: sa.Select[Any]) -> bool:
    return connection.execute(found.limit(1)).first() is not None
