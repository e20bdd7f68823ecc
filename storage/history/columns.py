"""What is read of trials, column by column: one query each, by trial id, of the trials that `mine` picks."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

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

NAMED = {"NAN": math.nan, "INF_POS": math.inf, "INF_NEG": -math.inf}
VALUE_KIND = sa.type_coerce(values.c.value_type, sa.String)  # as text: an Enum for each of 200,000 rows
REPORT_KIND = sa.type_coerce(reports.c.intermediate_value_type, sa.String)  # takes longer than the query

Mine = Callable[[Any], Any]  # a column of trial ids -> the condition that picks the trials


def values_of(connection: Connection, mine: Mine) -> dict[int, tuple[float, ...]]:
    """The final values, one a direction."""
    found: dict[int, tuple[float, ...]] = defaultdict(tuple)
    query = sa.select(values.c.trial_id, values.c.value, VALUE_KIND).where(mine(values.c.trial_id))
    for trial_id, value, kind in tuples(connection, query.order_by(values.c.trial_id, values.c.objective)):
        found[trial_id] += (NAMED.get(kind, value),)
    return found


def params_of(
    connection: Connection, mine: Mine
) -> tuple[dict[int, dict[str, Any]], dict[int, Distributions]]:
    """Parameters as the objective saw them, and their distributions."""
    chosen: dict[int, dict[str, Any]] = defaultdict(dict)
    stored: dict[int, dict[str, str]] = defaultdict(dict)
    texts: dict[str, str] = {}  # each once, however many trials have it
    query = sa.select(
        params.c.trial_id, params.c.param_name, params.c.param_value, params.c.distribution_json
    )
    query = query.where(mine(params.c.trial_id)).order_by(params.c.param_id)
    for trial_id, name, value, text in tuples(connection, query):
        stored[trial_id][name] = texts.setdefault(text, text)
        chosen[trial_id][name] = external(text)(value)
    return chosen, {trial_id: Distributions(found) for trial_id, found in stored.items()}


def reports_of(connection: Connection, mine: Mine) -> dict[int, dict[int, float]]:
    """Every report by its step."""
    found: dict[int, dict[int, float]] = defaultdict(dict)
    query = sa.select(reports.c.trial_id, reports.c.step, reports.c.intermediate_value, REPORT_KIND)
    query = query.where(mine(reports.c.trial_id)).order_by(reports.c.trial_id, reports.c.step)
    for trial_id, step, value, kind in tuples(connection, query):
        found[trial_id][step] = value if value is not None else NAMED[kind]
    return found


def last_reports(connection: Connection, mine: Mine, *, every: bool) -> dict[int, dict[int, float]]:
    """Of each pruned trial, or of `every` one, the report at the largest step whose value is finite."""
    newest = (
        sa.select(reports.c.trial_id, sa.func.max(reports.c.step).label("step"))
        .join(optuna_trials, optuna_trials.c.trial_id == reports.c.trial_id)
        .where(
            mine(reports.c.trial_id),
            sa.true() if every else optuna_trials.c.state == TrialState.PRUNED,
            reports.c.intermediate_value_type == "FINITE",
        )
        .group_by(reports.c.trial_id)
        .subquery()
    )
    on = (reports.c.trial_id == newest.c.trial_id) & (reports.c.step == newest.c.step)
    query = sa.select(newest.c.trial_id, newest.c.step, reports.c.intermediate_value).join(reports, on)
    return {trial_id: {step: value} for trial_id, step, value in tuples(connection, query)}


def report_counts(connection: Connection, mine: Mine) -> dict[int, int]:
    """How many reports each trial made; none of those without one."""
    query = sa.select(reports.c.trial_id, sa.func.count()).where(mine(reports.c.trial_id))
    return dict(tuples(connection, query.group_by(reports.c.trial_id)))


def named_metrics(
    connection: Connection, mine: Mine, names: Collection[str] | None = None
) -> dict[int, dict[str, dict[int, float]]]:
    """Every named metric by its step, or those of these `names`."""
    found: dict[int, dict[str, dict[int, float]]] = defaultdict(dict)
    columns = (metric.c.trial_id, metric.c.name, metric.c.step, metric.c.value)
    query = sa.select(*columns).where(mine(metric.c.trial_id)).order_by(metric.c.step)
    if names is not None:
        query = query.where(metric.c.name.in_(names))
    for trial_id, name, step, value in connection.execute(query).all():
        if value is not None:
            found[trial_id].setdefault(name, {})[step] = value
    return found


def attributes_of(connection: Connection, mine: Mine) -> dict[int, dict[str, Any]]:
    """What the objective noted with the trial."""
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    table = user_attributes
    query = sa.select(table.c.trial_id, table.c.key, table.c.value_json).where(mine(table.c.trial_id))
    for trial_id, key, text in tuples(connection, query.order_by(table.c.trial_user_attribute_id)):
        found[trial_id][key] = json.loads(text)
    return found


def constraints_of(connection: Connection, mine: Mine) -> dict[int, dict[str, float]]:
    """The constraints of each trial that has any, by name."""
    stored: dict[int, dict[str, str]] = defaultdict(dict)
    table = system_attributes
    query = sa.select(table.c.trial_id, table.c.key, table.c.value_json)
    query = query.where(mine(table.c.trial_id), optuna_rows.is_constraint(table))
    for trial_id, key, text in tuples(connection, query.order_by(table.c.trial_system_attribute_id)):
        stored[trial_id][key] = text
    return {trial_id: optuna_rows.constraints_of(found) for trial_id, found in stored.items()}


def attempts_of(connection: Connection, mine: Mine) -> dict[int, list[Any]]:
    """Every attempt of each trial, oldest first, with its ticket's number and its worker's name."""
    found: dict[int, list[Any]] = defaultdict(list)
    query = (
        sa.select(attempt, ticket.c.number.label("ticket"), worker.c.name.label("worker"))
        .add_columns(ticket.c.asked_by, ticket.c.asked_why)
        .join(ticket, attempt.c.ticket_id == ticket.c.id)
        .outerjoin(worker, attempt.c.worker_id == worker.c.id)
        .where(mine(attempt.c.trial_id))
        .order_by(attempt.c.number)
    )
    for row in connection.execute(query).all():
        found[row.trial_id].append(row)
    return found


def tried() -> sa.ColumnElement[bool]:
    """Whether an attempt of ours was at a row of Optuna's trials, in a query of them: else it is foreign."""
    return sa.exists().where(attempt.c.trial_id == optuna_trials.c.trial_id)


def held(connection: Connection, mine: Mine) -> dict[int, Literal["running", "parked"]]:
    """Trials whose ticket is leased or parked, and which of the two."""
    wanted = ticket.c.state.in_([TicketState.RUNNING, TicketState.PARKED])
    query = sa.select(ticket.c.trial_id, ticket.c.state).where(mine(ticket.c.trial_id), wanted)
    return dict(tuples(connection, query))


def diverged(connection: Connection, mine: Mine) -> set[int]:
    """Trials whose setting diverged."""
    found = sa.select(optuna_trials.c.trial_id).where(mine(optuna_trials.c.trial_id), optuna_rows.diverged())
    return set(connection.scalars(found))


def tuples(
    connection: Connection, query: sa.Select[Any], given: Mapping[str, Any] | None = None
) -> list[Any]:
    """The driver's own tuples, for columns that need no conversion; `given` are values that it binds.

    SQLAlchemy's rows of 200,000 reports take longer than the query, and the garbage collector, which need
    not look into tuples of numbers, visits each of them.
    """
    cursor = connection.execute(query, given).cursor
    return [] if cursor is None else list(cursor.fetchall())
