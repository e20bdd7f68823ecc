"""A study's history kept in memory and brought up to date with what changed, instead of read anew."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections import defaultdict
from collections.abc import Collection
from functools import lru_cache
from typing import Any, cast

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy.engine import Connection

from hpo.search.history import Direction, StudyHistory, TrialRecord, TrialStateName
from hpo.studies.reading import best_of, read_evaluation
from hpo.wiring import telling
from storage import studies, tickets
from storage.clock import to_datetime
from storage.engine import Database
from storage.records import StudyRow, StudyState, TicketState
from storage.tables import attempt, metric, ticket, worker

_trials: Any = models.TrialModel.__table__
_values: Any = models.TrialValueModel.__table__
_params: Any = models.TrialParamModel.__table__
_reports: Any = models.TrialIntermediateValueModel.__table__

OVERLAP = 200  # report ids looked at again: on PostgreSQL a lower id may be committed after a higher one
CHUNK = 500  # ids in one IN (...)
SAMPLED = 12  # trials whose named metrics are read, to tell what the objective's value is called
_FINAL: dict[TrialState, TrialStateName] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_NOT_FINITE = {"NAN": math.nan, "INF_POS": math.inf, "INF_NEG": -math.inf}


class LiveStudy:
    """One study. `refresh` reads what is new and returns the whole history; safe to call from any thread.

    Records of trials that did not change are the same objects as before. Named metrics are not kept but
    for a few trials (`metrics_of` reads one); evaluations are read when the winner changes.
    """

    def __init__(self, database: Database, row: StudyRow) -> None:
        self.row = row
        self.version = 0  # rises with every change
        self._database = database
        self._lock = threading.Lock()
        self._records: dict[int, TrialRecord] = {}  # by Optuna's trial id
        self._open: set[int] = set()  # trials that have not ended
        self._last_report = 0
        self._history: StudyHistory | None = None
        self._counts: Any = None
        self._sampled: set[int] = set()
        self._evaluated: tuple[int, str | None] | None = None
        self._evaluation: Any = None

    @property
    def known(self) -> StudyHistory | None:
        """The history as of the last `refresh`; None before the first."""
        return self._history

    def refresh(self) -> StudyHistory:
        """The history as it is now.

        Raises:
            NotFoundError: the study was deleted.
            DatabaseError
        """
        with self._lock, telling():
            row, counts, changed = self._database.read(self._read)
            if self._history is None or changed or row != self.row or self._counts != counts:
                self.row = row
                self.version += 1
                self._history = self._build(counts)
            return self._history

    def _read(self, connection: Connection) -> tuple[StudyRow, Any, bool]:
        row = studies.get(connection, self.row.name)
        if row.uid != self.row.uid:  # deleted, and another one has its name now
            self._records, self._open, self._last_report = {}, set(), 0
            self._sampled, self._history = set(), None
        counts = tickets.counts(connection, row.id)
        touched = self._touched(connection, row)
        found = _read_records(connection, row, touched)
        for i in self._sampled & found.keys():
            found[i] = dataclasses.replace(found[i], metrics=self._records[i].metrics)
        new = {i: record for i, record in found.items() if self._records.get(i) != record}
        if new:
            self._records.update(new)
            self._open -= new.keys()
            self._open |= {i for i, record in new.items() if record.state in ("running", "waiting")}
            self._sample_metrics(connection)
        return row, counts, bool(new)

    def _touched(self, connection: Connection, row: StudyRow) -> set[int]:
        """Ids of trials that are new, have not ended, or reported since the last look."""
        mine = sa.select(_trials.c.trial_id).where(_trials.c.study_id == row.optuna_study_id)
        last = connection.scalar(sa.select(sa.func.max(_reports.c.trial_intermediate_value_id))) or 0
        newest = max(self._records, default=0)
        touched = set(connection.scalars(mine.where(_trials.c.trial_id > newest - CHUNK)))
        touched = {i for i in touched if i not in self._records} | self._open
        if self._records and last != self._last_report:
            since = self._last_report - OVERLAP
            reported = connection.scalars(
                sa.select(_reports.c.trial_id)
                .where(_reports.c.trial_intermediate_value_id > since)
                .distinct()
            )
            touched |= {i for i in reported if i in self._records}
        self._last_report = last
        return touched

    def _sample_metrics(self, connection: Connection) -> None:
        """Read the named metrics of the first few complete trials, once."""
        for trial_id, record in self._records.items():
            if len(self._sampled) >= SAMPLED:
                return
            if record.state == "complete" and trial_id not in self._sampled:
                self._sampled.add(trial_id)
                found = _metrics(connection, [trial_id])[trial_id]
                self._records[trial_id] = dataclasses.replace(record, metrics=found)

    def _build(self, counts: Any) -> StudyHistory:
        self._counts = counts
        row = self.row
        trials = tuple(sorted(self._records.values(), key=lambda record: record.number))
        directions = cast(tuple[Direction, ...], tuple(row.spec["directions"]))
        winner = best_of(trials, directions) if len(directions) == 1 else []
        note = row.test_evaluation if winner else None
        test = note.get("evaluation") if note and note.get("trial") == winner[0].number else None
        return StudyHistory(
            name=row.name,
            state=row.state.value,
            directions=directions,
            spec=row.spec,
            trials=trials,
            created=to_datetime(row.created_at),
            waiting=0 if row.state is StudyState.FINISHED else counts.waiting,
            budget_trials=row.budget_trials,
            winner_evaluation=self._winner_evaluation(winner[0]) if winner else None,
            test_evaluation=test if isinstance(test, dict) else None,
        )

    def _winner_evaluation(self, winner: TrialRecord) -> Any:
        key = (winner.number, self.row.uid)
        if self._evaluated != key:
            self._evaluation = read_evaluation(self._database, self.row, winner.number)
            self._evaluated = key if self._evaluation is not None else None
        return self._evaluation


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
        found = _metrics(connection, list(wanted))
        return {number: found[trial_id] for trial_id, number in wanted.items()}

    with telling():
        return database.read(read)


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
        record = _read_records(connection, row, {found})[found]
        return dataclasses.replace(record, metrics=_metrics(connection, [found])[found])

    with telling():
        return database.read(read)


def _read_records(connection: Connection, row: StudyRow, ids: Collection[int]) -> dict[int, TrialRecord]:
    if not ids:
        return {}
    workers = {found.id: found.name for found in connection.execute(sa.select(worker.c.id, worker.c.name))}
    records: dict[int, TrialRecord] = {}
    for chunk in _chunks(ids):
        records.update(_read_chunk(connection, row, chunk, workers))
    return records


def _read_chunk(
    connection: Connection, row: StudyRow, ids: list[int], workers: dict[str, str]
) -> dict[int, TrialRecord]:
    values: dict[int, dict[int, float]] = defaultdict(dict)
    for trial_id, objective, value, kind in connection.execute(
        sa.select(_values.c.trial_id, _values.c.objective, _values.c.value, _values.c.value_type).where(
            _values.c.trial_id.in_(ids)
        )
    ):
        values[trial_id][objective] = _NOT_FINITE.get(kind.name, value)
    params: dict[int, dict[str, Any]] = defaultdict(dict)
    distributions: dict[int, dict[str, BaseDistribution]] = defaultdict(dict)
    for trial_id, name, stored, text in connection.execute(
        sa.select(
            _params.c.trial_id, _params.c.param_name, _params.c.param_value, _params.c.distribution_json
        )
        .where(_params.c.trial_id.in_(ids))
        .order_by(_params.c.param_id)
    ):
        distribution = _distribution(text)
        distributions[trial_id][name] = distribution
        params[trial_id][name] = distribution.to_external_repr(stored)
    reports: dict[int, dict[int, float]] = defaultdict(dict)
    for trial_id, step, value, kind in connection.execute(
        sa.select(
            _reports.c.trial_id,
            _reports.c.step,
            _reports.c.intermediate_value,
            _reports.c.intermediate_value_type,
        )
        .where(_reports.c.trial_id.in_(ids))
        .order_by(_reports.c.step)
    ):
        reports[trial_id][step] = value if value is not None else _NOT_FINITE[kind.name]
    tries: dict[int, list[Any]] = defaultdict(list)
    for found in connection.execute(
        sa.select(attempt, ticket.c.number.label("ticket"))
        .join(ticket, attempt.c.ticket_id == ticket.c.id)
        .where(attempt.c.trial_id.in_(ids))
        .order_by(attempt.c.number)
    ):
        tries[found.trial_id].append(found)
    held = set(
        connection.scalars(
            sa.select(ticket.c.trial_id).where(
                ticket.c.trial_id.in_(ids), ticket.c.state == TicketState.RUNNING
            )
        )
    )
    base = connection.execute(
        sa.select(_trials.c.trial_id, _trials.c.number, _trials.c.state).where(_trials.c.trial_id.in_(ids))
    )
    records = {}
    for trial_id, number, state in base:
        shown = _FINAL.get(state) or ("running" if trial_id in held else "waiting")
        several = tuple(value for _, value in sorted(values[trial_id].items()))
        record = _record(number, shown, several, tries[trial_id], workers)
        records[trial_id] = dataclasses.replace(
            record,
            params=params[trial_id],
            distributions=distributions[trial_id],
            reports=reports[trial_id],
        )
    return records


def _record(
    number: int,
    state: TrialStateName,
    values: tuple[float, ...],
    tries: list[Any],
    workers: dict[str, str],
) -> TrialRecord:
    last = tries[-1] if tries else None
    name = None if last is None else workers.get(last.worker_id, last.worker_id)
    ended = state in ("complete", "pruned", "failed")
    error = next((t.error for t in reversed(tries) if t.error and t.state != "released"), None)
    return TrialRecord(
        number=number,
        state=state,
        values=values if state == "complete" and values else None,
        params={},
        attempts=len(tries),
        ticket=number if last is None else last.ticket,
        worker=name,
        runner=None if last is None else f"{name}/{last.runner}",
        device=None if last is None else last.device,
        started=to_datetime(tries[0].started_at) if tries else None,
        finished=to_datetime(last.ended_at) if ended and last is not None else None,
        error=str(error).strip().splitlines()[-1][:500] if error and state != "complete" else None,
    )


def _metrics(connection: Connection, ids: Collection[int]) -> dict[int, dict[str, dict[int, float]]]:
    found: dict[int, dict[str, dict[int, float]]] = {trial_id: {} for trial_id in ids}
    for chunk in _chunks(ids):
        for row in connection.execute(
            sa.select(metric).where(metric.c.trial_id.in_(chunk)).order_by(metric.c.step)
        ):
            if row.value is not None:
                found[row.trial_id].setdefault(row.name, {})[row.step] = row.value
    return found


@lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _chunks(ids: Collection[int]) -> list[list[int]]:
    ordered = sorted(ids)
    return [ordered[i : i + CHUNK] for i in range(0, len(ordered), CHUNK)]
