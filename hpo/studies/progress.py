"""How far a study is, in two cheap queries: for the live view."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database import optuna_tables
from storage.database.engine import Database
from storage.database.records import Counts, StudyRow, TicketState
from storage.database.tables import ticket
from storage.queue import seconds, studies, tickets

_values = optuna_tables.values


@dataclass(frozen=True)
class Progress:
    """A snapshot of a study."""

    row: StudyRow
    counts: Counts
    best_number: int | None
    best_value: float | None
    seconds: float  # counted against a budget of seconds


def snapshot(database: Database, name: str) -> Progress:
    """Counts and best value now; a view does not wait for a database that is away.

    Raises:
        UnknownStudyError, DatabaseUnreachableError
    """
    return database.once(lambda connection: _snapshot(connection, database, name))


def _snapshot(connection: Connection, database: Database, name: str) -> Progress:
    row = studies.get(connection, name)
    best = None
    if len(row.spec["directions"]) == 1:
        order = _values.c.value.desc() if row.spec["directions"][0] == "maximize" else _values.c.value.asc()
        best = connection.execute(
            sa.select(ticket.c.trial_number, _values.c.value)
            .join(_values, _values.c.trial_id == ticket.c.trial_id)
            .where(ticket.c.study_id == row.id, ticket.c.state == TicketState.COMPLETE)
            .order_by(order, ticket.c.trial_number)
            .limit(1)
        ).first()
    return Progress(
        row=row,
        counts=tickets.counts(connection, row.id).shown_in(row.state),
        best_number=None if best is None else best.trial_number,
        best_value=None if best is None else best.value,
        seconds=seconds.used(connection, database.clock, row),
    )
