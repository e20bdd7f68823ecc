"""Which rows are locked first: one order for all, so that nobody waits in a circle.

1. the study, several by id; 2. its tickets, by id; 3. Optuna's rows; 4. workers, by id.

Whoever hands out, ends, adds or gives back tickets holds the study's row first, so that the end of a study is
decided while nothing of it moves. A report or a renewal needs no more than its tickets. Whoever must take a
row out of this order takes it only when it is free (SKIP LOCKED): one that never waits closes no circle.

On SQLite a writer has the database to itself, and none of this is seen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.tables import study, ticket, worker

# Made once: SQLAlchemy takes longer to make a statement, and to look it up, than SQLite to run it.
_STUDY = sa.select(study).where(study.c.id == sa.bindparam("id")).with_for_update(key_share=True)
_ITS = sa.select(ticket.c.study_id).where(ticket.c.id == sa.bindparam("ticket")).scalar_subquery()
_STUDY_OF = sa.select(study).where(study.c.id == _ITS).with_for_update(key_share=True)
_THEIRS = sa.select(ticket.c.study_id).where(ticket.c.id.in_(sa.bindparam("tickets", expanding=True)))
_STUDIES_OF = (
    sa.select(study.c.id).where(study.c.id.in_(_THEIRS)).order_by(study.c.id).with_for_update(key_share=True)
)


def hold_study(connection: Connection, study_id: int) -> sa.Row[Any] | None:
    """The study's row, held until the transaction ends; None when it was deleted.

    Rows that refer to it (a file kept with a trial) may be added meanwhile by who holds a ticket alone.
    """
    return connection.execute(_STUDY, {"id": study_id}).first()


def hold_study_of(connection: Connection, ticket_id: int) -> sa.Row[Any] | None:
    """As `hold_study`, for the study of a ticket."""
    return connection.execute(_STUDY_OF, {"ticket": ticket_id}).first()


def hold_studies_of(connection: Connection, tickets: Collection[int]) -> None:
    """The studies of these tickets, by id."""
    connection.execute(_STUDIES_OF, {"tickets": sorted(tickets)}).all()


def hold_free_studies(connection: Connection, which: sa.ColumnElement[bool]) -> list[int]:
    """Ids of the studies that `which` holds for and nobody else holds."""
    found = sa.select(study.c.id).where(which).order_by(study.c.id)
    return list(connection.scalars(found.with_for_update(key_share=True, skip_locked=True)))


def change(
    connection: Connection, table: sa.Table, row_id: int | str, *only: sa.ColumnElement[bool], **values: Any
) -> None:
    """Set columns of one row, where `only` holds of it; it is held from here on."""
    connection.execute(table.update().where(table.c.id == row_id, *only).values(values))


def hold_workers(connection: Connection, ids: Iterable[str]) -> None:
    """The workers' rows, in the order of their ids."""
    found = sa.select(worker.c.id).where(worker.c.id.in_(sorted(set(ids)))).order_by(worker.c.id)
    connection.execute(found.with_for_update()).all()
