"""Rows of Optuna's own tables, written as Optuna would write them, but in a transaction of ours.

Optuna's methods each commit by themselves, and creating a trial is tried again inside them when a
commit's answer is lost, which makes a second trial. Its readers see no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

_studies: Any = models.StudyModel.__table__
_trials: Any = models.TrialModel.__table__
_params: Any = models.TrialParamModel.__table__
_values: Any = models.TrialValueModel.__table__
_reports: Any = models.TrialIntermediateValueModel.__table__
_trial_attributes: Any = models.TrialSystemAttributeModel.__table__


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
    connection.execute(
        sa.insert(_params),
        [
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": distributions[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(distributions[name]),
            }
            for name, value in params.items()
        ],
    )


def param_names(connection: Connection, trial_id: int) -> set[str]:
    """Names of the parameters that a trial has."""
    return set(connection.scalars(sa.select(_params.c.param_name).where(_params.c.trial_id == trial_id)))


def upsert_report(connection: Connection, trial_id: int, step: int, value: float) -> None:
    """One intermediate value; a step reported again is overwritten (Optuna keeps the old one)."""
    stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
    row = {
        "trial_id": trial_id,
        "step": step,
        "intermediate_value": stored,
        "intermediate_value_type": kind,
    }
    connection.execute(_upsert_report(connection.dialect.name), row)


@cache
def _upsert_report(dialect: str) -> Any:
    """Made once: SQLAlchemy compiles a statement anew that has its values inside."""
    row = upsert(dialect, _reports)
    return row.on_conflict_do_update(
        index_elements=["trial_id", "step"],
        set_={
            "intermediate_value": row.excluded.intermediate_value,
            "intermediate_value_type": row.excluded.intermediate_value_type,
        },
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
            stored, kind = models.TrialValueModel.value_to_stored_repr(value)
            rows.append({"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind})
        connection.execute(sa.insert(_values), rows)
    return True


def upsert(dialect: str, table: sa.Table) -> Any:
    """An INSERT that knows ON CONFLICT, of this dialect."""
    return (sqlite.insert if dialect == "sqlite" else postgresql.insert)(table)


def _now() -> datetime:
    """Optuna stores naive UTC."""
    return datetime.now(UTC).replace(tzinfo=None)
