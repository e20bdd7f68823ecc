"""What an attempt writes: its trial, reports, attributes, files, and how it ends.

Verbs run inside a transaction that `commit` opens: it holds every lease it writes for, names those that are
lost and lets the others' writes through. Every verb can be repeated: when a commit's answer was lost, reading
the ticket or the attempt back tells whether it had happened (DESIGN: an ambiguous commit is resolved).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.errors import LeaseLostError, StorageError
from storage.database.optuna_tables import TrialState
from storage.database.records import CONSTRAINT, AttemptState, Claim, KeptFile, Lease, TicketState
from storage.database.tables import attempt, metric, ticket
from storage.files import kept_files
from storage.queue import leases, optuna_rows, outcomes, rungs
from storage.queue.locks import change
from storage.queue.optuna_rows import Trial
from storage.queue.outcomes import Result
from storage.queue.rungs import Rung

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Objection = Exception  # why a result may not count


# Made once, as in `storage.queue.locks`.
_BOUND = sa.select(ticket.c.trial_id, ticket.c.trial_number).where(ticket.c.id == sa.bindparam("ticket"))
_LINK: Mapping[str, Any] = {"trial_id": sa.bindparam("trial"), "trial_number": sa.bindparam("trial_is")}
_BIND_TICKET = (
    ticket.update()
    .where(ticket.c.id == sa.bindparam("ticket"))
    .values(**_LINK, sampler_saw=sa.bindparam("saw"))
)
_BIND_ATTEMPT = (
    attempt.update()
    .where(attempt.c.ticket_id == sa.bindparam("ticket"), attempt.c.number == sa.bindparam("attempt"))
    .values(**_LINK)
)
_FORGET_METRICS = metric.delete().where(
    metric.c.trial_id == sa.bindparam("trial"), metric.c.step > sa.bindparam("after")
)
_RESUMED = (
    attempt.update()
    .where(attempt.c.ticket_id == sa.bindparam("ticket"), attempt.c.number == sa.bindparam("attempt"))
    .values(resumed_from=sa.bindparam("step"))
)


@dataclass(frozen=True)
class Report:
    """One step's value (None: metrics alone) and named metrics; a step reported again is overwritten."""

    lease: Lease
    trial_id: int
    step: int
    value: float | None
    metrics: Mapping[str, float]
    # Finds its study and the rungs that it has come to, given what was looked at in the same transaction.
    reached: Callable[[], tuple[int, Sequence[Rung]]] | None = None


@dataclass(frozen=True)
class Write:
    """Anything else that an attempt writes.

    `verb` raises an error of this package, or returns an `Objection`, before it writes anything or not at
    all. `ends`: it is the attempt's last write, and how the attempt ends if it is not objected to.
    """

    lease: Lease
    verb: Callable[[Connection], Any]
    ends: AttemptState | None = None


@dataclass(frozen=True)
class Row:
    """What of several attempts is written together: those in a row that have the same `verb`, by one call."""

    lease: Lease
    verb: Callable[[Connection, Sequence[Any]], None]
    what: Any
    ends = None


@dataclass(frozen=True)
class Delivery:
    """An attempt's result, `complete`, `pruned` or `diverged`; or it is `parked`. It is its last write."""

    lease: Lease
    trial_id: int  # Optuna's; below 0 it is a repeat, of which Optuna's tables have nothing
    state: TicketState
    values: Sequence[float] | None  # one a direction; None: diverged, or pruned without a report
    peak_memory: float | None = None  # bytes
    error: str | None = None  # how a diverged trial said so
    reports: Sequence[Report] = ()  # or logged metrics that are not written yet
    # Finds their values by name, when everything else is written.
    constraints: Callable[[Connection], Mapping[str, float]] = lambda _connection: {}
    # Writes what else is to be known of it: the rungs of such reports, what a repeat came to.
    beside: Callable[[Connection], None] | None = None
    weights: tuple[int, KeptFile] | None = None  # (study id, file) to keep with a trial that kept no model
    # Looks whether the result may count; what it returns is returned, and nothing is written.
    agree: Callable[[Connection], Objection | None] = lambda _connection: None
    # Of results that share it, only the first that may not count, or all, are looked at.
    agrees_as: Hashable = None

    @property
    def ends(self) -> AttemptState:
        """How the attempt ends if it is not objected to."""
        return AttemptState(self.state.value)


Entry = Report | Row | Write | Delivery


def commit(
    write: Callable[[Callable[[Connection], Any]], Any],  # `Database.write`, or one that tries a single time
    entries: Sequence[Entry],
    first: Callable[[Connection], None] = lambda _connection: None,  # looks at what others have committed
) -> list[Any]:
    """Write what several attempts have to say in one transaction: reports, the rest in this order, results.

    Returns for each entry what its verb returned, or the exception that refused it: a lost lease, or a value
    that the database does not take. None of these keeps the others' entries from being written.

    Raises:
        DatabaseUnreachableError: patience is over.
        DatabaseFaultError: the database cannot be used.
    """
    try:
        return list(write(lambda connection: _write(connection, entries, first)))
    except StorageError:
        raise
    except Exception as error:  # a value of one of them
        if len(entries) == 1:
            return [error]
        return [answer for entry in entries for answer in commit(write, [entry], first)]


def _write(
    connection: Connection, entries: Sequence[Entry], first: Callable[[Connection], None]
) -> list[Any]:
    first(connection)
    ending = {entry.lease for entry in entries if not isinstance(entry, Report) and entry.ends}
    lost = leases.hold(connection, {entry.lease for entry in entries}, ending=ending)
    _report(connection, [one for one in entries if isinstance(one, Report) and one.lease not in lost])
    answers: list[Any] = []
    results: dict[int, Delivery] = {}  # by place
    ended: dict[Lease, AttemptState] = {}
    rows: dict[Callable[[Connection, Sequence[Any]], None], list[Any]] = {}

    def write_rows() -> None:
        for verb, each in rows.items():
            verb(connection, each)
        rows.clear()

    for entry in entries:
        refused = lost.get(entry.lease)
        if isinstance(entry, Report):
            answers.append(refused)
            continue
        if refused is not None:
            ended_so = entry.ends is not None and entry.ends == (
                ended.get(entry.lease) or _state_of(connection, entry.lease)
            )
            answers.append(None if ended_so else refused)  # it had succeeded without our hearing of it
            continue
        if isinstance(entry, Delivery):
            results[len(answers)] = entry
            answers.append(None)
        elif isinstance(entry, Row):
            rows.setdefault(entry.verb, []).append(entry.what)
            answers.append(None)
        else:
            write_rows()
            answers.append(_answer(connection, entry.verb))
        if entry.ends is not None and not isinstance(answers[-1], Exception):
            lost[entry.lease] = LeaseLostError("this attempt has ended")
            ended[entry.lease] = entry.ends
    write_rows()
    for place, answer in zip(results, _deliver(connection, list(results.values())), strict=True):
        answers[place] = answer
    return answers


def _report(connection: Connection, reports: Sequence[Report]) -> None:
    """Write reports, and the rungs that they come to."""
    write_reports(connection, reports)
    reached: dict[int, list[Rung]] = {}
    for study_id, found in (one.reached() for one in reports if one.reached is not None):
        reached.setdefault(study_id, []).extend(found)
    for study_id, all_found in reached.items():
        rungs.write(connection, study_id, all_found)


def _answer(connection: Connection, verb: Callable[[Connection], Any]) -> Any:
    try:
        return verb(connection)
    except StorageError as error:
        return error


def start_trial(
    connection: Connection,
    lease: Lease,
    optuna_study_id: int,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    sampler_saw: Mapping[str, Any],
) -> Trial:
    """Create the trial with all its parameters and bind it to the ticket, once."""
    bound = connection.execute(_BOUND, {"ticket": lease.ticket_id}).one()
    if bound.trial_id is not None:
        return Trial(bound.trial_id, bound.trial_number)  # an earlier try committed; we did not hear of it
    (made,) = start_trials(connection, optuna_study_id, [(lease, params)], distributions, sampler_saw)
    return made


def start_trials(
    connection: Connection,
    optuna_study_id: int,
    begun: Sequence[tuple[Lease, Mapping[str, Any]]],  # with their parameters
    distributions: Mapping[str, BaseDistribution],
    sampler_saw: Mapping[str, Any],
) -> list[Trial]:
    """`start_trial` of tickets of which this very transaction has seen that they have no trial."""
    params = [point for _, point in begun]
    made = optuna_rows.insert_trials(connection, optuna_study_id, params, distributions)
    links = [
        {"ticket": lease.ticket_id, "attempt": lease.attempt, "trial": trial.id, "trial_is": trial.number}
        for (lease, _), trial in zip(begun, made, strict=True)
    ]
    saw = json.dumps(dict(sampler_saw))
    connection.execute(_BIND_TICKET, [{**link, "saw": saw} for link in links])
    connection.execute(_BIND_ATTEMPT, links)
    return made


def take_over(connection: Connection, taken: Sequence[tuple[Claim, int | None, bool]]) -> None:
    """Go on with earlier attempts' trials, each from its checkpoint of a step (None: from the beginning).

    Reports, metrics and rungs after the checkpoint, and constraints, are dropped: a stale step 10 would
    hide a terrible epoch 1. Where the trial was finished (True), nothing is dropped. A repeat has none.
    """
    dropped = [
        {"trial": claim.trial_id, "after": -1 if step is None else step, "its": claim.study_id}
        for claim, step, is_finished in taken
        if not is_finished and claim.trial_id is not None
    ]
    if dropped:
        optuna_rows.forget_after(connection, dropped)
        connection.execute(_FORGET_METRICS, dropped)
        rungs.forget_after(connection, dropped)
    resumed = [
        {"ticket": claim.lease.ticket_id, "attempt": claim.lease.attempt, "step": step}
        for claim, step, _ in taken
    ]
    connection.execute(_RESUMED, resumed)


def write_reports(connection: Connection, reports: Sequence[Report]) -> None:
    """Reports and metrics of any number of trials, in the order they were made."""
    curves = [(one.trial_id, one.step, one.value) for one in reports if one.value is not None]
    optuna_rows.upsert_reports(connection, curves)
    rows = [
        {"trial_id": one.trial_id, "name": name, "step": one.step, "value": number}
        for one in reports
        for name, number in one.metrics.items()
    ]
    if rows:
        upsert = optuna_rows.overwriting(connection.dialect.name, metric, "trial_id", "name", "step")
        connection.execute(upsert, rows)


def _deliver(connection: Connection, deliveries: Sequence[Delivery]) -> list[Objection | None]:
    """Record results of trials, tickets, attempts and studies at once; returns why one may not count.

    `parked` is recorded in the same way, but that the trial stays open. The transaction holds the leases, and
    their studies.
    """
    objections: list[Objection | None] = []
    asked: set[Hashable] = set()
    for one in deliveries:
        objection = None if one.agrees_as in asked else _answer(connection, one.agree)
        asked |= set() if one.agrees_as is None or objection is not None else {one.agrees_as}
        objections.append(objection)
    agreed = [one for one, objection in zip(deliveries, objections, strict=True) if objection is None]
    write_reports(connection, [report for one in agreed for report in one.reports])
    left = [one for one in agreed if _is_result(connection, one)]
    results = [Result(one.lease, one.state, one.values, one.peak_memory) for one in left]
    outcomes.deliver(connection, results)
    return objections


def _is_result(connection: Connection, one: Delivery) -> bool:
    """Write what is known of a trial that ends; False where it has diverged, which is all written."""
    if one.beside is not None:
        one.beside(connection)
    if one.weights is not None and kept_files.MODEL not in kept_files.names_of(connection, one.trial_id):
        study_id, file = one.weights
        kept_files.record(connection, study_id, one.trial_id, one.lease.attempt, file)
    if one.state is TicketState.DIVERGED:
        outcomes.diverge(connection, one.lease, one.error or "the training diverged", one.peak_memory)
        return False
    if one.trial_id > 0:
        for name, value in one.constraints(connection).items():
            key, text = CONSTRAINT + name, json.dumps(value)
            optuna_rows.set_attribute(connection, "system", one.trial_id, key, text)
    if one.trial_id > 0 and one.state is not TicketState.PARKED:
        final = TrialState.COMPLETE if one.state is TicketState.COMPLETE else TrialState.PRUNED
        optuna_rows.finish(connection, one.trial_id, final, one.values)
    return True


def keep_stored_file(
    connection: Connection, study_id: int, trial_id: int, lease: Lease, name: str, sha256: str, size: int
) -> bool:
    """Keep a file whose content the study has in its store with the trial; False when it has not."""
    path = kept_files.stored_already(connection, study_id, sha256)
    if path is None:
        return False
    file = KeptFile(name, path, sha256, size)
    kept_files.record(connection, study_id, trial_id, lease.attempt, file)
    return True


def checkpoint_advanced(connection: Connection, lease: Lease) -> None:
    """The attempt has got further than any before it: attempts lost until now count no more."""
    change(connection, ticket, lease.ticket_id, lost=0)


def _state_of(connection: Connection, lease: Lease) -> str | None:
    its = (attempt.c.ticket_id == lease.ticket_id) & (attempt.c.number == lease.attempt)
    return connection.scalar(sa.select(attempt.c.state).where(its))
