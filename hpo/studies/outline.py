"""A study in outline: every trial that ended with its value alone, for the first picture of a big study."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hpo.search.history import Direction, StudyHistory, TrialRecord
from hpo.studies.reading import best_of, read_evaluation
from hpo.studies.trials import end_column, read_metrics, read_records
from hpo.wiring import telling
from storage.database import optuna_tables
from storage.database.clock import to_datetime
from storage.database.engine import Database
from storage.database.optuna_tables import TrialState
from storage.database.records import StudyRow

_trials = optuna_tables.trials
_values = optuna_tables.values
_reports = optuna_tables.reports

SAMPLED = 12  # complete trials that are read whole, to tell what the objective's value is called
_NOTHING: Mapping[Any, Any] = MappingProxyType({})  # shared: five empty dicts a trial are half the time
_INFINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf}


def outline(database: Database, row: StudyRow) -> StudyHistory:
    """Numbers, states and values of the trials that ended; a pruned one's last report; a few whole ones.

    The values' names, the history of a search, its best and its Pareto front come out as they do from the
    whole history, at a tenth of the price.

    Raises:
        DatabaseError
    """

    def read(connection: Connection) -> list[TrialRecord]:
        found = _ended(connection, row)
        complete = [trial_id for trial_id, trial in found.items() if trial.state == "complete"]
        return list({**found, **_whole(connection, row, complete[:SAMPLED])}.values())

    with telling():
        trials = database.read(read)
    return _history(database, row, trials)


def sample(database: Database, row: StudyRow, best: int | None) -> StudyHistory:
    """The first few complete trials, whole, and the `best`: what tells how the values are called.

    Raises:
        DatabaseError
    """

    def read(connection: Connection) -> list[TrialRecord]:
        mine = sa.select(_trials.c.trial_id).where(_trials.c.study_id == row.optuna_study_id)
        complete = mine.where(_trials.c.state == TrialState.COMPLETE).order_by(_trials.c.trial_id)
        ids = set(connection.scalars(complete.limit(SAMPLED)))
        ids |= set(connection.scalars(mine.where(_trials.c.number == best)))
        return list(_whole(connection, row, ids).values())

    with telling():
        trials = database.read(read)
    return _history(database, row, trials)


def _ended(connection: Connection, row: StudyRow) -> dict[int, TrialRecord]:
    """Every trial that ended, by Optuna's id."""
    base = (
        sa.select(_trials.c.trial_id, _trials.c.number, end_column())
        .where(_trials.c.study_id == row.optuna_study_id, end_column().is_not(None))
        .order_by(_trials.c.trial_id)
    )
    mine = sa.select(_trials.c.trial_id).where(_trials.c.study_id == row.optuna_study_id)
    values = _read_values(connection, mine.where(_trials.c.state == TrialState.COMPLETE))
    last = _last_reports(connection, mine.where(_trials.c.state == TrialState.PRUNED))
    return {
        trial_id: TrialRecord(
            number=number,
            state=end,
            values=values.get(trial_id),
            params=_NOTHING,
            distributions=_NOTHING,
            reports=last.get(trial_id, _NOTHING),
            metrics=_NOTHING,
            user_attrs=_NOTHING,
        )
        for trial_id, number, end in connection.execute(base).all()
    }


def _read_values(connection: Connection, ids: Any) -> dict[int, tuple[float, ...]]:
    query = (
        sa.select(
            _values.c.trial_id, _values.c.value, sa.type_coerce(_values.c.value_type, sa.String).label("kind")
        )
        .where(_values.c.trial_id.in_(ids))
        .order_by(_values.c.trial_id, _values.c.objective)
    )
    found: dict[int, tuple[float, ...]] = defaultdict(tuple)
    for trial_id, value, kind in connection.execute(query).all():
        found[trial_id] += (_INFINITE.get(kind, value),)
    return found


def _last_reports(connection: Connection, ids: Any) -> dict[int, dict[int, float]]:
    """The report at the largest step whose value is finite."""
    mine = _reports.c.trial_id.in_(ids) & (_reports.c.intermediate_value_type == "FINITE")
    newest = (
        sa.select(_reports.c.trial_id, sa.func.max(_reports.c.step).label("step"))
        .where(mine)
        .group_by(_reports.c.trial_id)
        .subquery()
    )
    on = (_reports.c.trial_id == newest.c.trial_id) & (_reports.c.step == newest.c.step)
    query = sa.select(newest.c.trial_id, newest.c.step, _reports.c.intermediate_value).join(_reports, on)
    return {trial_id: {step: value} for trial_id, step, value in connection.execute(query).all()}


def _whole(connection: Connection, row: StudyRow, ids: Collection[int]) -> dict[int, TrialRecord]:
    found = read_records(connection, row, ids)
    metrics = read_metrics(connection, found)
    return {i: dataclasses.replace(record, metrics=metrics[i]) for i, record in found.items()}


def _history(database: Database, row: StudyRow, trials: list[TrialRecord]) -> StudyHistory:
    ordered = tuple(sorted(trials, key=lambda trial: trial.number))
    directions = cast(tuple[Direction, ...], tuple(row.spec["directions"]))
    winner = best_of(ordered, directions) if len(directions) == 1 else []
    return StudyHistory(
        name=row.name,
        state=row.state.value,
        directions=directions,
        spec=row.spec,
        trials=ordered,
        created=to_datetime(row.created_at),
        budget_trials=row.budget_trials,
        winner_evaluation=read_evaluation(database, row, winner[0].number) if winner else None,
    )
