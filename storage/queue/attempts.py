"""What an attempt writes: its trial, reports, attributes, files, and how it ends.

Verbs run inside a transaction that `commit` opens: it holds every lease it writes for, names those that are
lost and lets the others' writes through. Every verb can be repeated: when a commit's answer was lost, reading
the ticket or the attempt back tells whether it had happened (DESIGN: an ambiguous commit is resolved).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
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


@dataclass(frozen=True)
class Report:
    """One step's value (None: metrics alone) and named metrics; a step reported again is overwritten."""

    lease: Lease
    trial_id: int
    step: int
    value: float | None
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Write:
    """Anything else that an attempt writes.

    `verb` raises an error of this package, or returns an `Objection`, before it writes anything or not at
    all. `ends`: it is the attempt's last write, and how the attempt ends if it is not objected to.
    """

    lease: Lease
    verb: Callable[[Connection], Any]
    ends: AttemptState | None = None


def commit(
    write: Callable[[Callable[[Connection], Any]], Any],  # `Database.write`, or one that tries a single time
    entries: Sequence[Report | Write],
    first: Callable[[Connection], None] = lambda _connection: None,  # looks at what others have committed
) -> list[Any]:
    """Write what several attempts have to say in one transaction, in this order, reports first.

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
    connection: Connection, entries: Sequence[Report | Write], first: Callable[[Connection], None]
) -> list[Any]:
    first(connection)
    ending = {entry.lease for entry in entries if isinstance(entry, Write) and entry.ends}
    lost = leases.hold(connection, {entry.lease for entry in entries}, ending=ending)
    write_reports(connection, [one for one in entries if isinstance(one, Report) and one.lease not in lost])
    answers: list[Any] = []
    for entry in entries:
        refused = lost.get(entry.lease)
        if isinstance(entry, Report):
            answers.append(refused)
        elif refused is not None:
            ended_so = entry.ends is not None and _state_of(connection, entry.lease) == entry.ends
            answers.append(None if ended_so else refused)  # it had succeeded without our hearing of it
        else:
            answers.append(_answer(connection, entry.verb))
            if entry.ends is not None and not isinstance(answers[-1], Exception):
                lost[entry.lease] = LeaseLostError("this attempt has ended")
    return answers


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
    *,
    is_new: bool = False,
) -> Trial:
    """Create the trial with all its parameters and bind it to the ticket, once.

    `is_new`: this very transaction has seen that the ticket has no trial.
    """
    bound = None if is_new else connection.execute(_BOUND, {"ticket": lease.ticket_id}).one()
    if bound is not None and bound.trial_id is not None:
        return Trial(bound.trial_id, bound.trial_number)  # an earlier try committed; we did not hear of it
    made = optuna_rows.insert_trial(connection, optuna_study_id, params, distributions)
    link = {"ticket": lease.ticket_id, "trial": made.id, "trial_is": made.number}
    connection.execute(_BIND_TICKET, {**link, "saw": json.dumps(dict(sampler_saw))})
    connection.execute(_BIND_ATTEMPT, {**link, "attempt": lease.attempt})
    return made


def take_over(
    connection: Connection, claim: Claim, checkpoint_step: int | None, *, keep_reports: bool = False
) -> None:
    """Go on with an earlier attempt's trial from its checkpoint (None: from the beginning).

    Reports, metrics and rungs after the checkpoint, and constraints, are dropped: a stale step 10 would
    hide a terrible epoch 1. `keep_reports`: the trial was finished, nothing is dropped. A repeat has none.
    """
    after = -1 if checkpoint_step is None else checkpoint_step
    if not keep_reports and claim.trial_id is not None:
        optuna_rows.forget_after(connection, claim.trial_id, after)
        later = (metric.c.trial_id == claim.trial_id) & (metric.c.step > after)
        connection.execute(metric.delete().where(later))
        rungs.forget_after(connection, claim.study_id, claim.trial_id, after)
    connection.execute(
        attempt.update()
        .where(attempt.c.ticket_id == claim.lease.ticket_id, attempt.c.number == claim.lease.attempt)
        .values(resumed_from=checkpoint_step)
    )


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


def deliver(
    connection: Connection,
    lease: Lease,
    trial_id: int,  # Optuna's; below 0 it is a repeat, of which Optuna's tables have nothing
    state: TicketState,
    values: Sequence[float] | None,  # one a direction; None: diverged, or pruned without a report
    *,
    peak_memory: float | None = None,  # bytes
    error: str | None = None,  # how a diverged trial said so
    reports: Sequence[Report] = (),  # or logged metrics that are not written yet
    # Finds their values by name, when everything else is written.
    constraints: Callable[[Connection], Mapping[str, float]] = lambda _connection: {},
    # Writes what else is to be known of it: the rungs of such reports, what a repeat came to.
    beside: Callable[[Connection], None] = lambda _connection: None,
    weights: tuple[int, KeptFile] | None = None,  # (study id, file) to keep with a trial that kept no model
    # Looks whether the result may count; what it returns is returned, and nothing is written.
    agree: Callable[[Connection], Objection | None] = lambda _connection: None,
) -> Objection | None:
    """Record the result, `complete`, `pruned` or `diverged`, of trial, ticket, attempt and study at once.

    `parked` is recorded in the same way, but that the trial stays open. The transaction holds the lease, and
    its study.
    """
    objection = agree(connection)
    if objection is not None:
        return objection
    write_reports(connection, reports)
    beside(connection)
    if weights is not None and kept_files.MODEL not in kept_files.names_of(connection, trial_id):
        study_id, file = weights
        kept_files.record(connection, study_id, trial_id, lease.attempt, file)
    if state is TicketState.DIVERGED:
        outcomes.diverge(connection, lease, error or "the training diverged", peak_memory)
        return None
    if trial_id > 0:
        for name, value in constraints(connection).items():
            key, text = CONSTRAINT + name, json.dumps(value)
            optuna_rows.set_attribute(connection, "system", trial_id, key, text)
    if trial_id > 0 and state is not TicketState.PARKED:
        final = TrialState.COMPLETE if state is TicketState.COMPLETE else TrialState.PRUNED
        optuna_rows.finish(connection, trial_id, final, values)
    outcomes.deliver(connection, lease, state, values, peak_memory)
    return None


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
