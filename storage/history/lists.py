"""Studies and trials as lists: filtered, sorted and cut in SQL, so that 10,000 rows cost what 50 do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import Clock
from storage.database.errors import DamagedStudyError
from storage.database.optuna_tables import TrialState, params, reports, trials, values
from storage.database.records import Counts, StudyRow, StudyState, TicketState
from storage.database.tables import attempt, study, ticket
from storage.history.trials import leader, ranked, state_column
from storage.queue import optuna_rows, studies, tickets
from storage.queue.seconds import used

T = TypeVar("T")
STUDY_SORTS = ("created", "name", "state", "done", "running", "failed")
TRIAL_SORTS = ("number", "state", "value", "epochs", "seconds", "attempts")


@dataclass(frozen=True)
class Progress:
    """How far a study is."""

    row: StudyRow
    counts: Counts
    best_id: int | None  # Optuna's
    best_number: int | None  # None without a feasible complete trial, or with several directions
    best_value: float | None
    seconds: float  # counted against a budget of seconds


def progress(connection: Connection, clock: Clock, name: str) -> Progress:
    """Counts and best value now.

    Raises:
        UnknownStudyError
    """
    row = studies.get(connection, name)
    best = None
    if len(row.spec["directions"]) == 1:
        best = leader(connection, row.optuna_study_id, row.spec["directions"][0])
    return Progress(
        row=row,
        counts=tickets.counts(connection, row.id).shown_in(row.state),
        best_id=None if best is None else best.id,
        best_number=None if best is None else best.number,
        best_value=None if best is None else best.value,
        seconds=used(connection, clock, row),
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


def page_of_trials(
    connection: Connection,
    clock: Clock,
    row: StudyRow,
    *,
    state: str | None,
    sort: str,
    descending: bool,
    page: int,
    size: int,
) -> tuple[list[int], int]:
    """Optuna's ids of the trials on one page (1-based) in this order, and how many there are.

    `sort` is one of `TRIAL_SORTS` or "param:NAME"; trials without what is sorted by come last.
    """
    shown = state_column()
    joined = trials.outerjoin(ticket, ticket.c.trial_id == trials.c.trial_id)
    query = sa.select(trials.c.trial_id).where(trials.c.study_id == row.optuna_study_id)
    counted = query
    if state is not None:
        query = query.where(shown == state)
        counted = query.select_from(joined)
    total = connection.scalar(sa.select(sa.func.count()).select_from(counted.subquery())) or 0
    column, joined = _trial_order(joined, sort, shown, clock)
    order = [column.desc() if descending else column.asc()]
    if sort != "number":
        order = [column.is_(None), *order]
    query = query.select_from(joined).order_by(*order, trials.c.number.desc())
    return list(connection.scalars(query.limit(size).offset((page - 1) * size))), int(total)


def _trial_order(joined: Any, sort: str, shown: Any, clock: Clock) -> tuple[Any, Any]:
    """The column to sort by, and the tables with what it needs joined to them."""
    if sort == "number":
        return trials.c.number, joined
    if sort == "state":
        return shown, joined
    if sort == "value":
        on = (values.c.trial_id == trials.c.trial_id) & (values.c.objective == 0)
        final = sa.case((trials.c.state == TrialState.COMPLETE, values.c.value))
        return final, joined.outerjoin(values, on)
    if sort.startswith("param:"):
        on = (params.c.trial_id == trials.c.trial_id) & (params.c.param_name == sort.removeprefix("param:"))
        return params.c.param_value, joined.outerjoin(params, on)
    if sort == "epochs":
        found = (
            sa.select(reports.c.trial_id, sa.func.count().label("n")).group_by(reports.c.trial_id).subquery()
        )
        return found.c.n, joined.outerjoin(found, found.c.trial_id == trials.c.trial_id)
    worked = sa.func.coalesce(attempt.c.ended_at, clock.now()) - attempt.c.started_at
    spent = (
        sa.select(
            attempt.c.trial_id,
            sa.func.count().label("attempts"),
            sa.func.sum(worked).label("seconds"),
        )
        .group_by(attempt.c.trial_id)
        .subquery()
    )
    return spent.c[sort], joined.outerjoin(spent, spent.c.trial_id == trials.c.trial_id)
