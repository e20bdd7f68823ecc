"""What is read of trials, column by column: one query each, by trial id, of the trials that somebody wants.

Statements are made once, with their values outside: making one takes longer than running it.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.functions import GenericFunction

from storage.database.clock import in_dialects
from storage.database.optuna_tables import (
    Distributions,
    TrialState,
    external,
    params,
    reports,
    system_attributes,
    user_attributes,
    values,
)
from storage.database.optuna_tables import trials as optuna_trials
from storage.database.records import TicketState
from storage.database.tables import attempt, metric, ticket, worker
from storage.queue import optuna_rows

OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_NAMED = {"NAN": math.nan, "INF_POS": math.inf, "INF_NEG": -math.inf}
_VALUE_KIND = sa.type_coerce(values.c.value_type, sa.String)  # as text: an Enum for each of 200,000 rows
_REPORT_KIND = sa.type_coerce(reports.c.intermediate_value_type, sa.String)  # takes longer than the query
STATE = sa.type_coerce(optuna_trials.c.state, sa.String).label("state")
_TRIED = sa.exists().where(attempt.c.trial_id == optuna_trials.c.trial_id)


@in_dialects(
    sqlite="{0} IN (SELECT value FROM json_each({1}))",
    postgresql="{0} IN (SELECT unnest(CAST(translate({1}, '[]', '{{}}') AS integer[])))",
)
class one_of(GenericFunction[bool]):  # noqa: N801 -- SQL functions are written in lower case
    """Whether a column of ids is among those of a JSON list: one value, however many they are.

    A placeholder for each of 1,000 ids takes several times as long as the query.
    """

    # As a boolean it would be compared with 1 on SQLite, which then reads the whole table.
    type = sa.types.NullType()  # type: ignore[assignment]
    inherit_cache = True


@dataclass(frozen=True)
class Which:
    """The trials that are read: a condition on a column of their ids, and the values that it binds."""

    picks: Callable[[Any], Any]  # a function of a module: statements are kept by it
    given: Mapping[str, Any]


def is_among(column: Any) -> Any:
    """Whether a column is among the integers that `among` binds."""
    return one_of(column, sa.bindparam("ids", type_=sa.String()))


def among(ids: Collection[int]) -> Which:
    """The trials of these ids (Optuna's)."""
    return Which(is_among, {"ids": json.dumps(list(ids))})


_NOBODY = among(())


def of_study(optuna_study_id: int, *, ended: bool = False) -> Which:
    """Every trial of a study, or those that have `ended`."""
    return Which(_are_over if ended else _are_its, {"study": optuna_study_id})


_ITS = sa.select(optuna_trials.c.trial_id).where(optuna_trials.c.study_id == sa.bindparam("study"))


def _are_its(column: Any) -> Any:
    return column.in_(_ITS)


def _are_over(column: Any) -> Any:
    return column.in_(_ITS.where(optuna_trials.c.state.in_(OVER)))


@cache
def _query(picks: Callable[[Any], Any], columns: tuple[Any, ...], order: tuple[Any, ...]) -> sa.Select[Any]:
    return sa.select(*columns).where(picks(columns[0])).order_by(*order)


def _read(connection: Connection, which: Which, *columns: Any, order: tuple[Any, ...] = ()) -> list[Any]:
    """Columns of one table, the first of which holds the trials' ids."""
    return tuples(connection, _query(which.picks, columns, order), which.given) if which != _NOBODY else []


def values_of(connection: Connection, which: Which) -> dict[int, tuple[float, ...]]:
    """The final values, one a direction."""
    found: dict[int, tuple[float, ...]] = defaultdict(tuple)
    columns, order = (values.c.trial_id, values.c.value, _VALUE_KIND), (values.c.trial_id, values.c.objective)
    for trial_id, value, kind in _read(connection, which, *columns, order=order):
        found[trial_id] += (_NAMED.get(kind, value),)
    return found


def params_of(
    connection: Connection, which: Which
) -> tuple[dict[int, dict[str, Any]], dict[int, Distributions]]:
    """Parameters as the objective saw them, and their distributions: one object of trials alike."""
    chosen: dict[int, dict[str, Any]] = defaultdict(dict)
    stored: dict[int, dict[str, str]] = defaultdict(dict)
    texts: dict[str, str] = {}  # each once, however many trials have it
    columns = (params.c.trial_id, params.c.param_name, params.c.param_value, params.c.distribution_json)
    for trial_id, name, value, text in _read(connection, which, *columns, order=(params.c.param_id,)):
        stored[trial_id][name] = texts.setdefault(text, text)
        chosen[trial_id][name] = external(text)(value)
    alike: dict[tuple[str, ...], Distributions] = {}
    return chosen, {
        trial_id: alike.setdefault((*found, *found.values()), Distributions(found))
        for trial_id, found in stored.items()
    }


def reports_of(connection: Connection, which: Which) -> dict[int, dict[int, float]]:
    """Every report by its step."""
    found: dict[int, dict[int, float]] = defaultdict(dict)
    columns = (reports.c.trial_id, reports.c.step, reports.c.intermediate_value, _REPORT_KIND)
    order = (reports.c.trial_id, reports.c.step)
    for trial_id, step, value, kind in _read(connection, which, *columns, order=order):
        found[trial_id][step] = value if value is not None else _NAMED[kind]
    return found


def last_reports(connection: Connection, which: Which, *, every: bool) -> dict[int, dict[int, float]]:
    """Of each pruned trial, or of `every` one, the report at the largest step whose value is finite."""
    newest = (
        sa.select(reports.c.trial_id, sa.func.max(reports.c.step).label("step"))
        .join(optuna_trials, optuna_trials.c.trial_id == reports.c.trial_id)
        .where(
            which.picks(reports.c.trial_id),
            sa.true() if every else optuna_trials.c.state == TrialState.PRUNED,
            reports.c.intermediate_value_type == "FINITE",
        )
        .group_by(reports.c.trial_id)
        .subquery()
    )
    on = (reports.c.trial_id == newest.c.trial_id) & (reports.c.step == newest.c.step)
    query = sa.select(newest.c.trial_id, newest.c.step, reports.c.intermediate_value).join(reports, on)
    return {trial_id: {step: value} for trial_id, step, value in tuples(connection, query, which.given)}


def report_counts(connection: Connection, which: Which) -> dict[int, int]:
    """How many reports each trial made; none of those without one."""
    query = sa.select(reports.c.trial_id, sa.func.count()).where(which.picks(reports.c.trial_id))
    return dict(tuples(connection, query.group_by(reports.c.trial_id), which.given))


def named_metrics(
    connection: Connection, which: Which, names: Collection[str] | None = None
) -> dict[int, dict[str, dict[int, float]]]:
    """Every named metric by its step, or those of these `names`."""
    found: dict[int, dict[str, dict[int, float]]] = defaultdict(dict)
    query = _query(which.picks, (metric.c.trial_id, *metric.c["name", "step", "value"]), (metric.c.step,))
    if names is not None:
        query = query.where(metric.c.name.in_(names))
    for trial_id, name, step, value in connection.execute(query, which.given).all():
        if value is not None:
            found[trial_id].setdefault(name, {})[step] = value
    return found


def attributes_of(
    connection: Connection, which: Which, table: sa.Table = user_attributes
) -> dict[int, dict[str, Any]]:
    """What the objective noted with the trial, or samplers and pruners did."""
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    columns, order = (table.c.trial_id, table.c.key, table.c.value_json), tuple(table.primary_key)
    for trial_id, key, text in _read(connection, which, *columns, order=order):
        found[trial_id][key] = json.loads(text)
    return found


def constraints_of(connection: Connection, which: Which) -> dict[int, dict[str, float]]:
    """The constraints of each trial that has any, by name."""
    stored: dict[int, dict[str, str]] = defaultdict(dict)
    its = system_attributes.c
    query = _query(which.picks, (its.trial_id, its.key, its.value_json), tuple(system_attributes.primary_key))
    query = query.where(optuna_rows.is_constraint(system_attributes))
    for trial_id, key, text in tuples(connection, query, which.given):
        stored[trial_id][key] = text
    return {trial_id: optuna_rows.constraints_of(found) for trial_id, found in stored.items()}


def attempts_of(connection: Connection, which: Which) -> dict[int, list[Any]]:
    """Every attempt of each trial, oldest first, with its ticket's number and its worker's name."""
    found: dict[int, list[Any]] = defaultdict(list)
    query = (
        sa.select(attempt, ticket.c.number.label("ticket"), worker.c.name.label("worker"))
        .add_columns(ticket.c.asked_by, ticket.c.asked_why)
        .join(ticket, attempt.c.ticket_id == ticket.c.id)
        .outerjoin(worker, attempt.c.worker_id == worker.c.id)
        .where(which.picks(attempt.c.trial_id))
        .order_by(attempt.c.number)
    )
    for row in connection.execute(query, which.given).all():
        found[row.trial_id].append(row)
    return found


def heads(connection: Connection, which: Which) -> list[tuple[int, int, str, bool]]:
    """Of each trial, the oldest first: id, number, state, and whether an attempt of ours was at it."""
    its = optuna_trials.c
    return _read(connection, which, its.trial_id, its.number, STATE, _TRIED, order=(its.trial_id,))


def held(connection: Connection, which: Which) -> dict[int, Literal["running", "parked"]]:
    """Trials whose ticket is leased or parked, and which of the two."""
    wanted = ticket.c.state.in_([TicketState.RUNNING, TicketState.PARKED])
    query = _query(which.picks, (ticket.c.trial_id, ticket.c.state), ()).where(wanted)
    return dict(tuples(connection, query, which.given))


def diverged(connection: Connection, which: Which) -> set[int]:
    """Trials whose setting diverged."""
    found = _query(which.picks, (optuna_trials.c.trial_id,), ()).where(optuna_rows.diverged())
    return set(connection.scalars(found, which.given))


def tuples(
    connection: Connection, query: sa.Select[Any], given: Mapping[str, Any] | None = None
) -> list[Any]:
    """The driver's own tuples, for columns that need no conversion; `given` are values that it binds.

    SQLAlchemy's rows of 200,000 reports take longer than the query, and the garbage collector, which need
    not look into tuples of numbers, visits each of them.
    """
    cursor = connection.execute(query, given).cursor
    return [] if cursor is None else list(cursor.fetchall())
