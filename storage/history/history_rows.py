"""Trials that ended elsewhere, written as the history of a new study: Optuna's rows and ours, in bulk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database import optuna_tables
from storage.database.clock import read_now
from storage.database.optuna_tables import TrialState
from storage.database.records import CONSTRAINT, AttemptState, StudyRow, StudyState, TicketState
from storage.database.tables import attempt, study, ticket
from storage.queue import optuna_rows

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

IMPORTED = "imported"  # stands where a worker's id and a device would

_trials = optuna_tables.trials
_params = optuna_tables.params
_values = optuna_tables.values
_reports = optuna_tables.reports
_attributes = optuna_tables.user_attributes
_marks = optuna_tables.system_attributes
_STATES: Mapping[str, TicketState] = {
    TrialState.COMPLETE: TicketState.COMPLETE,
    TrialState.PRUNED: TicketState.PRUNED,
    TrialState.FAIL: TicketState.FAILED,
}


def insert(connection: Connection, row: StudyRow, trials: Sequence[FrozenTrial]) -> None:
    """Number the trials from 0, give each a ticket and an attempt, and end the study.

    They are complete, pruned or failed, their parameters have distributions, and the study's budget is their
    number. Safe beside others: the study is new, and nobody sees it before this transaction commits.
    """
    now = read_now(connection)
    connection.execute(
        sa.insert(_trials),
        [
            {
                "study_id": row.optuna_study_id,
                "number": number,
                "state": trial.state.name,
                "datetime_start": trial.datetime_start or _naive(now),
                "datetime_complete": trial.datetime_complete or _naive(now),
            }
            for number, trial in enumerate(trials)
        ],
    )
    query = sa.select(_trials.c.trial_id).where(_trials.c.study_id == row.optuna_study_id)
    ids = list(connection.scalars(query.order_by(_trials.c.number)))
    for table, rows in _optuna_rows(list(zip(ids, trials, strict=True))).items():
        if rows:
            connection.execute(sa.insert(table), rows)
    connection.execute(
        sa.insert(ticket),
        [
            {
                "study_id": row.id,
                "number": number,
                "state": _state(trial),
                "attempt": 1,
                "failed": int(_state(trial) is TicketState.FAILED),
                "trial_id": trial_id,
                "trial_number": number,
            }
            for number, (trial_id, trial) in enumerate(zip(ids, trials, strict=True))
        ],
    )
    query = sa.select(ticket.c.id).where(ticket.c.study_id == row.id).order_by(ticket.c.number)
    tickets = list(connection.scalars(query))
    connection.execute(
        sa.insert(attempt),
        [
            {
                "ticket_id": ticket_id,
                "number": 1,
                "trial_id": trial_id,
                "trial_number": number,
                "worker_id": IMPORTED,
                "runner": 0,
                "device": IMPORTED,
                "state": AttemptState(_state(trial).value),
                "started_at": _seconds(trial.datetime_start, now),
                "ended_at": _seconds(trial.datetime_complete, now),
                "error": f"{_state(trial)} where it was imported from"
                if trial.state.name == TrialState.FAIL
                else None,
            }
            for number, (ticket_id, trial_id, trial) in enumerate(zip(tickets, ids, trials, strict=True))
        ],
    )
    connection.execute(
        study.update()
        .where(study.c.id == row.id)
        .values(state=StudyState.FINISHED, ended_at=now, ended_why=IMPORTED)
    )


def _state(trial: FrozenTrial) -> TicketState:
    return TicketState.DIVERGED if optuna_rows.DIVERGED in trial.system_attrs else _STATES[trial.state.name]


def _optuna_rows(trials: Sequence[tuple[int, FrozenTrial]]) -> dict[Any, list[dict[str, Any]]]:
    """What Optuna's own writers would have stored with each trial (id, trial), by table."""
    params, values, reports, attributes, marks = [], [], [], [], []
    for trial_id, trial in trials:
        params += optuna_rows.rows_of_params(trial_id, trial.params, trial.distributions)
        values += optuna_rows.rows_of_values(trial_id, trial.values or ())
        reports += [optuna_rows.row_of_report(trial_id, *one) for one in trial.intermediate_values.items()]
        for key, value in trial.user_attrs.items():
            attributes.append({"trial_id": trial_id, "key": key, "value_json": json.dumps(value)})
        whys = [why for why in (optuna_rows.DIVERGED, optuna_rows.BROKE) if why in trial.system_attrs]
        marks += [optuna_rows.row_of_mark(trial_id, why) for why in whys]
        for name, value in trial.constraints.items():
            key = CONSTRAINT + name
            marks.append({"trial_id": trial_id, "key": key, "value_json": json.dumps(value)})
    return {_params: params, _values: values, _reports: reports, _attributes: attributes, _marks: marks}


def _seconds(time: datetime | None, now: float) -> float:
    """Since the epoch; Optuna stores naive UTC."""
    return now if time is None else time.replace(tzinfo=UTC).timestamp()


def _naive(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
