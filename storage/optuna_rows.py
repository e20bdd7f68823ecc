"""Rows of Optuna's own tables, written as Optuna would write them, but in a transaction of ours.

Optuna's methods each commit by themselves, and creating a trial is tried again inside them when a
commit's answer is lost, which makes a second trial. Its readers see no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage import optuna_tables
from storage.optuna_tables import TrialState

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_studies = optuna_tables.studies
_trials = optuna_tables.trials
_params = optuna_tables.params
_values = optuna_tables.values
_reports = optuna_tables.reports
_trial_attributes = optuna_tables.system_attributes


@dataclass(frozen=True)
class Trial:
    """The Optuna trial of a claim."""

    id: int
    number: int


def insert_trial(
    connection: Connection,
    optuna_study_id: int,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
) -> Trial:
    """A new RUNNING trial with its parameters, numbered as Optuna numbers: by the trials before it.

    Safe beside others: the study's row is locked first, as Optuna does.
    """
    connection.execute(
        sa.select(_studies.c.study_id).where(_studies.c.study_id == optuna_study_id).with_for_update()
    )
    before = sa.select(sa.func.count()).where(_trials.c.study_id == optuna_study_id).scalar_subquery()
    row = connection.execute(
        sa.insert(_trials)
        .values(study_id=optuna_study_id, state=TrialState.RUNNING, datetime_start=_now(), number=before)
        .returning(_trials.c.trial_id, _trials.c.number)
    ).one()
    if params:
        insert_params(connection, row.trial_id, params, distributions)
    return Trial(row.trial_id, row.number)


def insert_params(
    connection: Connection,
    trial_id: int,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
) -> None:
    """Parameters in one statement, as `RDBStorage.set_trial_param` would write them one by one."""
    from optuna.distributions import distribution_to_json

    connection.execute(
        sa.insert(_params).values(
            [
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": distributions[name].to_internal_repr(value),
                    "distribution_json": distribution_to_json(distributions[name]),
                }
                for name, value in params.items()
            ]
        )
    )


def param_names(connection: Connection, trial_id: int) -> set[str]:
    """Names of the parameters that a trial has."""
    return set(connection.scalars(sa.select(_params.c.param_name).where(_params.c.trial_id == trial_id)))


def upsert_report(connection: Connection, trial_id: int, step: int, value: float) -> None:
    """One intermediate value; a step reported again is overwritten (Optuna keeps the old one)."""
    stored, kind = optuna_tables.stored(value)
    row = upsert(connection, _reports).values(
        trial_id=trial_id, step=step, intermediate_value=stored, intermediate_value_type=kind
    )
    connection.execute(
        row.on_conflict_do_update(
            index_elements=["trial_id", "step"],
            set_={
                "intermediate_value": row.excluded.intermediate_value,
                "intermediate_value_type": row.excluded.intermediate_value_type,
            },
        )
    )


def forget_after(connection: Connection, trial_id: int, step: int) -> None:
    """Drop a trial's reports after `step` and the rungs a pruner noted."""
    connection.execute(_reports.delete().where(_reports.c.trial_id == trial_id, _reports.c.step > step))
    connection.execute(
        _trial_attributes.delete().where(
            _trial_attributes.c.trial_id == trial_id,
            _trial_attributes.c.key.like("completed\\_rung%", escape="\\"),
        )
    )


def finish(
    connection: Connection, trial_id: int, state: TrialState, values: Sequence[float] | None = None
) -> bool:
    """End a RUNNING trial; False when it was not running any more."""
    ended = connection.execute(
        sa.update(_trials)
        .where(_trials.c.trial_id == trial_id, _trials.c.state == TrialState.RUNNING)
        .values(state=state, datetime_complete=_now())
    )
    if not ended.rowcount:
        return False
    if values is not None:
        rows = []
        for objective, value in enumerate(values):
            stored, kind = optuna_tables.stored(value)
            rows.append({"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind})
        connection.execute(sa.insert(_values).values(rows))
    return True


def upsert(connection: Connection, table: sa.Table) -> Any:
    """An INSERT that knows ON CONFLICT, of this database's dialect."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # takes as long to import as a short command's queries

    return postgresql.insert(table)


def _now() -> datetime:
    """Optuna stores naive UTC."""
    return datetime.now(UTC).replace(tzinfo=None)
