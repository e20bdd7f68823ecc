"""Who did what to which study, in order: written in the transaction of the act, so that neither is without
the other. Of a deleted study its end is remembered.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import database_now, to_datetime
from storage.database.tables import event, study

DELETE = "delete"
# What nobody does, but happens: told by whoever sees it first, in the transaction in which it does.
END = "end"
BEST = "best"
FAILED = "failed"  # a trial
FAILING = "failing"  # so many attempts failed one after the other
LOST = "lost"  # an attempt: its worker or runner died or went silent
NEARLY = "nearly"  # the budget is nearly spent
ITSELF = "hpo"  # who does these


@dataclass(frozen=True)
class Event:
    """Something that a person, a token's holder or a trial did to a study."""

    id: int  # grows: what came later is larger
    study: str  # its name then
    at: datetime | None  # UTC
    what: str
    who: str
    details: dict[str, Any]


def add(
    connection: Connection,
    study_id: int,
    what: str,
    who: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Remember an act, whose transaction holds the study's row, so that a study's events come in order.

    `who`: None is who runs this process.
    """
    its = sa.select(study.c.uid, study.c.name).where(study.c.id == study_id)
    row = connection.execute(its).one()
    known = {name: value for name, value in (details or {}).items() if value is not None}
    new = {"what": what, "who": (who or operator())[:300], "details": json.dumps(known), "at": database_now()}
    connection.execute(event.insert().values(study_uid=row.uid, study=row.name, **new))


def of_study(
    connection: Connection, name: str, *, limit: int | None = None, since: int | None = None
) -> list[Event]:
    """The events of the study of that name, oldest first: the newest `limit`, or the first of those after the
    one whose id is `since`. Beside them the ends of those that had the name before; where there is none any
    more, all that is remembered under it.
    """
    uid = connection.scalar(sa.select(study.c.uid).where(study.c.name == name))
    wanted: sa.ColumnElement[bool] = event.c.study == name
    if uid is not None:
        wanted = (event.c.study_uid == uid) | (wanted & (event.c.what == DELETE))
    query = sa.select(event).where(wanted).limit(limit)
    if since is not None:
        return [read(row) for row in connection.execute(query.where(event.c.id > since).order_by(event.c.id))]
    rows = connection.execute(query.order_by(event.c.id.desc())).all()
    return [read(row) for row in reversed(rows)]


def forget(connection: Connection, study_uid: str) -> None:
    """What is remembered of a study that is deleted now, but for what its deletion adds."""
    connection.execute(event.delete().where(event.c.study_uid == study_uid))


def read(row: Any) -> Event:
    """An event from its row."""
    return Event(row.id, row.study, to_datetime(row.at), row.what, row.who, json.loads(row.details))


@cache
def operator() -> str:
    """Who runs this process: `user@host`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
