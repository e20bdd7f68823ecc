"""Studies and trials as lists: filtered, sorted and cut in SQL, so that 10,000 rows cost what 50 do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.errors import DamagedStudyError
from storage.database.optuna_tables import trials, values
from storage.database.records import Counts, StudyRow, StudyState, TicketState
from storage.database.tables import study, ticket
from storage.history.records import StudyHistory, TrialRecord
from storage.history.trials import Leader, count_trials, leader, ranked
from storage.queue import optuna_rows, outcomes, studies, tickets
from storage.queue.seconds import used

T = TypeVar("T")
STUDY_SORTS = ("created", "name", "state", "done", "running", "failed")


@dataclass(frozen=True)
class Progress:
    """How far a study is."""

    row: StudyRow
    counts: Counts
    best_id: int | None  # Optuna's
    best_number: int | None  # None without a feasible complete trial, or with several directions
    best_value: float | None
    seconds: float  # counted against a budget of seconds
    epochs: int | None  # trained, or reserved by what runs, of a budget of epochs; None: there is none

    @property
    def spent(self) -> tuple[int, int] | None:
        """(so many, of so many) trials or epochs: of the budget nearer to its end; None: there is neither."""
        row = self.row
        budgets = (self.counts.ended, row.budget_trials), (self.epochs, row.budget_epochs)
        limits = [(had, of) for had, of in budgets if had is not None and of is not None]
        return max(limits, key=lambda limit: limit[0] / max(1, limit[1]), default=None)


def progress(connection: Connection, name: str, known: StudyHistory | None = None) -> Progress:
    """Counts and best value now; the best without its id from the history of this moment, where one is known.

    Raises:
        UnknownStudyError
    """
    row = studies.get(connection, name)
    best: TrialRecord | Leader | None = None
    if known is not None:
        best = known.best
    elif len(row.spec["directions"]) == 1:
        best = leader(connection, row.optuna_study_id, row.spec["directions"][0])
    return Progress(
        row=row,
        counts=tickets.counts(connection, row.id).shown_in(row.state),
        best_id=best.id if isinstance(best, Leader) else None,
        best_number=None if best is None else best.number,
        best_value=None if best is None else best.value,
        seconds=used(connection, row),
        epochs=None if row.budget_epochs is None else outcomes.epochs(connection, row.id),
    )


def each_readable(names: Sequence[str], read: Callable[[str], T]) -> tuple[list[T], dict[str, str]]:
    """What `read` tells of each study, and of those that are damaged why: one is no reason to show none."""
    found, damaged = [], {}
    for name in names:
        try:
            found.append(read(name))
        except DamagedStudyError as error:
            damaged[name] = str(error)
        except (LookupError, TypeError, ValueError) as error:  # a part of it that only this needs
            damaged[name] = f"the study {name} is damaged in the database: {type(error).__name__}: {error}"
    return found, damaged


def improvements(connection: Connection, row: StudyRow) -> tuple[tuple[int, float], ...]:
    """Where the best value got better: (trial number, value), by number; () for several directions."""
    if len(row.spec["directions"]) != 1:
        return ()
    upwards = row.spec["directions"][0] == "maximize"
    extreme = sa.func.max if upwards else sa.func.min
    done = (
        ranked(row.optuna_study_id, row.spec["directions"][0])
        .where(optuna_rows.feasible(), values.c.value_type == "FINITE")
        .order_by(None)
        .subquery()
    )
    before = extreme(done.c.value).over(order_by=done.c.number, rows=(None, -1)).label("before")
    seen = sa.select(done.c.number, done.c.value, before).subquery()
    better = seen.c.value > seen.c.before if upwards else seen.c.value < seen.c.before
    query = (
        sa.select(seen.c.number, seen.c.value)
        .where(sa.or_(seen.c.before.is_(None), better))
        .order_by(seen.c.number)
    )
    return tuple((int(found.number), float(found.value)) for found in connection.execute(query))


def page_of_studies(
    connection: Connection,
    *,
    text: str,
    state: StudyState | None,
    sort: str,
    descending: bool,
    page: int,
    size: int,
) -> tuple[list[str], int]:
    """Names of the studies on one page (1-based) whose name contains `text`, and how many there are.

    `sort` is one of `STUDY_SORTS`.
    """

    def count(*states: TicketState) -> Any:
        return sa.func.coalesce(sa.func.sum(sa.case((ticket.c.state.in_(states), 1), else_=0)), sa.literal(0))

    over = [state for state in TicketState if state.ended]
    columns = {
        "created": study.c.created_at,
        "name": sa.func.lower(study.c.name),
        "state": study.c.state,
        "done": count(*over),
        "running": count(TicketState.RUNNING),
        "failed": count(TicketState.FAILED, TicketState.CANCELLED),
    }
    wanted: list[sa.ColumnElement[bool]] = [study.c.repeats_of.is_(None)]
    if text:
        wanted.append(study.c.name.icontains(text, autoescape=True))
    if state is not None:
        wanted.append(study.c.state == state)
    total = connection.scalar(sa.select(sa.func.count()).select_from(study).where(*wanted)) or 0
    order = columns[sort].desc() if descending else columns[sort].asc()
    query = sa.select(study.c.name).where(*wanted)
    if sort in ("done", "running", "failed"):
        query = query.outerjoin(ticket, ticket.c.study_id == study.c.id).group_by(study.c.id, study.c.name)
    query = query.order_by(order, study.c.id).limit(size).offset((page - 1) * size)
    return list(connection.scalars(query)), int(total)


def running_ids(connection: Connection, row: StudyRow, limit: int) -> list[int]:
    """Optuna's ids of the trials that somebody is at, the newest first."""
    query = sa.select(ticket.c.trial_id).where(
        ticket.c.study_id == row.id, ticket.c.state == TicketState.RUNNING, ticket.c.trial_id.is_not(None)
    )
    return list(connection.scalars(query.order_by(ticket.c.trial_id.desc()).limit(limit)))


def page_of_trials(
    connection: Connection, row: StudyRow, *, descending: bool, page: int, size: int
) -> tuple[list[int], int]:
    """Optuna's ids of the trials on one page (1-based), by number, and how many there are."""
    order = trials.c.number.desc() if descending else trials.c.number
    query = sa.select(trials.c.trial_id).where(trials.c.study_id == row.optuna_study_id).order_by(order)
    found = connection.scalars(query.limit(size).offset((page - 1) * size))
    return list(found), count_trials(connection, row)
