"""A study's history kept in memory and brought up to date with what changed, instead of read anew."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hpo.search.history import Direction, StudyHistory, TrialRecord
from hpo.studies.outline import SAMPLED
from hpo.studies.reading import best_of, read_evaluation
from hpo.studies.trials import CHUNK, read_metrics, read_records
from hpo.wiring import telling
from storage.database import optuna_tables
from storage.database.clock import to_datetime
from storage.database.engine import Database
from storage.database.records import StudyRow
from storage.queue import studies, tickets

_trials = optuna_tables.trials
_reports = optuna_tables.reports

OVERLAP = 200  # report ids looked at again: on PostgreSQL a lower id may be committed after a higher one


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
        counts = tickets.counts(connection, row.id).shown_in(row.state)
        touched = self._touched(connection, row)
        found = read_records(connection, row, touched if self._records else None)
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
                found = read_metrics(connection, [trial_id])[trial_id]
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
            waiting=counts.untried,
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
