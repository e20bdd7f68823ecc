"""One page of a study's trials: filtered, sorted and cut in SQL, so that 10,000 trials cost what 50 do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hpo.errors import UserError
from hpo.search.history import STATES, TrialStateName
from hpo.studies.trials import end_column
from hpo.wiring import telling
from storage.database import optuna_tables
from storage.database.engine import Database
from storage.database.optuna_tables import TrialState
from storage.database.records import StudyRow, TicketState
from storage.database.tables import attempt, ticket, worker

_trials = optuna_tables.trials
_values = optuna_tables.values
_params = optuna_tables.params
_reports = optuna_tables.reports

SORTS = ("number", "state", "value", "epochs", "seconds", "attempts")


@dataclass(frozen=True)
class TrialLine:
    """One trial as the table shows it."""

    number: int
    state: TrialStateName
    values: tuple[float | None, ...]
    last: float | None  # last reported value
    last_step: int | None
    epochs: int  # reported steps
    seconds: float | None  # time worked: of all attempts together, the running one until now
    attempts: int
    worker: str | None
    device: str | None
    params: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class TrialPage:
    """One page of trials."""

    lines: tuple[TrialLine, ...]
    total: int  # that match the filter
    page: int  # 1-based
    pages: int
    parameters: tuple[str, ...]


def list_trials(
    database: Database,
    row: StudyRow,
    *,
    sort: str = "-number",
    state: str | None = None,
    page: int = 1,
    size: int = 25,
) -> TrialPage:
    """Trials of a study; `sort` is a name of `SORTS` or "param:NAME", "-" before it descends.

    Raises:
        UserError: an unknown order or state.
        DatabaseError
    """
    key = sort.removeprefix("-")
    if key not in SORTS and not key.startswith("param:"):
        raise UserError(f"sort must be one of {', '.join(SORTS)} or param:NAME, got {key[:40]!r}")
    if state is not None and state not in STATES:
        raise UserError(f"state must be one of {', '.join(STATES)}, got {state[:40]!r}")
    with telling():
        return database.read(
            lambda connection: _page(connection, database, row, key, sort.startswith("-"), state, page, size)
        )


def state_column() -> Any:
    """A trial's state as people see it: Optuna's RUNNING is ours only while somebody holds the lease."""
    running = sa.case((ticket.c.state == TicketState.RUNNING, "running"), else_="waiting")
    return sa.func.coalesce(end_column(), running)


def _page(
    connection: Connection,
    database: Database,
    row: StudyRow,
    key: str,
    down: bool,
    state: str | None,
    page: int,
    size: int,
) -> TrialPage:
    shown = state_column()
    joined = _trials.outerjoin(ticket, ticket.c.trial_id == _trials.c.trial_id)
    query = sa.select(_trials.c.trial_id).where(_trials.c.study_id == row.optuna_study_id)
    counted = query
    if state is not None:
        query = query.where(shown == state)
        counted = query.select_from(joined)
    total = connection.scalar(sa.select(sa.func.count()).select_from(counted.subquery()))
    column, joined = _order(joined, key, shown, database)
    order = [column.desc() if down else column.asc()]
    if key != "number":
        order = [column.is_(None), *order]  # without a value last, whichever way
    query = query.select_from(joined).order_by(*order, _trials.c.number.desc())
    ids = list(connection.scalars(query.limit(size).offset((page - 1) * size)))
    lines = read_lines(connection, database, row, ids)
    names = tuple(dict.fromkeys([*row.spec.get("space", {}), *(n for line in lines for n in line.params)]))
    return TrialPage(lines, int(total or 0), page, max(1, -(-int(total or 0) // size)), names)


def _order(joined: Any, key: str, shown: Any, database: Database) -> tuple[Any, Any]:
    """The column to sort by, and the tables with what it needs joined to them."""
    if key == "number":
        return _trials.c.number, joined
    if key == "state":
        return shown, joined
    if key == "value":
        on = (_values.c.trial_id == _trials.c.trial_id) & (_values.c.objective == 0)
        final = sa.case((_trials.c.state == TrialState.COMPLETE, _values.c.value))
        return final, joined.outerjoin(_values, on)
    if key.startswith("param:"):
        on = (_params.c.trial_id == _trials.c.trial_id) & (_params.c.param_name == key.removeprefix("param:"))
        return _params.c.param_value, joined.outerjoin(_params, on)
    if key == "epochs":
        found = (
            sa.select(_reports.c.trial_id, sa.func.count().label("n"))
            .group_by(_reports.c.trial_id)
            .subquery()
        )
        return found.c.n, joined.outerjoin(found, found.c.trial_id == _trials.c.trial_id)
    spent = (
        sa.select(
            attempt.c.trial_id,
            sa.func.count().label("attempts"),
            sa.func.sum(
                sa.func.coalesce(attempt.c.ended_at, database.clock.now()) - attempt.c.started_at
            ).label("seconds"),
        )
        .group_by(attempt.c.trial_id)
        .subquery()
    )
    return spent.c[key], joined.outerjoin(spent, spent.c.trial_id == _trials.c.trial_id)


def read_lines(
    connection: Connection, database: Database, row: StudyRow, ids: Sequence[int]
) -> tuple[TrialLine, ...]:
    """The trials of these ids (Optuna's), in this order."""
    if not ids:
        return ()
    base = {
        found.trial_id: found
        for found in connection.execute(
            sa.select(_trials.c.trial_id, _trials.c.number, state_column().label("shown"))
            .select_from(_trials.outerjoin(ticket, ticket.c.trial_id == _trials.c.trial_id))
            .where(_trials.c.trial_id.in_(ids))
        )
    }
    count = len(row.spec.get("directions", ("",)))
    values: dict[int, list[float | None]] = {trial_id: [None] * count for trial_id in ids}
    for found in connection.execute(sa.select(_values).where(_values.c.trial_id.in_(ids))):
        if found.objective < count:
            values[found.trial_id][found.objective] = found.value
    params: dict[int, dict[str, Any]] = {trial_id: {} for trial_id in ids}
    for found in connection.execute(sa.select(_params).where(_params.c.trial_id.in_(ids))):
        value = optuna_tables.external(found.distribution_json)(found.param_value)
        params[found.trial_id][found.param_name] = value
    reported = _last_reports(connection, ids)
    tries = _attempts(connection, database, ids)
    return tuple(_line(base[i], values[i], params[i], reported.get(i), tries.get(i)) for i in ids)


def _line(base: Any, values: list[float | None], params: dict[str, Any], last: Any, tries: Any) -> TrialLine:
    final = tries[-1] if tries else None
    error = None
    if base.shown != "complete":
        error = next((t.error for t in reversed(tries or ()) if t.error and t.state != "released"), None)
    return TrialLine(
        number=base.number,
        state=base.shown,
        values=tuple(values) if base.shown == "complete" else tuple(None for _ in values),
        last=None if last is None else last.intermediate_value,
        last_step=None if last is None else last.step,
        epochs=0 if last is None else last.epochs,
        seconds=sum(max(0.0, (t.ended_at or t.now) - t.started_at) for t in tries) if tries else None,
        attempts=len(tries or ()),
        worker=None if final is None else final.name or final.worker_id,
        device=None if final is None else final.device,
        params=params,
        error=None if not error else str(error).strip().splitlines()[-1][:500],
    )


def _last_reports(connection: Connection, ids: Sequence[int]) -> dict[int, Any]:
    """Step, value and number of reports of each trial that has reported."""
    newest = (
        sa.select(
            _reports.c.trial_id, sa.func.max(_reports.c.step).label("step"), sa.func.count().label("epochs")
        )
        .where(_reports.c.trial_id.in_(ids))
        .group_by(_reports.c.trial_id)
        .subquery()
    )
    query = sa.select(newest.c.trial_id, newest.c.step, newest.c.epochs, _reports.c.intermediate_value).join(
        _reports, (_reports.c.trial_id == newest.c.trial_id) & (_reports.c.step == newest.c.step)
    )
    return {found.trial_id: found for found in connection.execute(query)}


def _attempts(connection: Connection, database: Database, ids: Sequence[int]) -> dict[int, list[Any]]:
    """Every attempt of these trials, oldest first, with its worker's name and the database's time."""
    query = (
        sa.select(attempt, worker.c.name, database.clock.now().label("now"))
        .outerjoin(worker, attempt.c.worker_id == worker.c.id)
        .where(attempt.c.trial_id.in_(ids))
        .order_by(attempt.c.number)
    )
    by_trial: dict[int, list[Any]] = {}
    for found in connection.execute(query):
        by_trial.setdefault(found.trial_id, []).append(found)
    return by_trial
