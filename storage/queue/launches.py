"""Launches: which workers were started where, and the handle that finds them again from any shell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import database_now, to_datetime
from storage.database.tables import launch, study
from storage.queue.locks import change


@dataclass(frozen=True)
class Launch:
    """Workers started together, from `host`; `stopped` is when a person stopped them. Times are UTC."""

    id: int
    study: str
    launcher: str
    host: str
    workers: int
    created: datetime | None
    stopped: datetime | None


_ROWS = sa.select(launch, study.c.name.label("study")).join(study, launch.c.study_id == study.c.id)


def add(
    connection: Connection,
    *,
    study_id: int,
    launcher: str,
    host: str,
    workers: int,
    handle: Mapping[str, Any],
) -> int:
    """Store a launch; returns its id."""
    new = {"study_id": study_id, "launcher": launcher, "host": host, "workers": workers}
    told = {"handle": json.dumps(dict(handle)), "created_at": database_now()}
    made = connection.execute(launch.insert().values({**new, **told}))
    return int((made.inserted_primary_key or (0,))[0])


def get(connection: Connection, launch_id: int) -> Launch | None:
    """One launch; None when there is none of that id."""
    row = connection.execute(_ROWS.where(launch.c.id == launch_id)).first()
    return None if row is None else _record(row)


def all_launches(connection: Connection, study_id: int | None = None) -> list[Launch]:
    """Every launch, or those of one study; oldest first."""
    query = _ROWS.order_by(launch.c.id)
    if study_id is not None:
        query = query.where(launch.c.study_id == study_id)
    return [_record(row) for row in connection.execute(query)]


def handle_of(connection: Connection, launch_id: int) -> dict[str, Any]:
    """What finds the workers of this launch again; for its launcher alone."""
    handle = connection.execute(sa.select(launch.c.handle).where(launch.c.id == launch_id)).scalar_one()
    return dict(json.loads(handle))


def mark_stopped(connection: Connection, launch_id: int) -> None:
    """A person stopped it; the first time counts."""
    change(connection, launch, launch_id, launch.c.stopped_at.is_(None), stopped_at=database_now())


def _record(row: sa.Row[Any]) -> Launch:
    when = to_datetime(row.created_at), to_datetime(row.stopped_at)
    return Launch(row.id, row.study, row.launcher, row.host, row.workers, *when)
