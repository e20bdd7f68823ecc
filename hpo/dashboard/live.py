"""Histories in memory: read once, a big one first in outline, then brought up to date with what changed."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Collection, Mapping
from typing import Any

from hpo.report.records.scores import value_name
from hpo.studies import confirmed, selection
from hpo.studies.reading import read_evaluation
from storage.database.engine import Database, Transaction
from storage.database.records import Counts, StudyRow
from storage.history.records import Confirmation, StudyHistory, TrialRecord
from storage.history.trials import (
    Part,
    changed_since,
    first_complete,
    history_of,
    ids_of,
    marked_ids,
    newest_report,
    read_metrics,
    read_trials,
)
from storage.queue import studies, tickets

MAX_CHOSEN = 16  # selections of trials kept, each until the study changes
MAX_METRICS = 8  # kept for filters that ask for them
_numbers = itertools.count(1)  # of versions: no two studies share one, nor what is read anew after others
SAMPLED = 12  # complete trials that are read whole, to tell what the objective's value is called


class LiveStudy:
    """One study. `refresh` reads what is new and returns the whole history; safe to call from any thread.

    Records of trials that did not change are the same objects as before. Named metrics are not kept but
    for a few trials; evaluations are read when the winner changes.
    """

    def __init__(self, database: Database, row: StudyRow) -> None:
        self.row = row
        self.parameters: set[str] = set()  # that any trial had
        self.database = database
        self._lock = threading.Lock()
        self._choosing = threading.Lock()
        self._records: dict[int, TrialRecord] = {}  # by Optuna's trial id
        self._open: set[int] = set()  # trials that have not ended
        self._sampled: set[int] = set()
        self._last_report = 0
        self._history: StudyHistory | None = None
        self._version = 0  # of `_history`
        self._begun = self._looked = 0  # looks at the database; the last that ended well
        self._known: tuple[StudyRow, Counts, Confirmation | None] | None = None
        self._evaluation: tuple[int, Mapping[str, Any]] | None = None  # of which trial
        self._metrics: dict[str, dict[int, Mapping[int, float]]] = {}  # for filters: name, id, step
        self._chosen: dict[tuple[str, str], StudyHistory] = {}  # by conditions and order, of `_history`

    @property
    def known(self) -> StudyHistory | None:
        """The history as of the last `refresh`; None before the first."""
        return self._history

    def refresh(self) -> StudyHistory:
        """The history as it is now.

        Raises:
            UnknownStudyError: the study was deleted.
            DatabaseUnreachableError
        """
        return self.numbered()[0]

    def numbered(self) -> tuple[StudyHistory, int]:
        """As `refresh`, with the number of this version of the history; it rises with every change.

        Of those who ask at once, all that wait for a look at the database share the next one.
        """
        before = self._begun
        with self._lock:
            if self._history is not None and self._looked > before:  # begun since, and ended well
                return self._history, self._version
            self._begun += 1
            row, counts, confirmation, changed = self.database.read(self._read)
            if self._history is None or (row, counts, confirmation) != self._known or changed:
                self.row, self._known = row, (row, counts, confirmation)
                self._version = next(_numbers)
                self._chosen.clear()
                self._history = history_of(
                    row,
                    self._records.values(),
                    counts=counts,
                    winner_evaluation=self._evaluate,
                    confirmation=confirmation,
                )
            self._looked = self._begun
            return self._history, self._version

    def chosen(self, where: str = "", sort: str = "", history: StudyHistory | None = None) -> StudyHistory:
        """As `refresh` (or the `history` that it just gave), with the trials that meet the conditions alone,
        sorted as is asked.

        Raises:
            UserError: what cannot be read, or a name that no trial has. UnknownStudyError,
            DatabaseUnreachableError
        """
        history = self.refresh() if history is None else history
        if not where and not sort:
            return history
        with self._choosing:  # a table and its charts ask at once for the same
            return self._choose(history, where, sort)

    def _choose(self, history: StudyHistory, where: str, sort: str) -> StudyHistory:
        with self._lock:
            if history is self._history and (where, sort) in self._chosen:
                return self._chosen[where, sort]
        among = self._choose(history, where, "") if where and sort else history
        key = sort.removeprefix("-") or "number"
        wanted = selection.metrics_in(among.trials, () if sort else [where], [key])
        looked = self._measured(among, wanted) if wanted else among
        kept = tuple(
            selection.select(looked, () if sort else [where], sort=sort or None, known=history.trials)
        )
        if wanted:  # metrics of every trial would make the charts look at them, too
            by_number = {trial.number: trial for trial in among.trials}
            kept = tuple(by_number[trial.number] for trial in kept)
        names = tuple(value_name(history, index) for index in range(len(history.directions)))
        found = dataclasses.replace(history, trials=kept, value_names=names)
        with self._lock:
            if history is self._history:
                self._chosen[where, sort] = found
                while len(self._chosen) > MAX_CHOSEN:
                    del self._chosen[next(iter(self._chosen))]
        return found

    def _measured(self, history: StudyHistory, names: Collection[str]) -> StudyHistory:
        """The history, each trial with every value of these metrics."""
        with self._lock:
            records = dict(self._records)
            if unread := set(names) - self._metrics.keys():
                found = self.database.read(read_metrics, records, unread)
                for name in unread:
                    self._metrics[name] = {i: named[name] for i, named in found.items() if name in named}
            for name in list(self._metrics)[: max(0, len(self._metrics) - MAX_METRICS)]:
                if name not in names:
                    del self._metrics[name]
            known = {name: dict(self._metrics[name]) for name in names}
        of = {r.number: {n: steps[i] for n, steps in known.items() if i in steps} for i, r in records.items()}
        return selection.with_metrics(history, of)

    def _read(self, connection: Transaction) -> tuple[StudyRow, Counts, Confirmation | None, bool]:
        row = studies.get(connection, self.row.name)
        if row.uid != self.row.uid:  # deleted, and another one has its name now
            self._records, self._open, self._sampled, self._metrics = {}, set(), set(), {}
            self.parameters.clear()
            self._history = self._evaluation = None
        touched = self._touched(connection, row) if self._records else None
        if touched is None:
            self._last_report = newest_report(connection)
        found = read_trials(connection, row, touched, with_=Part.WHOLE & ~Part.METRICS)
        for i in self._sampled & found.keys():
            found[i] = dataclasses.replace(found[i], metrics=self._records[i].metrics)
        if self._metrics and found:
            for i, metrics in read_metrics(connection, found, list(self._metrics)).items():
                for name, steps in metrics.items():
                    self._metrics[name][i] = steps
        new = {i: record for i, record in found.items() if self._records.get(i) != record}
        if new:
            self._records.update(new)
            self.parameters.update(*(record.params for record in new.values()))
            self._open -= new.keys()
            self._open |= {i for i, record in new.items() if not record.ended}
            self._sample_metrics(connection)
        return row, tickets.counts(connection, row.id), confirmed.of(connection, row), bool(new)

    def _touched(self, connection: Transaction, row: StudyRow) -> set[int]:
        """Ids of trials that are new, have not ended, or reported since the last look."""
        last = newest_report(connection)
        since = None if last == self._last_report else self._last_report
        new, reported = changed_since(connection, row, newest=max(self._records), last_report=since)
        self._last_report = last
        if row.marked != self.row.marked:
            reported |= marked_ids(connection, row)
        return (new - self._records.keys()) | (reported & self._records.keys()) | self._open

    def _sample_metrics(self, connection: Transaction) -> None:
        """Read the named metrics of the first few complete trials, once."""
        complete = (i for i, record in self._records.items() if record.state == "complete")
        for i in list(complete)[:SAMPLED]:
            if i not in self._sampled and len(self._sampled) < SAMPLED:
                self._sampled.add(i)
                metrics = read_metrics(connection, [i])[i]
                self._records[i] = dataclasses.replace(self._records[i], metrics=metrics)

    def _evaluate(self, number: int) -> Mapping[str, Any] | None:
        if self._evaluation is None or self._evaluation[0] != number:
            found = read_evaluation(self.database, self.row, number)
            self._evaluation = None if found is None else (number, found)
        return None if self._evaluation is None else self._evaluation[1]


def outline(database: Database, row: StudyRow) -> StudyHistory:
    """Numbers, states and values of the trials that ended; a pruned one's last report; a few whole ones.

    The values' names, the history of a search, its best and its Pareto front come out as they do from the
    whole history, at a tenth of the price.
    """

    def read(connection: Transaction) -> Collection[TrialRecord]:
        ended = read_trials(connection, row, with_=Part.OUTLINE, ended=True)
        return (ended | read_trials(connection, row, first_complete(connection, row, SAMPLED))).values()

    return _history(database, row, database.read(read))


def sample(database: Database, row: StudyRow, best: int | None) -> StudyHistory:
    """The first few complete trials, whole, and the `best`: what tells how the values are called."""

    def read(connection: Transaction) -> Collection[TrialRecord]:
        numbers = [] if best is None else [best]
        ids = {*first_complete(connection, row, SAMPLED), *ids_of(connection, row, numbers).values()}
        return read_trials(connection, row, ids).values()

    return _history(database, row, database.read(read))


def _history(database: Database, row: StudyRow, trials: Collection[TrialRecord]) -> StudyHistory:
    return history_of(row, trials, winner_evaluation=lambda number: read_evaluation(database, row, number))
