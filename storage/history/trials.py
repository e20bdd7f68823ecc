"""The one reader of trials: one, some, or all of a study, column by column, from Optuna's tables and ours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Flag, auto
from types import MappingProxyType
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import to_datetime
from storage.database.optuna_tables import TrialState, reports, user_attributes, values
from storage.database.optuna_tables import trials as optuna_trials
from storage.database.records import AttemptState, Counts, StudyRow
from storage.database.tables import ticket
from storage.history import columns
from storage.history.records import (
    ENDED,
    FOREIGN,
    NOTE,
    STAR,
    TAGS,
    AttemptSpan,
    Confirmation,
    Direction,
    Machine,
    StudyHistory,
    TrialRecord,
    TrialStateName,
    front_of_values,
)
from storage.queue import optuna_rows

_BACK = 500  # trials' ids looked at again
OVERLAP = 200  # report ids looked at again
_SHOWN: dict[str, TrialStateName] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
_NOTHING: Mapping[Any, Any] = MappingProxyType({})  # shared: five empty dicts a trial are half the time


class Part(Flag):
    """What is read of a trial beside its number, state and values."""

    PARAMS = auto()
    REPORTS = auto()
    LAST_REPORT = auto()  # of each trial the last finite one, and how many there are
    PRUNED_AT = auto()  # of pruned trials, the last finite one: what they count with in pictures
    METRICS = auto()
    ATTRIBUTES = auto()
    ATTEMPTS = auto()  # who worked at it, when, and what went wrong
    WHOLE = PARAMS | REPORTS | METRICS | ATTRIBUTES | ATTEMPTS
    LINE = PARAMS | LAST_REPORT | ATTRIBUTES | ATTEMPTS  # what a line of a table shows
    OUTLINE = PRUNED_AT  # what the first picture of a big study shows


def read_trials(
    connection: Connection,
    row: StudyRow,
    ids: Collection[int] | None = None,
    *,
    with_: Part = Part.WHOLE,
    ended: bool = False,
) -> dict[int, TrialRecord]:
    """The trials of these ids (Optuna's), or all of the study, by id in the order they were made; of those
    that have `ended` alone.

    In a read transaction the tables are read as of one moment. What `with_` does not name is empty.
    """
    if ids is not None and not ids:
        return {}
    which = columns.among(ids) if ids is not None else columns.of_study(row.optuna_study_id, ended=ended)
    valued = columns.values_of(connection, which)
    chosen, distributions = columns.params_of(connection, which) if Part.PARAMS in with_ else ({}, {})
    reported = columns.reports_of(connection, which) if Part.REPORTS in with_ else {}
    if Part.LAST_REPORT in with_ or Part.PRUNED_AT in with_:
        reported = columns.last_reports(connection, which, every=Part.LAST_REPORT in with_)
    counted = columns.report_counts(connection, which) if Part.LAST_REPORT in with_ else None
    named = columns.named_metrics(connection, which) if Part.METRICS in with_ else {}
    noted = columns.attributes_of(connection, which) if Part.ATTRIBUTES in with_ else {}
    tries = columns.attempts_of(connection, which) if Part.ATTEMPTS in with_ else {}
    constrained = columns.constraints_of(connection, which)
    diverged = columns.diverged(connection, which)
    held = columns.held(connection, which)
    records = {}
    for trial_id, number, state, tried in columns.heads(connection, which):
        foreign = not tried and state != TrialState.WAITING
        runs = foreign and state == TrialState.RUNNING
        shown = _SHOWN.get(state, "running" if runs else held.get(trial_id, "waiting"))
        if shown == "failed" and trial_id in diverged:
            shown = "diverged"
        records[trial_id] = _with_attempts(
            TrialRecord(
                number=number,
                state=shown,
                values=valued.get(trial_id) if shown == "complete" else None,
                params=chosen.get(trial_id, _NOTHING),
                distributions=distributions.get(trial_id, _NOTHING),
                reports=reported.get(trial_id, _NOTHING),
                metrics=named.get(trial_id, _NOTHING),
                user_attrs=noted.get(trial_id, _NOTHING),
                constraints=constrained.get(trial_id, _NOTHING),
                counted=None if counted is None else counted.get(trial_id, 0),
                foreign=foreign,
            ),
            tries.get(trial_id, []) if Part.ATTEMPTS in with_ else None,
        )
    return records


def ids_of(connection: Connection, row: StudyRow, numbers: Collection[int]) -> dict[int, int]:
    """Optuna's ids by trial number; those that the study does not have are left out."""
    query = sa.select(optuna_trials.c.number, optuna_trials.c.trial_id).where(
        optuna_trials.c.study_id == row.optuna_study_id, columns.is_among(optuna_trials.c.number)
    )
    return dict(columns.tuples(connection, query, columns.among(numbers).given))


def read_trial(
    connection: Connection, row: StudyRow, number: int, *, with_: Part = Part.WHOLE
) -> TrialRecord | None:
    """One trial; None when there is none of that number."""
    ids = ids_of(connection, row, [number]).values()
    return next(iter(read_trials(connection, row, ids, with_=with_).values()), None)


def ranked(optuna_study_id: int, direction: str, *, ours: bool = False) -> sa.Select[Any]:
    """Complete trials, feasible ones first, then those with a finite value, the best first, the earliest of
    equals: id, number, value, whether that is finite, and whether the trial is feasible.

    `ours`: no foreign ones.
    """
    best = values.c.value.desc() if direction == "maximize" else values.c.value.asc()
    feasible = optuna_rows.feasible().label("feasible")
    finite = (values.c.value_type == "FINITE").label("finite")
    query = (
        sa.select(optuna_trials.c.trial_id, optuna_trials.c.number, values.c.value, finite, feasible)
        .join(values, (values.c.trial_id == optuna_trials.c.trial_id) & (values.c.objective == 0))
        .where(optuna_trials.c.study_id == optuna_study_id, optuna_trials.c.state == TrialState.COMPLETE)
        .order_by(feasible.desc(), finite.desc(), best, optuna_trials.c.number)
    )
    return query.join(ticket, ticket.c.trial_id == optuna_trials.c.trial_id) if ours else query


@dataclasses.dataclass(frozen=True)
class Leader:
    """The best trial of a study with one direction, in short."""

    id: int  # Optuna's
    number: int
    value: float


def leader(
    connection: Connection, optuna_study_id: int, direction: str, *, ours: bool = False
) -> Leader | None:
    """The best trial, the one that `best_of` finds (`ours`: of all but foreign ones); None without one."""
    first = connection.execute(ranked(optuna_study_id, direction, ours=ours).limit(1)).first()
    if first is None or not (first.feasible and first.finite):
        return None
    return Leader(first.trial_id, first.number, first.value)


def front(connection: Connection, optuna_study_id: int, directions: Sequence[str]) -> set[int]:
    """Complete trials, of all but foreign ones, that no other beats; infeasible and infinite ones only while
    all are so.
    """
    rows = connection.execute(ranked(optuna_study_id, directions[0], ours=True))
    feasible = {row.trial_id: row.feasible for row in rows}
    found = columns.values_of(connection, columns.among(feasible))
    points = {one: found[one] for one in feasible}
    able = {one: point for one, point in points.items() if feasible[one] and all(map(math.isfinite, point))}
    return front_of_values(able or points, directions)


def count_trials(connection: Connection, row: StudyRow) -> int:
    """How many trials the study has, in whatever state."""
    count = sa.select(sa.func.count()).where(optuna_trials.c.study_id == row.optuna_study_id)
    return int(connection.scalar(count) or 0)


def marked_ids(connection: Connection, row: StudyRow) -> set[int]:
    """Optuna's ids of the trials that a person starred, tagged or noted something with, ever."""
    mine = sa.select(user_attributes.c.trial_id).join(
        optuna_trials, optuna_trials.c.trial_id == user_attributes.c.trial_id
    )
    its = optuna_trials.c.study_id == row.optuna_study_id
    return set(connection.scalars(mine.where(its, user_attributes.c.key.in_((STAR, TAGS, NOTE)))))


def first_complete(connection: Connection, row: StudyRow, count: int) -> list[int]:
    """Optuna's ids of the first few complete trials."""
    mine = sa.select(optuna_trials.c.trial_id).where(
        optuna_trials.c.study_id == row.optuna_study_id, optuna_trials.c.state == TrialState.COMPLETE
    )
    return list(connection.scalars(mine.order_by(optuna_trials.c.trial_id).limit(count)))


def newest_report(connection: Connection) -> int:
    """The highest id of a report in the database; 0 without one."""
    return connection.scalar(sa.select(sa.func.max(reports.c.trial_intermediate_value_id))) or 0


def changed_since(
    connection: Connection, row: StudyRow, *, newest: int, last_report: int | None
) -> tuple[set[int], set[int]]:
    """Ids (Optuna's) of trials about as new as `newest` or newer, and of those that reported since.

    On PostgreSQL a lower id may be committed after a higher one, so both look back a little. `last_report`
    None: nobody reported.
    """
    mine = sa.select(optuna_trials.c.trial_id).where(optuna_trials.c.study_id == row.optuna_study_id)
    new = set(connection.scalars(mine.where(optuna_trials.c.trial_id > newest - _BACK)))
    if last_report is None:
        return new, set()
    since = reports.c.trial_intermediate_value_id > last_report - OVERLAP
    return new, set(connection.scalars(sa.select(reports.c.trial_id).where(since).distinct()))


def metrics_of(
    connection: Connection, row: StudyRow, numbers: Collection[int], names: Collection[str] | None = None
) -> dict[int, dict[str, dict[int, float]]]:
    """Named metrics of these trials: number -> name -> step -> value; `names`: of these alone."""
    wanted = ids_of(connection, row, numbers)
    found = read_metrics(connection, wanted.values(), names)
    return {number: found[trial_id] for number, trial_id in wanted.items()}


def read_metrics(
    connection: Connection, ids: Collection[int], names: Collection[str] | None = None
) -> dict[int, dict[str, dict[int, float]]]:
    """Named metrics of the trials of these ids (Optuna's): id -> name -> step -> value; or `names` alone."""
    found: dict[int, dict[str, dict[int, float]]] = {trial_id: {} for trial_id in ids}
    return found | columns.named_metrics(connection, columns.among(ids), names)


def history_of(
    row: StudyRow,
    trials: Collection[TrialRecord],
    *,
    counts: Counts | None = None,
    winner_evaluation: Callable[[int], Mapping[str, Any] | None] = lambda number: None,
    confirmation: Confirmation | None = None,
    machines: tuple[Machine, ...] = (),
) -> StudyHistory:
    """The study with these trials, in any order, and what else somebody asks for.

    `winner_evaluation` reads what the trial to use, by its number, left of its validation.
    """
    history = StudyHistory(
        name=row.name,
        state=row.state.value,
        directions=cast(tuple[Direction, ...], tuple(row.spec["directions"])),
        spec=row.spec,
        trials=tuple(sorted(trials, key=lambda trial: trial.number)),
        created=to_datetime(row.created_at),
        waiting=0 if counts is None else counts.shown_in(row.state).untried,
        budget_trials=row.budget_trials,
        confirmation=confirmation,
        machines=machines,
    )
    if history.chosen is None:
        return history
    number = history.chosen.number
    found = dataclasses.replace(
        history, winner_evaluation=winner_evaluation(number), test_evaluation=row.test_of(number)
    )
    vars(found).update(best=history.best, chosen=history.chosen)  # of the same trials: not looked for again
    return found


def _with_attempts(record: TrialRecord, attempts: list[Any] | None) -> TrialRecord:
    """The record with who worked at it and when; None: that was not read."""
    if attempts is None:
        return record
    if not attempts:
        where = FOREIGN if record.foreign else None
        return dataclasses.replace(record, attempts=0, ticket=record.number, worker=where, runner=where)
    first, last = attempts[0], attempts[-1]
    name = last.worker or last.worker_id
    return dataclasses.replace(
        record,
        attempts=len(attempts),
        spans=tuple(_span(found) for found in attempts),
        ticket=last.ticket,
        worker=name,
        runner=f"{name}/{last.runner}",
        device=last.device,
        started=to_datetime(first.started_at),
        finished=to_datetime(last.ended_at) if record.state in ENDED else None,
        error=_last_error(attempts) if record.state != "complete" else None,
        asked_by=last.asked_by,
        asked_why=last.asked_why,
    )


def _span(found: Any) -> AttemptSpan:
    started = to_datetime(found.started_at)
    assert started is not None
    lane = f"{found.worker or found.worker_id}/{found.runner}"
    return AttemptSpan(found.number, found.state, lane, started, to_datetime(found.ended_at))


def _last_error(attempts: list[Any]) -> str | None:
    """Last line of what ended the last attempt that was not given back."""
    for found in reversed(attempts):
        if found.error and found.state != AttemptState.RELEASED:
            return str(found.error).strip().splitlines()[-1][:500]
    return None
