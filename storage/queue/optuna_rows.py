"""Rows of Optuna's own tables, written as Optuna would write them, but in a transaction of ours.

Optuna's methods each commit by themselves, and creating a trial is tried again inside them when a
commit's answer is lost, which makes a second trial. Its readers see no difference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database import optuna_tables
from storage.database.errors import StudyExistsError
from storage.database.optuna_tables import TrialState
from storage.database.records import CONSTRAINT

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# System attributes of a failed trial, which samplers read: its setting diverged; or training with it failed,
# out of memory for instance, as often as it was tried.
DIVERGED, BROKE = "hpo:diverged", "hpo:broke"
_OLD_CONSTRAINTS = "constraints"  # a list of them, as a sampler's `constraints_func` left it in Optuna 4

_studies = optuna_tables.studies
_directions = optuna_tables.study_directions
_trials = optuna_tables.trials
_params = optuna_tables.params
_values = optuna_tables.values
_reports = optuna_tables.reports
ADDED = "hpo:added"  # system attribute of a trial that a person added: no ticket is behind it
_trial_attributes = optuna_tables.system_attributes
Owner = Literal["user", "system", "study user", "study system"]  # whose attribute it is, and who reads it
_ATTRIBUTES: Mapping[Owner, sa.Table] = {
    "user": optuna_tables.user_attributes,
    "system": optuna_tables.system_attributes,
    "study user": optuna_tables.study_user_attributes,
    "study system": optuna_tables.study_system_attributes,
}


# Made once, as in `storage.queue.locks`.
_STUDY = sa.select(_studies.c.study_id).where(_studies.c.study_id == sa.bindparam("study")).with_for_update()
_NEWEST = (
    sa.select(_trials.c.number)
    .where(_trials.c.study_id == sa.bindparam("its_study", type_=sa.Integer()))
    .order_by(_trials.c.trial_id.desc())
    .limit(1)
)
_NEW_TRIALS = sa.insert(_trials).returning(_trials.c.trial_id, _trials.c.number)
_NEW_PARAMS = sa.insert(_params)
_NEW_VALUES = sa.insert(_values)
_END = (
    sa.update(_trials)
    .where(_trials.c.trial_id == sa.bindparam("trial"), _trials.c.state == TrialState.RUNNING)
    .values(state=sa.bindparam("ended"), datetime_complete=sa.bindparam("now"))
)


_waits = _trials.c.state == TrialState.WAITING
_LATER = sa.select(
    sa.func.max(_trials.c.trial_id).label("newest"),
    sa.func.min(sa.case((_waits, _trials.c.trial_id))).label("waiting"),
).where(_trials.c.study_id == sa.bindparam("study"), _trials.c.trial_id > sa.bindparam("after"))
_WAITING = (
    sa.select(_trials.c.trial_id, _trials.c.number)
    .where(_trials.c.study_id == sa.bindparam("study"), _waits)
    .where(_trials.c.trial_id >= sa.bindparam("first"))
    .order_by(_trials.c.trial_id)
    .limit(1)
    .with_for_update(skip_locked=True)
)
_RUNS = (
    sa.update(_trials)
    .where(_trials.c.trial_id == sa.bindparam("trial"), _waits)
    .values(state=TrialState.RUNNING, datetime_start=sa.bindparam("now"))
)
_POINT = sa.select(_trial_attributes.c.value_json).where(
    _trial_attributes.c.trial_id == sa.bindparam("trial"), _trial_attributes.c.key == "fixed_params"
)


@dataclass(frozen=True)
class Trial:
    """The Optuna trial of a claim."""

    id: int
    number: int


def insert_trials(
    connection: Connection,
    optuna_study_id: int,
    points: Sequence[Mapping[str, Any]],
    distributions: Mapping[str, BaseDistribution],
) -> list[Trial]:
    """New RUNNING trials with these parameters, numbered as Optuna numbers: after the newest.

    Safe beside others: the study's row is locked first, as Optuna does.
    """
    connection.execute(_STUDY, {"study": optuna_study_id})
    newest = connection.scalar(_NEWEST, {"its_study": optuna_study_id})
    first = 0 if newest is None else newest + 1
    new = {"study_id": optuna_study_id, "state": TrialState.RUNNING, "datetime_start": _now()}
    new_rows = [{**new, "number": number} for number in range(first, first + len(points))]
    made = [Trial(*row) for row in connection.execute(_NEW_TRIALS, new_rows)]
    made.sort(key=lambda one: one.number)
    each = zip(made, points, strict=True)
    if rows := [row for trial, params in each for row in rows_of_params(trial.id, params, distributions)]:
        connection.execute(_NEW_PARAMS, rows)
    return made


def rows_of_params(
    trial_id: int, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
) -> list[dict[str, Any]]:
    """A trial's parameters as Optuna's table has them."""
    from optuna.distributions import distribution_to_json

    return [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(distributions[name]),
        }
        for name, value in params.items()
    ]


def rows_of_values(trial_id: int, values: Sequence[float]) -> list[dict[str, Any]]:
    """A trial's values, one a direction, as Optuna's table has them."""
    stored = enumerate(map(optuna_tables.stored, values))
    return [
        {"trial_id": trial_id, "objective": place, "value": value, "value_type": kind}
        for place, (value, kind) in stored
    ]


def row_of_report(trial_id: int, step: int, value: float) -> dict[str, Any]:
    """An intermediate value as Optuna's table has it."""
    stored, kind = optuna_tables.stored(value)
    held = {"intermediate_value": stored, "intermediate_value_type": kind}
    return {"trial_id": trial_id, "step": step, **held}


def take_waiting(
    connection: Connection, optuna_study_id: int, after: int = 0
) -> tuple[Trial | None, str | None, int]:
    """The first trial that plain Optuna's `enqueue_trial` left waiting, RUNNING now, and its point as JSON.

    Safe beside plain Optuna, which takes one by the same change of its row: whoever makes it has the trial.

    Returns at the end up to which trial's id none waits; `after` is what an earlier call has returned. It is
    good once the transaction is committed: trials get their ids with their study's row locked, and none that
    ran or ended waits again.
    """
    newest, waiting = connection.execute(_LATER, {"study": optuna_study_id, "after": after}).one()
    if waiting is None:
        return None, None, newest or after
    found = connection.execute(_WAITING, {"study": optuna_study_id, "first": waiting}).first()
    if found is None or not connection.execute(_RUNS, {"trial": found.trial_id, "now": _now()}).rowcount:
        return None, None, waiting - 1
    return Trial(*found), connection.scalar(_POINT, {"trial": found.trial_id}), waiting - 1


def add_params(
    connection: Connection,
    trial_id: int,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
) -> None:
    """Write a stored trial's further parameters; those already there stay."""
    there = set(connection.scalars(sa.select(_params.c.param_name).where(_params.c.trial_id == trial_id)))
    missing = {name: value for name, value in params.items() if name not in there}
    if missing:
        connection.execute(_NEW_PARAMS, rows_of_params(trial_id, missing, distributions))


def upsert_reports(connection: Connection, reported: Sequence[tuple[int, int, float]]) -> None:
    """Intermediate values, each (trial, step, value); a step reported again is overwritten."""
    rows = [row_of_report(*one) for one in reported]
    if rows:
        connection.execute(overwriting(connection.dialect.name, _reports, "trial_id", "step"), rows)


def forget_after(connection: Connection, trials: Sequence[Mapping[str, Any]]) -> None:
    """Drop reports of each `trial` `after` a step, constraints, and the rungs an older version noted."""
    for forget in _forgetting():
        connection.execute(forget, trials)


@cache
def _forgetting() -> tuple[sa.Delete, sa.Delete]:
    its = _trial_attributes.c
    old = its.key.like("completed\\_rung%", escape="\\") | is_constraint(_trial_attributes)
    later = _reports.c.step > sa.bindparam("after")
    return (
        _reports.delete().where(_reports.c.trial_id == sa.bindparam("trial"), later),
        _trial_attributes.delete().where(its.trial_id == sa.bindparam("trial"), old),
    )


def set_attribute(connection: Connection, of: Owner, owner_id: int, key: str, value_json: str) -> None:
    """An attribute of a trial or a study (`owner_id`), as JSON; a key set again is overwritten."""
    set_attributes(connection, [(of, owner_id, key, value_json)])


def set_attributes(connection: Connection, attributes: Sequence[tuple[Owner, int, str, str]]) -> None:
    """As `set_attribute` sets one each, in this order."""
    rows: dict[Owner, list[dict[str, Any]]] = {}
    for of, owner_id, key, value_json in attributes:
        row = {_key_of(of): owner_id, "key": key, "value_json": value_json}
        rows.setdefault(of, []).append(row)
    for of, each in rows.items():
        connection.execute(overwriting(connection.dialect.name, _ATTRIBUTES[of], _key_of(of), "key"), each)


def _key_of(of: Owner) -> str:
    return "study_id" if of.startswith("study") else "trial_id"


def study_attributes(connection: Connection, optuna_study_id: int, of: Owner) -> dict[str, Any]:
    """A study's user or system attributes."""
    table = _ATTRIBUTES[of]
    rows = connection.execute(
        sa.select(table.c.key, table.c.value_json).where(table.c.study_id == optuna_study_id)
    )
    return {row.key: json.loads(row.value_json) for row in rows}


def finish(
    connection: Connection, trial_id: int, state: TrialState, values: Sequence[float] | None = None
) -> bool:
    """End a RUNNING trial; False when it was not running any more."""
    ended = connection.execute(_END, {"trial": trial_id, "ended": state, "now": _now()})
    if not ended.rowcount:
        return False
    if values is not None:
        connection.execute(_NEW_VALUES, rows_of_values(trial_id, values))
    return True


def finish_all(connection: Connection, which: sa.Select[tuple[int]], *, pruned: bool) -> None:
    """End these trials, of those that run: pruned, each with its last report as its value, or failed."""
    if pruned:
        newest = (
            sa.select(_reports.c.trial_id, sa.func.max(_reports.c.step).label("step"))
            .where(_reports.c.trial_id.in_(which))
            .group_by(_reports.c.trial_id)
            .subquery()
        )
        kind = sa.cast(sa.cast(_reports.c.intermediate_value_type, sa.String), _values.c.value_type.type)
        last = sa.select(_reports.c.trial_id, sa.literal(0), _reports.c.intermediate_value, kind)
        last = last.join(
            newest, (newest.c.trial_id == _reports.c.trial_id) & (newest.c.step == _reports.c.step)
        )
        connection.execute(
            sa.insert(_values).from_select(["trial_id", "objective", "value", "value_type"], last)
        )
    ended = TrialState.PRUNED if pruned else TrialState.FAIL
    connection.execute(
        sa.update(_trials)
        .where(_trials.c.trial_id.in_(which), _trials.c.state == TrialState.RUNNING)
        .values(state=ended, datetime_complete=_now())
    )


def names(connection: Connection) -> set[str]:
    """Every study's, also those of plain Optuna."""
    return set(connection.scalars(sa.select(_studies.c.study_name)))


def rename_study(connection: Connection, optuna_study_id: int, name: str) -> None:
    """Give the study another name, which must be free."""
    which = _studies.c.study_id == optuna_study_id
    connection.execute(_studies.update().where(which).values(study_name=name))


def make_study(connection: Connection, name: str, directions: Sequence[str]) -> int:
    """Optuna's own study of that name, as `optuna.create_study` makes it; an empty one is taken as it is.

    Safe beside plain Optuna and others: of two that make one of this name, one meets an `IntegrityError`.

    Raises:
        StudyExistsError: Optuna has one with trials, or of other directions.
    """
    there = connection.scalar(sa.select(_studies.c.study_id).where(_studies.c.study_name == name))
    if there is None:
        new = _studies.insert().values(study_name=name).returning(_studies.c.study_id)
        made: int = connection.execute(new).scalar_one()
        rows = [
            {"study_id": made, "objective": place, "direction": direction.upper()}
            for place, direction in enumerate(directions)
        ]
        connection.execute(_directions.insert(), rows)
        return made
    its = sa.select(_directions.c.direction).where(_directions.c.study_id == there)
    found = connection.scalars(its.order_by(_directions.c.objective)).all()
    count = connection.scalar(sa.select(sa.func.count()).where(_trials.c.study_id == there))
    if count or [direction.lower() for direction in found] != list(directions):
        raise StudyExistsError(
            f"an Optuna study named {name} with {count} trials is in this database already; give this one "
            "another name"
        )
    return int(there)


def delete_study(connection: Connection, optuna_study_id: int) -> None:
    """Delete the study with its trials and everything of theirs.

    Safe beside others: its row and its trials' are locked first, so that what plain Optuna adds to them
    meanwhile comes before or not at all.
    """
    study = sa.select(_studies.c.study_id).where(_studies.c.study_id == optuna_study_id)
    trials = sa.select(_trials.c.trial_id).where(_trials.c.study_id == optuna_study_id)
    connection.execute(study.with_for_update()).all()
    connection.execute(trials.order_by(_trials.c.trial_id).with_for_update()).all()
    for table in reversed(optuna_tables.metadata.sorted_tables):
        if table.c.get("study_id") is not None:
            connection.execute(table.delete().where(table.c.study_id == optuna_study_id))
        elif table.c.get("trial_id") is not None:
            connection.execute(table.delete().where(table.c.trial_id.in_(trials)))


def mark(connection: Connection, trial_id: int, why: str) -> None:
    """Tell those who learn from a trial why it ended as FAIL: DIVERGED or BROKE."""
    connection.execute(sa.insert(_trial_attributes).values(row_of_mark(trial_id, why)))


def row_of_mark(trial_id: int, why: str) -> dict[str, Any]:
    """The row that says so."""
    return {"trial_id": trial_id, "key": why, "value_json": "true"}


def unmark(connection: Connection, trials: sa.Select[Any]) -> None:
    """A person has these trials tried again: whether their settings broke them is open."""
    its = _trial_attributes.c
    connection.execute(_trial_attributes.delete().where(its.trial_id.in_(trials) & (its.key == BROKE)))


def diverged() -> sa.ColumnElement[bool]:
    """Whether a row of Optuna's trials is marked so, in a query of them."""
    marked = sa.exists().where(
        _trial_attributes.c.trial_id == _trials.c.trial_id, _trial_attributes.c.key == DIVERGED
    )
    return sa.and_(_trials.c.state == TrialState.FAIL, marked)


def is_constraint(table: sa.Table) -> sa.ColumnElement[bool]:
    """Whether a row of Optuna's system attributes holds constraints."""
    begins = sa.func.substr(table.c.key, 1, len(CONSTRAINT)) == CONSTRAINT
    return sa.or_(begins, table.c.key == _OLD_CONSTRAINTS)


def constraints_of(attributes: Mapping[str, str]) -> dict[str, float]:
    """A trial's constraints by name, of its system attributes as they are stored: keys and JSON."""
    old = json.loads(attributes.get(_OLD_CONSTRAINTS, "null")) or ()
    return {str(place): value for place, value in enumerate(old)} | {
        key.removeprefix(CONSTRAINT): json.loads(text)
        for key, text in attributes.items()
        if key.startswith(CONSTRAINT)
    }


def feasible() -> sa.ColumnElement[bool]:
    """Whether a row of Optuna's trials breaks no constraint, in a query of them.

    Numbers are told by their text: no cast of both databases reads what JSON calls Infinity. Of the list of
    a trial's numbers, or its one, zeros and negative ones are taken away; a trial that is left with any is
    infeasible.
    """
    listed = sa.func.replace(sa.func.replace(_trial_attributes.c.value_json, "[", ""), "]", "")
    rest: Any = sa.literal(" ").concat(listed).concat(",")
    for harmless in (" 0.0,", " 0,", " null,", " ,", " -"):
        rest = sa.func.replace(rest, harmless, "")
    broken = sa.exists().where(
        _trial_attributes.c.trial_id == _trials.c.trial_id,
        is_constraint(_trial_attributes),
        rest.contains(" "),
    )
    return ~broken


def is_feasible(connection: Connection, trial_id: int) -> bool:
    """Whether a trial breaks no constraint."""
    this = sa.select(_trials.c.trial_id).where(_trials.c.trial_id == trial_id)
    return connection.execute(this.where(feasible())).first() is not None


@cache
def overwriting(dialect: str, table: sa.Table, *key: str, **also: Any) -> Any:
    """An INSERT that writes over the row that has its `key`; `also`: expressions of a module, for all rows.

    Made once: SQLAlchemy compiles a statement anew that has its values inside.
    """
    new = upsert(dialect, table).values(also) if also else upsert(dialect, table)
    ours = [column.name for column in table.columns if column.name not in key and not column.primary_key]
    return new.on_conflict_do_update(index_elements=key, set_={name: new.excluded[name] for name in ours})


def upsert(dialect: str, table: sa.Table) -> Any:
    """An INSERT that knows ON CONFLICT, of this dialect."""
    if dialect == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # takes as long to import as a short command's queries

    return postgresql.insert(table)


def _now() -> datetime:
    """Optuna stores naive UTC."""
    return datetime.now(UTC).replace(tzinfo=None)
