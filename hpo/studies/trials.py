"""Trials as records, read from Optuna's tables and ours: one, some, or all of a study, column by column."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hpo.search.history import ENDED, AttemptSpan, TrialRecord, TrialStateName
from hpo.wiring import telling
from storage.database import optuna_tables
from storage.database.clock import to_datetime
from storage.database.engine import Database
from storage.database.optuna_tables import TrialState
from storage.database.records import StudyRow, TicketState
from storage.database.tables import attempt, metric, ticket, worker
from storage.queue import optuna_rows

_trials = optuna_tables.trials
_values = optuna_tables.values
_params = optuna_tables.params
_reports = optuna_tables.reports
_attributes = optuna_tables.user_attributes

CHUNK = 500  # ids in one IN (...)
_NOT_FINITE = {"NAN": math.nan, "INF_POS": math.inf, "INF_NEG": -math.inf}
_VALUE_KIND = sa.type_coerce(_values.c.value_type, sa.String)  # as text: an Enum for each of 200,000 rows
_REPORT_KIND = sa.type_coerce(_reports.c.intermediate_value_type, sa.String)  # takes longer than the query

Mine = Callable[[Any], Any]  # a column of trial ids -> the condition that picks the trials


def end_column() -> sa.Case[Any]:
    """How one of Optuna's trials ended, as people see it; NULL when it has not."""
    return sa.case(
        (_trials.c.state == TrialState.COMPLETE, "complete"),
        (_trials.c.state == TrialState.PRUNED, "pruned"),
        (optuna_rows.diverged(), "diverged"),
        (_trials.c.state == TrialState.FAIL, "failed"),
    )


def read_records(
    connection: Connection, row: StudyRow, ids: Collection[int] | None = None
) -> dict[int, TrialRecord]:
    """The trials of these ids (Optuna's), or all of the study, by id; without their named metrics."""
    workers = {found.id: found.name for found in connection.execute(sa.select(worker.c.id, worker.c.name))}
    if ids is None:
        every = sa.select(_trials.c.trial_id).where(_trials.c.study_id == row.optuna_study_id)
        return _read(connection, lambda column: column.in_(every), workers)
    records: dict[int, TrialRecord] = {}
    for chunk in _chunks(ids):
        records.update(_read(connection, _among(chunk), workers))
    return records


def read_trial(database: Database, row: StudyRow, number: int) -> TrialRecord | None:
    """One trial with all its reports and metrics; None when there is none of that number.

    Raises:
        DatabaseError
    """

    def read(connection: Connection) -> TrialRecord | None:
        found = connection.scalar(
            sa.select(_trials.c.trial_id).where(
                _trials.c.study_id == row.optuna_study_id, _trials.c.number == number
            )
        )
        if found is None:
            return None
        record = read_records(connection, row, [found])[found]
        return dataclasses.replace(record, metrics=read_metrics(connection, [found])[found])

    with telling():
        return database.read(read)


def count_trials(database: Database, row: StudyRow) -> int:
    """How many trials the study has, in whatever state.

    Raises:
        DatabaseError
    """
    count = sa.select(sa.func.count()).where(_trials.c.study_id == row.optuna_study_id)
    with telling():
        return database.read(lambda connection: int(connection.scalar(count) or 0))


def metrics_of(database: Database, row: StudyRow, numbers: Collection[int]) -> dict[int, Any]:
    """Named metrics of these trials: number -> name -> step -> value.

    Raises:
        DatabaseError
    """

    def read(connection: Connection) -> dict[int, Any]:
        wanted = {
            found.trial_id: found.number
            for chunk in _chunks(numbers)
            for found in connection.execute(
                sa.select(_trials.c.trial_id, _trials.c.number).where(
                    _trials.c.study_id == row.optuna_study_id, _trials.c.number.in_(chunk)
                )
            )
        }
        found = read_metrics(connection, list(wanted))
        return {number: found[trial_id] for trial_id, number in wanted.items()}

    with telling():
        return database.read(read)


def read_metrics(connection: Connection, ids: Collection[int]) -> dict[int, dict[str, dict[int, float]]]:
    """Named metrics of the trials of these ids (Optuna's): id -> name -> step -> value."""
    found: dict[int, dict[str, dict[int, float]]] = {trial_id: {} for trial_id in ids}
    columns = (metric.c.trial_id, metric.c.name, metric.c.step, metric.c.value)
    for chunk in _chunks(ids):
        query = sa.select(*columns).where(metric.c.trial_id.in_(chunk)).order_by(metric.c.step)
        for trial_id, name, step, value in connection.execute(query).all():
            if value is not None:
                found[trial_id].setdefault(name, {})[step] = value
    return found


def _read(connection: Connection, mine: Mine, workers: dict[str, str]) -> dict[int, TrialRecord]:
    values = _read_values(connection, mine)
    params, distributions = _read_params(connection, mine)
    reports = _read_reports(connection, mine)
    attributes = _read_attributes(connection, mine)
    tries: dict[int, list[Any]] = defaultdict(list)
    for found in connection.execute(
        sa.select(attempt, ticket.c.number.label("ticket"))
        .join(ticket, attempt.c.ticket_id == ticket.c.id)
        .where(mine(attempt.c.trial_id))
        .order_by(attempt.c.number)
    ).all():
        tries[found.trial_id].append(found)
    held = set(
        connection.scalars(
            sa.select(ticket.c.trial_id).where(mine(ticket.c.trial_id), ticket.c.state == TicketState.RUNNING)
        )
    )
    base = sa.select(_trials.c.trial_id, _trials.c.number, end_column())
    base = base.where(mine(_trials.c.trial_id)).order_by(_trials.c.trial_id)
    records = {}
    for trial_id, number, end in connection.execute(base).all():
        shown: TrialStateName = end or ("running" if trial_id in held else "waiting")
        attempts = tries.get(trial_id, [])
        last = attempts[-1] if attempts else None
        name = None if last is None else workers.get(last.worker_id, last.worker_id)
        ended = shown in ENDED
        several = values.get(trial_id, {})
        records[trial_id] = TrialRecord(
            number=number,
            state=shown,
            values=tuple(several[i] for i in sorted(several)) if shown == "complete" and several else None,
            params=params.get(trial_id, {}),
            distributions=optuna_tables.Distributions(distributions.get(trial_id, {})),
            reports=reports.get(trial_id, {}),
            user_attrs=attributes.get(trial_id, {}),
            attempts=len(attempts),
            spans=tuple(_span(found, workers) for found in attempts),
            ticket=number if last is None else last.ticket,
            worker=name,
            runner=None if last is None else f"{name}/{last.runner}",
            device=None if last is None else last.device,
            started=to_datetime(attempts[0].started_at) if attempts else None,
            finished=to_datetime(last.ended_at) if ended and last is not None else None,
            error=_last_error(attempts) if shown != "complete" else None,
        )
    return records


def _read_values(connection: Connection, mine: Mine) -> dict[int, dict[int, float]]:
    values: dict[int, dict[int, float]] = defaultdict(dict)
    query = sa.select(_values.c.trial_id, _values.c.objective, _values.c.value, _VALUE_KIND)
    for trial_id, objective, value, kind in _tuples(connection, query.where(mine(_values.c.trial_id))):
        values[trial_id][objective] = _NOT_FINITE.get(kind, value)
    return values


def _read_params(
    connection: Connection, mine: Mine
) -> tuple[dict[int, dict[str, Any]], dict[int, dict[str, str]]]:
    params: dict[int, dict[str, Any]] = defaultdict(dict)
    distributions: dict[int, dict[str, str]] = defaultdict(dict)
    texts: dict[str, str] = {}  # each once, however many trials have it
    query = sa.select(
        _params.c.trial_id, _params.c.param_name, _params.c.param_value, _params.c.distribution_json
    )
    query = query.where(mine(_params.c.trial_id)).order_by(_params.c.param_id)
    for trial_id, name, stored, text in _tuples(connection, query):
        distributions[trial_id][name] = texts.setdefault(text, text)
        params[trial_id][name] = optuna_tables.external(text)(stored)
    return params, distributions


def _read_reports(connection: Connection, mine: Mine) -> dict[int, dict[int, float]]:
    reports: dict[int, dict[int, float]] = defaultdict(dict)
    query = sa.select(_reports.c.trial_id, _reports.c.step, _reports.c.intermediate_value, _REPORT_KIND)
    query = query.where(mine(_reports.c.trial_id)).order_by(_reports.c.trial_id, _reports.c.step)
    for trial_id, step, value, kind in _tuples(connection, query):
        reports[trial_id][step] = value if value is not None else _NOT_FINITE[kind]
    return reports


def _read_attributes(connection: Connection, mine: Mine) -> dict[int, dict[str, Any]]:
    attributes: dict[int, dict[str, Any]] = defaultdict(dict)
    query = sa.select(_attributes.c.trial_id, _attributes.c.key, _attributes.c.value_json)
    query = query.where(mine(_attributes.c.trial_id)).order_by(_attributes.c.trial_user_attribute_id)
    for trial_id, key, text in _tuples(connection, query):
        attributes[trial_id][key] = json.loads(text)
    return attributes


def _tuples(connection: Connection, query: sa.Select[Any]) -> list[Any]:
    """The driver's own tuples, for columns that need no conversion.

    SQLAlchemy's rows of 200,000 reports take longer than the query, and the garbage collector, which need
    not look into tuples of numbers, visits each of them.
    """
    cursor = connection.execute(query).cursor
    return [] if cursor is None else list(cursor.fetchall())


def _span(found: Any, workers: dict[str, str]) -> AttemptSpan:
    lane = f"{workers.get(found.worker_id, found.worker_id)}/{found.runner}"
    started = to_datetime(found.started_at)
    assert started is not None
    return AttemptSpan(found.number, found.state, lane, started, to_datetime(found.ended_at))


def _last_error(attempts: list[Any]) -> str | None:
    """Last line of what ended the last attempt that was not given back."""
    for found in reversed(attempts):
        if found.error and found.state != "released":
            return str(found.error).strip().splitlines()[-1][:500]
    return None


def _among(chunk: list[int]) -> Mine:
    return lambda column: column.in_(chunk)


def _chunks(ids: Collection[int]) -> list[list[int]]:
    ordered = sorted(ids)
    return [ordered[i : i + CHUNK] for i in range(0, len(ordered), CHUNK)]
