"""Who is told of a study's events, and how far: one row a channel. Whoever holds it sends, one after another.

A row is held for a while at a time, so that exactly one process sends and another takes over when that dies.
What arrived is written after it arrived: an event is sent at least once, and has the same id each time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import database_now
from storage.database.records import StudyState
from storage.database.tables import event, notice, study
from storage.queue import events, locks
from storage.queue.events import Event

_MANY = 50  # events of one look


@dataclass(frozen=True)
class Notice:
    """One channel of a study, for which there may be something to tell."""

    id: int
    study_id: int
    study: str
    uid: str
    runs: bool
    channel: Mapping[str, Any]
    is_due: bool  # something has happened since
    waits: bool  # the other side was away; it is too early for another try


def settle(connection: Connection, study_id: int, channels: Sequence[Mapping[str, Any]]) -> None:
    """From now on these are told, and no others; one that was told before goes on where it was.

    The caller holds the study's row.
    """
    wanted = [json.dumps(channel, sort_keys=True) for channel in channels]
    mine = notice.c.study_id == study_id
    connection.execute(notice.delete().where(mine, notice.c.channel.not_in(wanted)))
    there = set(connection.scalars(sa.select(notice.c.channel).where(mine)))
    uid = sa.select(study.c.uid).where(study.c.id == study_id).scalar_subquery()
    newest = connection.scalar(sa.select(sa.func.max(event.c.id)).where(event.c.study_uid == uid)) or 0
    for channel in dict.fromkeys(wanted):
        if channel not in there:
            connection.execute(notice.insert().values(study_id=study_id, channel=channel, told=newest))


def open_notices(connection: Connection, holder: str) -> list[Notice]:
    """Those that nobody else holds just now and that have something to tell, or whose study still runs."""
    new = sa.exists().where(event.c.study_uid == study.c.uid, event.c.id > notice.c.told)
    runs = study.c.state == StudyState.RUNNING
    waits = sa.case((notice.c.not_before > database_now(), 1), else_=0)
    found = {"runs": runs, "is_due": new, "waits": waits}
    query = (
        sa.select(notice, study.c.name, study.c.uid, *(one.label(name) for name, one in found.items()))
        .join(study, notice.c.study_id == study.c.id)
        .where(_free(holder), new | runs)
        .order_by(notice.c.id)
    )
    return [
        Notice(
            id=row.id,
            study_id=row.study_id,
            study=row.name,
            uid=row.uid,
            channel=json.loads(row.channel),
            **{name: bool(getattr(row, name)) for name in found},
        )
        for row in connection.execute(query)
    ]


def hold(
    connection: Connection, one: Notice, holder: str, seconds: float, kinds: Collection[str]
) -> Event | None:
    """Take the right to send for so long; the next event of these kinds. None: there is none, or no right."""
    mine = notice.update().where(notice.c.id == one.id, _free(holder))
    mine = mine.values(holder=holder, held_until=database_now() + seconds).returning(notice.c.told)
    told = connection.scalar(mine)
    if told is None:
        return None
    query = sa.select(event).where(event.c.study_uid == one.uid, event.c.id > told).order_by(event.c.id)
    passed = None
    for row in connection.execute(query.limit(_MANY)):
        if row.what in kinds:
            return events.read(row)
        passed = row.id
    if passed is not None:
        arrived(connection, one, holder, passed)
    return None


def arrived(connection: Connection, one: Notice, holder: str, event_id: int) -> None:
    """The events up to this one arrived, or need not; nothing is changed where somebody else sends now."""
    mine = notice.update().where(notice.c.id == one.id, notice.c.holder == holder, notice.c.told < event_id)
    connection.execute(mine.values(told=event_id, not_before=None))


def let_go(connection: Connection, one: Notice, holder: str, wait: float | None) -> None:
    """Anybody may send again: in `wait` seconds where the other side is away."""
    mine = notice.update().where(notice.c.id == one.id, notice.c.holder == holder)
    later = None if wait is None else database_now() + wait
    connection.execute(mine.values(holder=None, held_until=None, not_before=later))


def say_nearly(connection: Connection, study_id: int, share: float) -> None:
    """The budget is nearly spent: told once, and again when the study was given more since."""
    row = locks.hold_study(connection, study_id)
    if row is None:
        return
    kinds = [events.NEARLY, "extend"]
    last = sa.select(event.c.what).where(event.c.study_uid == row.uid, event.c.what.in_(kinds))
    if connection.scalar(last.order_by(event.c.id.desc()).limit(1)) != events.NEARLY:
        events.add(connection, study_id, events.NEARLY, events.ITSELF, {"share": round(share, 2)})


def _free(holder: str) -> sa.ColumnElement[bool]:
    return notice.c.holder.is_(None) | (notice.c.holder == holder) | (notice.c.held_until < database_now())
