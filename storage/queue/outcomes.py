"""How an attempt ends, and what becomes of its ticket, its trial, its worker and its study.

Every verb runs inside the caller's transaction, which holds the study's row and then the ticket's
(`leases.hold`; `storage.queue.locks` says in which order).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import database_now
from storage.database.errors import LeaseLostError
from storage.database.optuna_tables import TrialState, reports
from storage.database.records import AttemptState, Lease, Need, StudyState, TicketState, objective_name
from storage.database.tables import attempt, is_parked, is_queued, is_running, metric, study, ticket, worker
from storage.files import kept_files
from storage.history import columns
from storage.history.trials import Leader, front, leader
from storage.queue import blame, events, locks, optuna_rows, seconds
from storage.queue.locks import change

_LONGEST_BACKOFF = 60.0  # seconds

# Why a study ended (`ended_why`). What a budget ended is finished; everything else can be resumed.
ALL_DONE = "all trials done"
TARGET_REACHED = "target reached"
SECONDS_SPENT = "budget of seconds spent"
EPOCHS_SPENT = "budget of epochs spent"
PATIENCE_SPENT = "no better result for as many trials as its patience"
BY_BUDGET = (ALL_DONE, TARGET_REACHED, SECONDS_SPENT, EPOCHS_SPENT, PATIENCE_SPENT)
BY_HAND = "stopped by hand"
FOR_GOOD = (*BY_BUDGET, BY_HAND)  # no later result lets a study that is stopping so go on
FAILING = "nothing but failures"  # ... on so many workers
STORM = 5  # attempts that fail one after the other, whoever made them


@dataclass(frozen=True)
class _Ending:
    """An attempt that ends: the rows of its study and its ticket as they were."""

    study: sa.Row[Any]
    ticket: sa.Row[Any]
    others: bool  # tickets of the study run beside it, as far as was looked


@dataclass(frozen=True)
class Result:
    """What an attempt brought: `complete` with values, or `pruned`; or it is `parked`."""

    lease: Lease
    state: TicketState
    values: Sequence[float] | None
    peak_memory: float | None = None  # bytes


def deliver(connection: Connection, results: Sequence[Result]) -> None:
    """Attempts brought results. They count one after another, or, where their study looks at each alone for
    no more than whether it is the best, together.
    """
    rows = connection.execute(_TICKETS, columns.among([one.lease.ticket_id for one in results]).given)
    by_ticket = {row.id: row for row in rows}
    found = [(one, by_ticket[one.lease.ticket_id]) for one in results if one.lease.ticket_id in by_ticket]
    for study_id in {row.study_id: None for _, row in found}:
        mine = [pair for pair in found if pair[1].study_id == study_id]
        its = _held(connection, study_id)
        if _is_plain(its):
            _deliver(connection, its, mine)
            continue
        for pair in mine:
            _deliver(connection, _held(connection, study_id), [pair])


def _is_plain(its: sa.Row[Any]) -> bool:
    """Whether a study runs and no result ends it."""
    return its.state == StudyState.RUNNING and its.budget_target is None and its.budget_patience is None


def _deliver(connection: Connection, its: sa.Row[Any], found: Sequence[tuple[Result, sa.Row[Any]]]) -> None:
    ends = [
        _end_of(one.lease, AttemptState(one.state.value), peak_memory=one.peak_memory) for one, _ in found
    ]
    others = _end_attempts(connection, its, ends)
    leave = _LEAVE if its.budget_epochs is None else _REST
    connection.execute(leave, [{"its_ticket": row.id, "state": one.state} for one, row in found])
    blame.succeeded(connection, [row for _, row in found])
    if its.failing:
        change(connection, study, its.id, failing=0)
    plain = _is_plain(its)
    for one, row in found:
        ending, value = _Ending(its, row, others), None
        if one.values is not None and one.state is TicketState.COMPLETE and len(one.values) == 1:
            value = one.values[0] if math.isfinite(one.values[0]) else None
        if value is not None and not (plain and _is_no_better(its, value)):
            value = value if optuna_rows.is_feasible(connection, row.trial_id) else None
        better = value is not None and _is_best(connection, ending, value)
        if plain:
            if value is not None and (better or its.best_value is None):
                its = _held(connection, its.id)  # with the best value that the next one meets
            continue
        if its.budget_patience is not None and one.values is not None and len(one.values) > 1:
            better = _is_on_front(connection, ending, one.values)
        if its.state == StudyState.STOPPING and (its.ended_why or "").startswith(FAILING):  # it works, then
            change(connection, study, its.id, state=StudyState.RUNNING, ended_why=None)
        _end_at_target(connection, its, value)
        _lose_patience(connection, ending, better)
        conclude(connection, its.id)
    if plain and not others and not _goes_on(connection, its):
        conclude(connection, its.id)


def fail(
    connection: Connection, lease: Lease, error: str, peak_memory: float | None = None, *, blames: bool = True
) -> None:
    """The objective raised, crashed by itself, hung or returned nonsense: try again or give up.

    `blames`: it may be its worker's fault; not where a trial used more than its study allows.
    """
    ending = _close(connection, lease, AttemptState.FAILED, error, peak_memory, blames=blames)
    row = ending.ticket
    more = row.failed < ending.study.retry_failed
    _again_or_give_up(connection, row, failed=row.failed + 1, lost=row.lost, more=more)
    if not more and row.trial_id is not None:
        optuna_rows.mark(connection, row.trial_id, optuna_rows.BROKE)
    failing = ending.study.failing + 1
    change(connection, study, ending.study.id, failing=failing)
    if not more:
        _tell(connection, ending, events.FAILED)
    if failing == STORM:
        _tell(connection, ending, events.FAILING, failures=failing)
    if blames and blame.failed(connection, row, error):
        bad = blame.bad_starts(connection, row.study_id)
        if bad >= blame.BAD_STARTS:
            why = f"{FAILING} on {bad} workers; the last: {blame.last_line(error)}"
            _stop(connection, row.study_id, why[:200])  # or workers that come and go run it for ever
    conclude(connection, row.study_id)


def diverge(connection: Connection, lease: Lease, error: str, peak_memory: float | None = None) -> None:
    """The setting makes the numbers explode, wherever it is tried: not tried again, and nobody's fault."""
    ending = _close(connection, lease, AttemptState.DIVERGED, error, peak_memory)
    row = ending.ticket
    give_up(connection, row.id, row.trial_id, TicketState.DIVERGED)
    if row.trial_id is not None:
        optuna_rows.mark(connection, row.trial_id, optuna_rows.DIVERGED)
        kept_files.release_weights(connection, row.trial_id)
    _lose_patience(connection, ending, False)
    conclude(connection, row.study_id)


def set_aside(
    connection: Connection,
    lease: Lease,
    error: str,
    peak_memory: float | None = None,
    *,
    need: Need = Need.CARD,
    state: AttemptState = AttemptState.FAILED,
) -> None:
    """The attempt ended beside others in a way that may be theirs: it counts against nothing, and the ticket
    waits for what it needs to itself.
    """
    row = _close(connection, lease, state, error, peak_memory, blames=False).ticket
    change(connection, ticket, row.id, alone=int(need))
    _requeue(connection, row.id, not_before=None)
    conclude(connection, row.study_id)


def lose(connection: Connection, lease: Lease, why: str) -> None:
    """The worker or runner died or went silent: nobody's fault until it happened too often."""
    ending = _close(connection, lease, AttemptState.LOST, why)
    row = ending.ticket
    more = row.lost < ending.study.retry_lost
    _again_or_give_up(connection, row, failed=row.failed, lost=row.lost + 1, more=more)
    name = connection.scalar(sa.select(worker.c.name).where(worker.c.id == row.worker_id))
    _tell(connection, ending, events.LOST, worker=name, why=why)
    conclude(connection, row.study_id)


def release(connection: Connection, lease: Lease, why: str = "drained") -> None:
    """The attempt gives its ticket back on purpose; it counts against nothing."""
    row = _close(connection, lease, AttemptState.RELEASED, why).ticket
    _requeue(connection, row.id, not_before=None)
    conclude(connection, row.study_id)


def cancel(connection: Connection, lease: Lease) -> None:
    """A person ended the attempt: its trial will not go on."""
    row = _close(connection, lease, AttemptState.CANCELLED, "cancelled").ticket
    give_up(connection, row.id, row.trial_id, TicketState.CANCELLED)
    conclude(connection, row.study_id)


def give_up(connection: Connection, ticket_id: int, trial_id: int | None, state: TicketState) -> None:
    """End a ticket without a result; Optuna's trial becomes FAIL."""
    connection.execute(_REST, {"its_ticket": ticket_id, "state": state, "not_before": None})
    if trial_id is not None:
        optuna_rows.finish(connection, trial_id, TrialState.FAIL)


def conclude(
    connection: Connection, study_id: int, none_to_promote: Callable[[], bool] = lambda: False
) -> None:
    """End the study when nothing runs and nothing more may start. What waits stays in the queue; what is
    parked is pruned, with its last value.

    Safe beside others: whoever adds, hands out or ends tickets holds the study's row, so of two last
    attempts that end at the same moment the second sees that the first is over.

    `none_to_promote`: asked with the study's row held, whether none of the parked tickets can go on. Who does
    not know leaves the end to whoever claims next.
    """
    row = locks.hold_study(connection, study_id)
    if row is None or _goes_on(connection, row, none_to_promote):
        return
    end_parked(connection, study_id, TicketState.PRUNED)
    seconds.stop(connection, row)
    why = row.ended_why or ALL_DONE
    if row.repeats_of is None:
        events.add(connection, study_id, events.END, events.ITSELF, {"why": why})
    state = StudyState.FINISHED if why in BY_BUDGET else StudyState.STOPPED
    change(connection, study, study_id, state=state, ended_at=database_now(), ended_why=why)


def end_if_spent(connection: Connection, study_id: int) -> None:
    """A person changed the study or lets it go on: it ends again where its target is met, its seconds or its
    patience are spent, or nothing is left to do.
    """
    row = locks.hold_study(connection, study_id)
    if row is None:
        return
    if row.budget_target is not None:
        best = _best_of(connection, row)
        _end_at_target(connection, row, None if best is None else best.value)
    if row.budget_patience is not None and row.stale >= row.budget_patience:
        _stop(connection, row.id, PATIENCE_SPENT, paused=True)
    end_when_seconds_are_spent(connection, row)
    conclude(connection, study_id)


def room(connection: Connection, row: sa.Row[Any]) -> float:
    """Epochs of the budget that are neither trained nor reserved; infinite without one."""
    if row.budget_epochs is None:
        return math.inf
    return float(row.budget_epochs - epochs(connection, row.id))


def epochs(connection: Connection, study_id: int) -> int:
    """Epochs that are trained, or reserved by what runs, in a study with a budget of them."""
    total = sa.func.coalesce(sa.func.sum(ticket.c.epochs), 0)
    return int(connection.execute(sa.select(total).where(ticket.c.study_id == study_id)).scalar_one())


def end_when_epochs_are_spent(connection: Connection, study_id: int) -> None:
    """Nothing new fits into the budget of epochs, and nothing can be promoted: the study ends unless a ticket
    still has some, whose end may give back what it does not need. The caller holds the study's row.
    """
    has_some = ticket.c.state.in_([TicketState.RUNNING, TicketState.QUEUED]) & (ticket.c.epochs > 0)
    found = sa.select(ticket.c.id).where(ticket.c.study_id == study_id, has_some).limit(1)
    if connection.execute(found).first() is None:
        _stop(connection, study_id, EPOCHS_SPENT)


def end_when_seconds_are_spent(connection: Connection, row: sa.Row[Any]) -> bool:
    """Whether the budget of seconds is spent; then nothing new starts. The caller holds the study's row."""
    if row.budget_seconds is None or seconds.used(connection, row) < row.budget_seconds:
        return False
    _stop(connection, row.id, SECONDS_SPENT)
    return True


def end_parked(connection: Connection, study_id: int, state: TicketState) -> int:
    """The study ends: returns how many parked tickets end so with it. The study's row is held."""
    parked = sa.select(ticket.c.id).where(ticket.c.study_id == study_id, is_parked)
    held = connection.scalars(parked.order_by(ticket.c.id).with_for_update()).all()
    if held:
        trials = sa.select(ticket.c.trial_id).where(ticket.c.study_id == study_id, is_parked)
        optuna_rows.finish_all(connection, trials, pruned=state is TicketState.PRUNED)
        its = ticket.update().where(ticket.c.study_id == study_id, is_parked)
        connection.execute(its.values(state=state))
    return len(held)


def _goes_on(
    connection: Connection, row: sa.Row[Any], none_to_promote: Callable[[], bool] = lambda: False
) -> bool:
    """Whether the study has ended already, or is paused, or has trials that run, may start or go on."""
    state = StudyState(row.state)
    if state.ended or state is StudyState.PAUSED:
        return True
    runs = state is StudyState.RUNNING
    if runs and row.budget_trials is None:
        return True
    asks = {"its_study": row.id}
    if connection.execute(_OPEN if runs else _RUNNING, asks).first() is not None:
        return True
    return runs and connection.execute(_PARKED, asks).first() is not None and not none_to_promote()


def _close(
    connection: Connection,
    lease: Lease,
    state: AttemptState,
    error: str | None,
    peak_memory: float | None = None,
    *,
    blames: bool = True,
) -> _Ending:
    """End the attempt's record, and the count of seconds with the last attempt that runs.

    Whoever buries an attempt may come hours later: it worked until its lease ended at most.

    Raises:
        LeaseLostError: the study was deleted.
    """
    its_study = locks.hold_study_of(connection, lease.ticket_id)
    if its_study is None:
        raise LeaseLostError("the study was deleted")
    ends = [_end_of(lease, state, error, peak_memory, blames=blames)]
    others = _end_attempts(connection, its_study, ends)
    (row,) = connection.execute(_TICKETS, columns.among([lease.ticket_id]).given)
    return _Ending(its_study, row, others)


def _end_of(
    lease: Lease,
    state: AttemptState,
    error: str | None = None,
    peak_memory: float | None = None,
    *,
    blames: bool = True,
) -> dict[str, Any]:
    """What `_END` binds."""
    how = {"state": state, "error": error, "peak_memory": peak_memory, "blames": int(blames)}
    return {"its_ticket": lease.ticket_id, "its_attempt": lease.attempt, **how}


def _end_attempts(connection: Connection, its: sa.Row[Any], ends: Sequence[dict[str, Any]]) -> bool:
    """End records of attempts of a study, held; whether others run beside them, where it was looked."""
    others = seconds.stop_when_idle(connection, its, leaving=[one["its_ticket"] for one in ends])
    connection.execute(_END, ends)
    return others


def _held(connection: Connection, study_id: int) -> sa.Row[Any]:
    row = locks.hold_study(connection, study_id)
    if row is None:
        raise LeaseLostError("the study was deleted")
    return row


# Statements are made once, as in `storage.queue.locks`.
_ITS_TICKET = ticket.c.id == sa.bindparam("its_ticket")
_TICKETS = sa.select(ticket).where(columns.is_among(ticket.c.id))
_LEAVE = ticket.update().where(_ITS_TICKET).values(worker_id=None, runner=None, lease_until=None)
_ANY = sa.select(ticket.c.id).where(ticket.c.study_id == sa.bindparam("its_study")).limit(1)
_RUNNING, _PARKED = _ANY.where(is_running), _ANY.where(is_parked)
_OPEN = _ANY.where(ticket.c.state.in_([is_running.right, is_queued.right]))
_REPORTED, _IN_FIRST = (
    sa.select(sa.func.count()).where(counted).correlate(ticket).scalar_subquery()
    for counted in (
        reports.c.trial_id == ticket.c.trial_id,
        (metric.c.trial_id == ticket.c.trial_id) & (metric.c.name == objective_name(0)),
    )
)
# Of a ticket: epochs that its trial has reported, each once; in several directions they are metrics.
_TRAINED = sa.case((_REPORTED > 0, _REPORTED), else_=_IN_FIRST)
_REST = _LEAVE.values(epochs=_TRAINED)
_OVER = sa.select(ticket.c.lease_until).where(_ITS_TICKET).scalar_subquery()
_END = (
    attempt.update()
    .where(attempt.c.ticket_id == sa.bindparam("its_ticket"), attempt.c.number == sa.bindparam("its_attempt"))
    .values(ended_at=sa.case((database_now() > _OVER, _OVER), else_=database_now()))
)


def _again_or_give_up(
    connection: Connection, row: sa.Row[Any], *, failed: int, lost: int, more: bool
) -> None:
    change(connection, ticket, row.id, failed=failed, lost=lost)
    if more:
        tries = failed + lost
        delay = 0.0 if tries <= 1 else min(2.0 ** (tries - 2), _LONGEST_BACKOFF)
        _requeue(connection, row.id, not_before=database_now() + delay if delay else None)
    else:
        give_up(connection, row.id, row.trial_id, TicketState.FAILED)


def _requeue(connection: Connection, ticket_id: int, not_before: sa.ColumnElement[float] | None) -> None:
    waits = _LEAVE.values(state=TicketState.QUEUED, not_before=not_before)
    connection.execute(waits, {"its_ticket": ticket_id})


def _end_at_target(connection: Connection, row: sa.Row[Any], value: float | None) -> None:
    if value is None or row.budget_target is None:
        return
    if value >= row.budget_target if row.maximize else value <= row.budget_target:
        _stop(connection, row.id, TARGET_REACHED, paused=True)


def _best_of(connection: Connection, row: sa.Row[Any]) -> Leader | None:
    return leader(connection, row.optuna_study_id, "maximize" if row.maximize else "minimize", ours=True)


def _is_no_better(row: sa.Row[Any], value: float) -> bool:
    """Whether the study is known to have a result as good as that, of one direction."""
    known = row.best_value
    return known is not None and (value <= known if row.maximize else value >= known)


def _is_best(connection: Connection, ending: _Ending, value: float) -> bool:
    """Whether the feasible result of a trial that is complete is better than all before it, which is told."""
    row = ending.study
    if _is_no_better(row, value):
        return False
    better = True
    if row.best_value is None:  # the first one; or nobody has kept it so far
        best = _best_of(connection, row)
        better = best is None or best.id == ending.ticket.trial_id
        value = value if better or best is None else best.value
    change(connection, study, row.id, best_value=value)
    if better:
        _tell(connection, ending, events.BEST, value=value)
    return better


def _is_on_front(connection: Connection, ending: _Ending, values: Sequence[float]) -> bool:
    """Whether no other result beats that of a trial of several directions that is complete."""
    its, trial_id = ending.study, ending.ticket.trial_id
    if not (all(map(math.isfinite, values)) and optuna_rows.is_feasible(connection, trial_id)):
        return False
    return trial_id in front(connection, its.optuna_study_id, json.loads(its.spec)["directions"])


def _tell(connection: Connection, ending: _Ending, what: str, **details: Any) -> None:
    """An event of the trial that ends; of repeats nobody is told."""
    if ending.study.repeats_of is None:
        told = {"trial": ending.ticket.trial_number, **details}
        events.add(connection, ending.study.id, what, events.ITSELF, told)


def _lose_patience(connection: Connection, ending: _Ending, better: bool) -> None:
    """One more trial has a result: better than all, of several directions on the front, or not. One that was
    parked counted then.
    """
    row = ending.study
    if row.budget_patience is None:
        return
    stale = 0 if better else row.stale + (ending.ticket.stop_at is None)
    change(connection, study, row.id, stale=stale)
    if stale >= row.budget_patience:
        _stop(connection, row.id, PATIENCE_SPENT, paused=True)


def _stop(connection: Connection, study_id: int, why: str, *, paused: bool = False) -> None:
    """Nothing new starts, what runs finishes; `paused`: also of a study that is paused."""
    goes = study.c.state.in_([StudyState.RUNNING, *([StudyState.PAUSED] if paused else ())])
    change(connection, study, study_id, goes, state=StudyState.STOPPING, ended_why=why)
