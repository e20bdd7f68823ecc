"""Which studies have work now: what a worker that serves every running study chooses from."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.records import StudyState, TicketState
from storage.database.tables import is_parked, is_running, study, ticket
from storage.queue import outcomes
from storage.queue.tickets import may_start


@dataclass(frozen=True)
class Open:
    """One running study with something to claim."""

    uid: str
    name: str
    waiting: int | None  # tickets that may be claimed now, or promoted; None: made as they are claimed
    elsewhere: int  # tickets that other workers run


def is_any(connection: Connection, name: str | None) -> bool:
    """Whether a ticket waits that may be claimed now or perhaps promoted, in this study or (None) in any that
    runs.
    """
    theirs = study.c.state == StudyState.RUNNING
    if name is not None:
        theirs &= study.c.name == name
    found = sa.select(ticket.c.id).join(study, ticket.c.study_id == study.c.id).where(theirs).limit(1)
    return any(connection.execute(found.where(one)).first() is not None for one in (may_start, is_parked))


def open_studies(connection: Connection, worker_id: str) -> list[Open]:
    """The running studies with something to claim, oldest first.

    One with nothing left, as version 0.1 could leave it when two last attempts ended at one moment, is
    ended here: nobody would claim from it any more.
    """
    counted = {
        "waiting": sa.case((is_parked | may_start, 1)),
        "elsewhere": sa.case((is_running & (ticket.c.worker_id != worker_id), 1)),
        "unfinished": ticket.c.id,
    }
    is_open = ticket.c.state.in_([state for state in TicketState if not state.ended])
    rows = connection.execute(
        sa.select(study.c.id, study.c.uid, study.c.name, study.c.state, study.c.budget_trials)
        .add_columns(*(sa.func.count(what).label(name) for name, what in counted.items()))
        .outerjoin(ticket, (ticket.c.study_id == study.c.id) & is_open)
        .where(study.c.state.in_([StudyState.RUNNING, StudyState.STOPPING]))
        .group_by(study.c.id)
        .order_by(study.c.id)
    ).all()
    found = []
    for row in rows:
        endless = row.budget_trials is None and row.state == StudyState.RUNNING
        if row.unfinished == 0 and not endless:
            outcomes.conclude(connection, row.id)
        elif row.state == StudyState.RUNNING and (endless or row.waiting):
            found.append(Open(row.uid, row.name, None if endless else row.waiting, row.elsewhere))
    return found
