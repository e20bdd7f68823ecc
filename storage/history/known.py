"""All trials of one study as Optuna's own objects, read once and kept up by what is new or has ended since.

Samplers and pruners ask for the whole history at every decision. A trial that has ended never changes, so a
process that asks for many runners reads each only once.
"""

from __future__ import annotations

import copy
import json
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from storage.database import optuna_tables
from storage.database.optuna_tables import TrialState, params, reports, values
from storage.database.optuna_tables import trials as optuna_trials
from storage.history.columns import NAMED, REPORT_KIND, VALUE_KIND, tuples
from storage.history.trials import chunks

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class one_of(GenericFunction[bool]):  # noqa: N801 -- SQL functions are written in lower case
    """Whether a column of ids is among those of a JSON list: one value, however many they are.

    A placeholder for each of 1,000 ids takes several times as long as the query.
    """

    # As a boolean it would be compared with 1 on SQLite, which then reads the whole table.
    type = sa.types.NullType()  # type: ignore[assignment]
    inherit_cache = True


@compiles(one_of, "sqlite")
def _sqlite_one_of(element: Any, compiler: Any, **kw: Any) -> str:
    column, ids = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({ids}))"  # noqa: S608 -- of placeholders


@compiles(one_of, "postgresql")
def _postgresql_one_of(element: Any, compiler: Any, **kw: Any) -> str:
    column, ids = (compiler.process(clause, **kw) for clause in element.clauses)
    array = f"CAST(translate({ids}, '[]', '{{}}') AS integer[])"
    return f"{column} IN (SELECT unnest({array}))"


# Statements are made once, with their values outside: making one takes longer than running it.
_IDS: sa.BindParameter[str] = sa.bindparam("ids", type_=sa.String())
_HEADS = sa.select(
    optuna_trials.c.trial_id,
    optuna_trials.c.number,
    sa.type_coerce(optuna_trials.c.state, sa.String).label("state"),
    optuna_trials.c.datetime_start,
    optuna_trials.c.datetime_complete,
)
_AMONG = _HEADS.where(one_of(optuna_trials.c.trial_id, _IDS))
_NEW_OR_ENDED = sa.union_all(  # newer than this, or among these and running no more
    _HEADS.where(
        optuna_trials.c.study_id == sa.bindparam("study"), optuna_trials.c.trial_id > sa.bindparam("newest")
    ),
    _AMONG.where(optuna_trials.c.state != TrialState.RUNNING),
).order_by("trial_id")
_PARAMS = (
    sa.select(params.c.trial_id, params.c.param_name, params.c.param_value, params.c.distribution_json)
    .where(one_of(params.c.trial_id, _IDS))
    .order_by(params.c.param_id)
)
_VALUES = (
    sa.select(values.c.trial_id, values.c.value, VALUE_KIND)
    .where(one_of(values.c.trial_id, _IDS))
    .order_by(values.c.trial_id, values.c.objective)
)
_REPORTS = (
    sa.select(reports.c.trial_id, reports.c.step, reports.c.intermediate_value, REPORT_KIND)
    .where(one_of(reports.c.trial_id, _IDS))
    .order_by(reports.c.trial_id, reports.c.step)
)


def _attributes_of(table: sa.Table) -> sa.Select[Any]:
    query = sa.select(table.c.trial_id, table.c.key, table.c.value_json).where(one_of(table.c.trial_id, _IDS))
    return query.order_by(next(iter(table.primary_key)))


_USER_ATTRIBUTES = _attributes_of(optuna_tables.user_attributes)
_SYSTEM_ATTRIBUTES = _attributes_of(optuna_tables.system_attributes)


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
        """Read what is new or has ended since the last time.

        There is no looking back: whoever adds a trial locks its study's row first, so that a study's ids
        become visible in their order.

        Args:
            connection: of any transaction; nothing is locked.
            params: read the parameters of trials that run elsewhere again; an objective may choose some
                as it goes.
        """
        with self._lock:
            newest = self._newest
            ran = [one for one, state in self._open.items() if state == TrialState.RUNNING]
            others = [one for one, state in self._open.items() if state != TrialState.RUNNING]
        asks = {"study": self._study_id, "newest": newest, "ids": json.dumps(ran)}
        heads = connection.execute(_NEW_OR_ENDED, asks).all()
        looked = [*_rows(connection, _AMONG, others), *heads]
        with self._lock:
            asked = {head.trial_id: self._open.get(head.trial_id) for head in looked}
            wanted = [head for head in looked if self._wants(head)]
            running = self._running_elsewhere(ran, wanted) if params else {}
            asked |= dict.fromkeys(running, TrialState.RUNNING.value)
        read = list(_read(connection, wanted))
        read += _again(connection, running)
        with self._lock:
            for trial in read:
                self._settle(trial, asked[trial._trial_id])
            self._newest = max([self._newest, *(head.trial_id for head in heads)])

    def put(self, trial: FrozenTrial) -> None:
        """Keep a copy of a stored trial that this process runs, or ran to its end: newer than what is stored.

        A running one is this process's own until it is put as ended, is dropped, or the database shows its
        end. An ended one is final; nothing changes one that has ended.
        """
        trial = _copied(trial)
        trial_id = trial._trial_id
        with self._lock:
            if trial_id in self._trials and trial_id not in self._open:
                return
            if trial.state.is_finished():
                self._open.pop(trial_id, None)
                self._ours.discard(trial_id)
            else:
                self._open[trial_id] = trial.state.name
                self._ours.add(trial_id)
            self._keep(trial)

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
            return head.state in _OVER
        return bool(self._open.get(trial_id) != head.state)

    def _running_elsewhere(
        self, ran: Collection[int], wanted: Collection[Row[Any]]
    ) -> dict[int, FrozenTrial]:
        """Those of these that go on as they did before."""
        left_out = self._ours.union(head.trial_id for head in wanted)
        return {
            one: self._trials[one]
            for one in ran
            if one not in left_out and self._open.get(one) == TrialState.RUNNING
        }

    def _settle(self, trial: FrozenTrial, asked: str | None) -> None:
        """Keep a trial that was read, unless more was learnt of it meanwhile; `asked`: how it stood then."""
        trial_id = trial._trial_id
        if trial_id in self._trials and trial_id not in self._open:
            return
        if trial.state.is_finished():
            self._open.pop(trial_id, None)
            self._ours.discard(trial_id)
        elif trial_id in self._ours or self._open.get(trial_id) != asked:
            return
        else:
            self._open[trial_id] = trial.state.name
        self._keep(trial)

    def _keep(self, trial: FrozenTrial) -> None:
        trial_id = trial._trial_id
        if trial_id not in self._trials and self._trials:
            last = self._trials[next(reversed(self._trials))]
            self._in_order = self._in_order and last.number < trial.number
        self._trials[trial_id] = trial
        self._version += 1
        self._versions.pop(trial_id, None)
        self._versions[trial_id] = self._version


def read_whole(connection: Connection, ids: Collection[int]) -> list[FrozenTrial]:
    """Trials with everything stored of them, also those that run."""
    found = list(_read(connection, list(_rows(connection, _AMONG, ids))))
    reported = _read_reports(connection, list(ids))
    for trial in found:
        trial.intermediate_values = reported.get(trial._trial_id, {})
    return found


def _read(connection: Connection, heads: Collection[Row[Any]]) -> Iterator[FrozenTrial]:
    """The trials, whole; of those that have not ended no values and no intermediate values."""
    from optuna.trial import FrozenTrial
    from optuna.trial import TrialState as State

    by_id = {head.trial_id: head for head in heads}
    for ids in chunks(by_id):
        ended = [trial_id for trial_id in ids if by_id[trial_id].state in _OVER]
        chosen, distributions = _read_params(connection, ids)
        noted = _read_attributes(connection, _USER_ATTRIBUTES, ids)
        marked = _read_attributes(connection, _SYSTEM_ATTRIBUTES, ids)
        valued, reported = _read_values(connection, ended), _read_reports(connection, ended)
        for trial_id in ids:
            head = by_id[trial_id]
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
    for ids in chunks(running):
        chosen, distributions = _read_params(connection, ids)
        for trial_id in ids:
            before = running[trial_id]
            trial = copy.copy(before)
            trial.params = chosen.get(trial_id, {})
            trial.distributions = distributions.get(trial_id, {})
            if trial != before:
                yield trial


def _read_params(connection: Connection, ids: list[int]) -> tuple[dict[int, Any], dict[int, Any]]:
    """Parameters and their distributions, by trial and name; those stored alike share one object."""
    chosen: dict[int, dict[str, Any]] = defaultdict(dict)
    distributions: dict[int, dict[str, Any]] = defaultdict(dict)
    for trial_id, name, value, text in _tuples(connection, _PARAMS, ids):
        distribution = optuna_tables.distribution(text)
        distributions[trial_id][name] = distribution
        chosen[trial_id][name] = distribution.to_external_repr(value)
    return chosen, distributions


def _read_values(connection: Connection, ids: list[int]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = defaultdict(list)
    for trial_id, value, kind in _tuples(connection, _VALUES, ids):
        found[trial_id].append(NAMED.get(kind, value))
    return found


def _read_reports(connection: Connection, ids: list[int]) -> dict[int, dict[int, float]]:
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for trial_id, step, value, kind in _tuples(connection, _REPORTS, ids):
        found[trial_id][step] = value if value is not None else NAMED[kind]
    return found


def _read_attributes(
    connection: Connection, query: sa.Select[Any], ids: list[int]
) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    for trial_id, key, text in _tuples(connection, query, ids):
        found[trial_id][key] = json.loads(text)
    return found


def _rows(connection: Connection, query: sa.Select[Any], ids: Collection[int]) -> Iterator[Row[Any]]:
    if ids:
        yield from connection.execute(query, {"ids": json.dumps(list(ids))})


def _tuples(connection: Connection, query: sa.Select[Any], ids: list[int]) -> list[Any]:
    return tuples(connection, query, {"ids": json.dumps(ids)}) if ids else []


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
