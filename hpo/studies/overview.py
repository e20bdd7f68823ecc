"""Studies as a list: progress, time left, best so far, who works on them. Filtered, sorted and cut in SQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hpo.errors import UserError
from hpo.studies.progress import Progress, snapshot
from hpo.wiring import telling
from storage.database import optuna_tables
from storage.database.engine import Database
from storage.database.records import StudyRow, StudyState, TicketState
from storage.database.tables import study, ticket

_values = optuna_tables.values

SORTS = ("created", "name", "state", "done", "running", "failed")


@dataclass(frozen=True)
class Card:
    """One study in the list."""

    progress: Progress
    curve: tuple[tuple[int, float], ...]  # (trial number, best so far) at each improvement
    runners: int  # running trials, each on a runner of its own
    seconds_left: float | None  # a guess from the pace so far; None: nothing to guess from

    @property
    def row(self) -> StudyRow:
        return self.progress.row


@dataclass(frozen=True)
class Listing:
    """One page of studies."""

    cards: tuple[Card, ...]
    total: int  # that match the filter
    page: int  # 1-based
    pages: int


def list_page(
    database: Database,
    *,
    text: str = "",
    state: str | None = None,
    sort: str = "-created",
    page: int = 1,
    size: int = 20,
) -> Listing:
    """Studies whose name contains `text`, in `state`; `sort` is a name of `SORTS`, "-" before it descends.

    Raises:
        UserError: an unknown state or order.
        DatabaseError
    """
    if state is not None and state not in list(StudyState):
        raise UserError(f"state must be one of {', '.join(StudyState)}, got {state[:40]!r}")
    key = sort.removeprefix("-")
    if key not in SORTS:
        raise UserError(f"sort must be one of {', '.join(SORTS)}, got {key[:40]!r}")

    def find(connection: Connection) -> tuple[list[str], int]:
        return _names(connection, text, state, key, sort.startswith("-"), page, size)

    with telling():
        names, total = database.read(find)
        cards = tuple(card(database, name) for name in names)
    return Listing(cards, total, page, max(1, -(-total // size)))


def card(database: Database, name: str, *, curve: bool = True) -> Card:
    """One study of the list; without its `curve` where that is not shown.

    Raises:
        NotFoundError, DatabaseError
    """
    with telling():
        now = snapshot(database, name)
        points = database.read(lambda connection: improvements(connection, now.row)) if curve else ()
    return Card(now, points, now.counts.running, seconds_left(now))


def seconds_left(now: Progress) -> float | None:
    """Seconds until the budget is spent at the pace so far; None when it does not run or is new."""
    if now.row.state is not StudyState.RUNNING:
        return None
    guesses = []
    if now.row.budget_trials is not None and now.counts.ended and now.seconds > 0:
        open_trials = max(0, now.row.budget_trials - now.counts.ended)
        guesses.append(now.seconds / now.counts.ended * open_trials)
    if now.row.budget_seconds is not None:
        guesses.append(max(0.0, now.row.budget_seconds - now.seconds))
    return min(guesses, default=None)


def improvements(connection: Connection, row: StudyRow) -> tuple[tuple[int, float], ...]:
    """Where the best value got better, by trial number; () for several directions."""
    if len(row.spec.get("directions", ())) != 1:
        return ()
    upwards = row.spec["directions"][0] == "maximize"
    extreme = sa.func.max if upwards else sa.func.min
    number, value = ticket.c.trial_number, _values.c.value
    seen = (
        sa.select(
            number.label("number"),
            value.label("value"),
            extreme(value).over(order_by=number, rows=(None, -1)).label("before"),
        )
        .join(_values, _values.c.trial_id == ticket.c.trial_id)
        .where(ticket.c.study_id == row.id, ticket.c.state == TicketState.COMPLETE, value.is_not(None))
        .subquery()
    )
    better = seen.c.value > seen.c.before if upwards else seen.c.value < seen.c.before
    query = (
        sa.select(seen.c.number, seen.c.value)
        .where(sa.or_(seen.c.before.is_(None), better))
        .order_by(seen.c.number)
    )
    return tuple((int(found.number), float(found.value)) for found in connection.execute(query))


def _names(
    connection: Connection, text: str, state: str | None, key: str, down: bool, page: int, size: int
) -> tuple[list[str], int]:
    def count(which: Any) -> Any:
        return sa.func.coalesce(sa.func.sum(sa.case((which, 1), else_=0)), sa.literal(0))

    columns = {
        "created": study.c.created_at,
        "name": sa.func.lower(study.c.name),
        "state": study.c.state,
        "done": count(ticket.c.state.not_in([TicketState.QUEUED, TicketState.RUNNING])),
        "running": count(ticket.c.state == TicketState.RUNNING),
        "failed": count(ticket.c.state.in_([TicketState.FAILED, TicketState.CANCELLED])),
    }
    wanted = []
    if text:
        wanted.append(study.c.name.icontains(text, autoescape=True))
    if state is not None:
        wanted.append(study.c.state == state)
    total = connection.scalar(sa.select(sa.func.count()).select_from(study).where(*wanted)) or 0
    order = columns[key].desc() if down else columns[key].asc()
    query = sa.select(study.c.name).where(*wanted)
    if key in ("done", "running", "failed"):
        query = query.outerjoin(ticket, ticket.c.study_id == study.c.id).group_by(study.c.id, study.c.name)
    query = query.order_by(order, study.c.id).limit(size).offset((page - 1) * size)
    return list(connection.scalars(query)), int(total)
