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
    last_lease = (
        sa.select(sa.func.max(ticket.c.lease_until))
        .where(ticket.c.study_id == row.id, ticket.c.state == TicketState.RUNNING)
        .scalar_subquery()
    )
    now, until = connection.execute(sa.select(clock.now(), last_lease)).one()
    ended = row.clock_started_at if until is None else min(now, until)
    return float(row.seconds_used + max(0.0, ended - row.clock_started_at))


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
    """Count no more when no ticket but `leaving`, whose attempt ends now, has a live lease."""
    if row.clock_started_at is not None and not anybody_works(connection, clock, row.id, leaving):
        stop(connection, clock, row)


def anybody_works(connection: Connection, clock: Clock, study_id: int, but: int | None = None) -> bool:
    """Whether a ticket of the study, another than `but`, has a live lease."""
    found = sa.select(ticket.c.id).where(
        ticket.c.study_id == study_id,
        ticket.c.state == TicketState.RUNNING,
        ticket.c.lease_until > clock.now(),
    )
    if but is not None:
        found = found.where(ticket.c.id != but)
    return connection.execute(found.limit(1)).first() is not None
