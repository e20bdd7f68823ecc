"""All trials of one study as Optuna's own objects, read once and kept up by what is new or has ended since.

Samplers and pruners ask for the whole history at every decision. A trial that has ended never changes, so a
process that asks for many runners reads each only once.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from storage.database import optuna_tables
from storage.database.optuna_tables import TrialState
from storage.database.optuna_tables import trials as optuna_trials
from storage.history import columns

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


# Statements are made once, as in `storage.history.columns`.
_ITS = optuna_trials.c
_HEADS = sa.select(_ITS.trial_id, _ITS.number, columns.STATE, _ITS.datetime_start, _ITS.datetime_complete)
_AMONG = _HEADS.where(columns.is_among(_ITS.trial_id))
_NEW_OR_ENDED = sa.union_all(  # newer than this, or among these and running no more
    _HEADS.where(_ITS.study_id == sa.bindparam("study"), _ITS.trial_id > sa.bindparam("newest")),
    _AMONG.where(_ITS.state != TrialState.RUNNING),
).order_by("trial_id")


class KnownTrials:
    """The trials of one study as this process knows them; any thread may call any method.

    What is handed out never changes afterwards: a trial that changed is another object. Trials that still
    run elsewhere have no intermediate values here, since nobody's decision needs them.
    """

    def __init__(self, optuna_study_id: int) -> None:
        self._study_id = optuna_study_id
        self._lock = threading.Lock()
        self._trials: dict[int, FrozenTrial] = {}  # by id, in the order of numbers if `_in_order`
        self._in_order = True
        self._versions: dict[int, int] = {}  # by id: when it was kept last, the latest at the end
        self._version = 0
        # Those that have not ended, by id: the state they were kept with, or None: read it in any state.
        self._open: dict[int, str | None] = {}
        self._ours: set[int] = set()  # run by this process
        self._newest = 0  # the highest id that the database showed

    def refresh(self, connection: Connection, *, params: bool = False) -> None:
        """Read what is new or has ended since the last time; nothing is locked.

        There is no looking back: whoever adds a trial locks its study's row first, so that a study's ids
        become visible in their order. `params`: those of trials that run elsewhere are read again, for an
        objective may choose some as it goes.
        """
        with self._lock:
            newest = self._newest
            ran = [one for one, state in self._open.items() if state == TrialState.RUNNING]
            others = [one for one, state in self._open.items() if state != TrialState.RUNNING]
        asks = {"study": self._study_id, "newest": newest, "ids": json.dumps(ran)}
        heads = connection.execute(_NEW_OR_ENDED, asks).all()
        looked = [*_rows(connection, others), *heads]
        with self._lock:
            asked = {head.trial_id: self._open.get(head.trial_id) for head in looked}
            wanted = {head.trial_id: head for head in looked if self._wants(head)}
            running = self._running_elsewhere(ran, wanted) if params else {}
            asked |= dict.fromkeys(running, TrialState.RUNNING.value)
        read = [*_read(connection, wanted.values()), *_again(connection, running)]
        with self._lock:
            for trial in read:
                self._keep(trial, asked[trial._trial_id])
            self._newest = max([self._newest, *(head.trial_id for head in heads)])

    def put(self, trial: FrozenTrial) -> None:
        """Keep a copy of a stored trial that this process runs, or ran to its end: newer than what is stored.

        A running one is this process's own until it is put as ended, is dropped, or the database shows its
        end. An ended one is final; nothing changes one that has ended.
        """
        trial = _copied(trial)
        with self._lock:
            self._keep(trial, ours=True)

    def drop(self, trial_id: int) -> None:
        """It is not this process's own any more: the next refresh reads what is stored of it."""
        with self._lock:
            self._ours.discard(trial_id)
            if trial_id in self._trials:
                self._open[trial_id] = None

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number; the list is the caller's, the trials are everybody's."""
        with self._lock:
            if not self._in_order:
                ordered = sorted(self._trials.values(), key=lambda trial: trial.number)
                self._trials = {trial._trial_id: trial for trial in ordered}
                self._in_order = True
            return list(self._trials.values())

    def get(self, trial_id: int) -> FrozenTrial:
        """The trial of this id (Optuna's).

        Raises:
            KeyError: it is not known.
        """
        with self._lock:
            return self._trials[trial_id]

    def since(self, version: int) -> tuple[int, list[FrozenTrial]]:
        """The version now, and the trials put or read after `version` (0: all), the latest last.

        For a copy that somebody keeps by increments.
        """
        with self._lock:
            found = []
            for trial_id, kept in reversed(self._versions.items()):
                if kept <= version:
                    break
                found.append(self._trials[trial_id])
            return self._version, found[::-1]

    def _wants(self, head: Row[Any]) -> bool:
        """Whether the trial, in this state, has to be read."""
        trial_id = head.trial_id
        if trial_id in self._trials and trial_id not in self._open:
            return False
        if trial_id in self._ours:
            return head.state in columns.OVER
        return bool(self._open.get(trial_id) != head.state)

    def _running_elsewhere(self, ran: Collection[int], wanted: Collection[int]) -> dict[int, FrozenTrial]:
        """Those of these that go on as they did before."""
        left_out = self._ours.union(wanted)
        return {
            one: self._trials[one]
            for one in ran
            if one not in left_out and self._open.get(one) == TrialState.RUNNING
        }

    def _keep(self, trial: FrozenTrial, asked: str | None = None, *, ours: bool = False) -> None:
        """Keep one of `ours`, or one that was read, unless more was learnt since it stood as `asked`."""
        trial_id = trial._trial_id
        if trial_id in self._trials and trial_id not in self._open:
            return
        if trial.state.is_finished():
            self._open.pop(trial_id, None)
            self._ours.discard(trial_id)
        elif not ours and (trial_id in self._ours or self._open.get(trial_id) != asked):
            return
        else:
            self._open[trial_id] = trial.state.name
            self._ours.update([trial_id] if ours else ())
        if trial_id not in self._trials and self._trials:
            last = self._trials[next(reversed(self._trials))]
            self._in_order = self._in_order and last.number < trial.number
        self._trials[trial_id] = trial
        self._version += 1
        self._versions.pop(trial_id, None)
        self._versions[trial_id] = self._version


def read_whole(connection: Connection, ids: Collection[int]) -> list[FrozenTrial]:
    """Trials with everything stored of them, also those that run."""
    return list(_read(connection, _rows(connection, ids), running=True))


def _read(
    connection: Connection, heads: Collection[Row[Any]], *, running: bool = False
) -> Iterator[FrozenTrial]:
    """The trials, whole; of those that are `running` no intermediate values, unless somebody wants them."""
    if not heads:
        return
    from optuna.trial import FrozenTrial
    from optuna.trial import TrialState as State

    which = columns.among([head.trial_id for head in heads])
    ended = columns.among([head.trial_id for head in heads if running or head.state in columns.OVER])
    chosen, distributions = _params_of(connection, which)
    noted = columns.attributes_of(connection, which)
    marked = columns.attributes_of(connection, which, optuna_tables.system_attributes)
    valued, reported = columns.values_of(connection, ended), columns.reports_of(connection, ended)
    for head in heads:
        trial_id = head.trial_id
        yield FrozenTrial(
            number=head.number,
            state=State[head.state],
            value=None,
            values=valued.get(trial_id),
            datetime_start=_local(head.datetime_start),
            datetime_complete=_local(head.datetime_complete),
            params=chosen.get(trial_id, {}),
            distributions=distributions.get(trial_id, {}),
            user_attrs=noted.get(trial_id, {}),
            system_attrs=marked.get(trial_id, {}),
            intermediate_values=reported.get(trial_id, {}),
            trial_id=trial_id,
        )


def _again(connection: Connection, running: Mapping[int, FrozenTrial]) -> Iterator[FrozenTrial]:
    """Those of these trials whose parameters have changed, changed."""
    chosen, distributions = _params_of(connection, columns.among(running))
    for trial_id, before in running.items():
        trial = copy.copy(before)
        trial.params = chosen.get(trial_id, {})
        trial.distributions = distributions.get(trial_id, {})
        if trial != before:
            yield trial


def _params_of(connection: Connection, which: columns.Which) -> tuple[dict[int, Any], dict[int, Any]]:
    """Parameters and their distributions, by trial and name; those stored alike share one object."""
    chosen, stored = columns.params_of(connection, which)
    return chosen, {trial_id: dict(found) for trial_id, found in stored.items()}


def _rows(connection: Connection, ids: Collection[int]) -> Sequence[Row[Any]]:
    return connection.execute(_AMONG, columns.among(ids).given).all() if ids else ()


def _local(stored: datetime | None) -> datetime | None:
    """Optuna stores naive UTC and hands out naive local time."""
    return stored and stored.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def _copied(trial: FrozenTrial) -> FrozenTrial:
    """A copy that the caller's later changes do not reach."""
    copied = copy.copy(trial)
    copied.params, copied.distributions = dict(trial.params), dict(trial.distributions)
    copied.user_attrs, copied.system_attrs = dict(trial.user_attrs), dict(trial.system_attrs)
    copied.intermediate_values = dict(trial.intermediate_values)
    return copied
