"""Tickets: make them, claim one, count them. Number of tickets = the budget, so overshoot is impossible."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import database_now
from storage.database.records import (
    AttemptState,
    Claim,
    Counts,
    Lease,
    Need,
    NothingToClaim,
    StudyState,
    TicketState,
    WorkerState,
)
from storage.database.tables import attempt, is_parked, is_queued, is_running, study, ticket, worker
from storage.history import columns
from storage.queue import blame, locks, optuna_rows, outcomes, seconds

ENQUEUED = 1  # priority of a point a person asked for
_MANY = 1_000  # tickets: until PostgreSQL has counted so many, it sorts them all at each claim

# A parked ticket's trial, by Optuna's id; the epoch at which it is parked next; how many epochs that is.
Goes = tuple[int, int, int]
Parked = Callable[[Sequence[int]], Collection[int]]  # trials, by Optuna's ids -> those that are parked
# Learns what is new; then: who is parked, and epochs that are left for it -> one that goes on.
Promote = Callable[[Connection], Callable[[Parked, float], Goes | None]]
Takes = tuple[Need, ...] | None  # tickets of these needs; None: any
BESIDE = (Need.NOTHING,)  # what a runner with lanes takes together

_POINTS = sa.func.json_array_elements_text(sa.cast(sa.bindparam("points", type_=sa.Text()), sa.JSON))
_POINT = _POINTS.table_valued("point", with_ordinality="place").render_derived(name="points").c
_SAME = {
    name: sa.bindparam(name, type_=ticket.c[name].type) for name in ("study_id", "state", "cell", "priority")
}
_ADD_ALL = ticket.insert().from_select(  # PostgreSQL takes half a minute for 100,000 rows one by one
    [*_SAME, "number", "point"],
    sa.select(*_SAME.values(), sa.bindparam("first_is", type_=sa.Integer()) + _POINT.place - 1, _POINT.point),
)


def add(
    connection: Connection,
    study_id: int,
    points: Sequence[Mapping[str, Any] | None],
    *,
    first: int,
    cells: bool = False,
    priority: int = 0,
) -> None:
    """Append tickets `first`, `first + 1`, ...; None is a blank ticket."""
    each = [None if point is None else json.dumps(point) for point in points]
    common = {"study_id": study_id, "state": TicketState.QUEUED, "cell": int(cells), "priority": priority}
    if not each:
        return
    if connection.dialect.name == "sqlite":
        rows = [{**common, "number": number, "point": point} for number, point in enumerate(each, first)]
        connection.execute(ticket.insert(), rows)
        return
    connection.execute(_ADD_ALL, {**common, "first_is": first, "points": json.dumps(each)})
    if len(each) >= _MANY:
        connection.exec_driver_sql("ANALYZE hpo_ticket")


def claim(
    connection: Connection,
    study_id: int,
    worker_id: str,
    runner: int,
    device: str,
    lease_seconds: float,
    takes: Takes,
    slots: Sequence[int],  # the runner's places for tickets that are free
    # Chooses among parked tickets; None: the study parks none. It is asked before the study's row is held,
    # and again with it, when none of them moves.
    promote: Promote | None = None,
    epochs: int = 0,  # reserved for a new trial of a study with a budget of them
    # Of an earlier claim of this study that was committed; what came later is looked through for trials that
    # plain Optuna left waiting.
    none_waits: int = 0,
) -> tuple[dict[int, Claim], NothingToClaim | None]:
    """Lease tickets to new attempts of this runner, one a slot: what is promoted, then what waits.

    Returns the claims by slot, and why there is none for the slots that are left.

    Safe beside others: it looks first, and holds nothing where there is nothing to claim. Then the study's
    row is locked, so that claims of one study come one after another and pause, stop and target take effect
    before or after but never during; tickets that others hold are skipped, never waited for. (If claims
    shared the row, a pause or a result would wait for a moment without any: docs/scale.md.) What failed on
    this worker comes last, so that another may try it. A slot has one ticket at a time, so a claim whose
    answer was lost is found again, not repeated.
    """
    asks = {"its_study": study_id, "its_worker": worker_id, "its_runner": runner}
    among = {**asks, **columns.among(slots).given}
    seen = connection.execute(_look(takes), among).first()
    if seen is None:
        return {}, NothingToClaim(ended=True, why="the study was deleted")
    mine = connection.execute(_MINE, among).all() if seen.mine is not None else ()
    found = dict(zip([row.slot for row in mine], _claims(connection, mine), strict=True))
    free = [slot for slot in slots if slot not in found]
    if not free:
        return found, None
    parked = _Parked(connection, seen, promote)
    nothing = _nothing(connection, worker_id, seen, takes, parked.goes_on)
    if nothing is not None:
        return found, nothing
    row = locks.hold_study(connection, study_id)
    if row is None or StudyState(row.state) is not StudyState.RUNNING:  # since the look
        return found, NothingToClaim(ended=False, why="the study has changed")
    if outcomes.end_when_seconds_are_spent(connection, row):
        outcomes.conclude(connection, study_id)
        return found, NothingToClaim(ended=False, why="the budget of seconds is spent")
    if not seen.works:  # nobody has noticed yet that every lease expired
        seconds.stop_when_idle(connection, row)
    parked = _Parked(connection, seen, promote, held=takes)
    chosen: list[sa.Row[Any]] = []
    while left := free[len(chosen) :]:
        taking = {**asks, "its_slot": left[0], "lease": lease_seconds, "reserved": epochs}
        begun = outcomes.room(connection, row) < epochs  # only what has its epochs already
        leased = parked.promote(taking)
        if leased is None:
            several = left if row.budget_epochs is None else left[:1]
            leased = _take(connection, taking, several, takes, begun, shy=bool(seen.bad_attempts))
        if not leased and row.budget_trials is None and _takes_new(takes) and not begun:
            add(connection, study_id, [None], first=next_number(connection, study_id))
            leased = _take(connection, taking, left[:1], takes, begun)
        if not leased:
            nothing = NothingToClaim(ended=False, why="every trial is done or running elsewhere")
            break
        chosen += leased
    if not chosen:
        if begun and parked.goes_on(None) is None:
            outcomes.end_when_epochs_are_spent(connection, study_id)
        outcomes.conclude(connection, study_id, lambda: parked.goes_on(None) is None)
        return found, nothing
    chosen, none_waits = _with_waiting(connection, row.optuna_study_id, chosen, none_waits)
    if row.clock_started_at is None or not seen.works:
        seconds.start(connection, study_id)
    where = {"worker_id": worker_id, "runner": runner, "device": device, "state": AttemptState.RUNNING}
    connection.execute(_BEGIN, [where | _attempt_at(one) for one in chosen])
    claims = _claims(connection, chosen, none_waits)
    return found | dict(zip(free, claims, strict=False)), nothing


def _takes_new(takes: Takes) -> bool:
    return takes is None or Need.NOTHING in takes


class _Parked:
    """The parked tickets of a study in one claim, and which of them goes on.

    `held`: the study's row is, and tickets of these needs are taken, so that nobody else parks or promotes:
    each is asked for once.
    """

    def __init__(
        self, connection: Connection, seen: sa.Row[Any], promote: Promote | None, held: Takes = ()
    ) -> None:
        self._connection, self._seen, self._held = connection, seen, held
        self._choice = cache(partial(promote, connection)) if promote is not None else None
        self._known: dict[int, bool] = {}

    def goes_on(self, takes: Takes) -> Goes | None:
        """The one of these needs that goes on."""
        if self._choice is None:
            return None
        return self._choice()(partial(self._among, takes), outcomes.room(self._connection, self._seen))

    def promote(self, taking: Mapping[str, Any]) -> list[sa.Row[Any]] | None:
        """Lease the one that goes on; None: there is none."""
        goes = self.goes_on(self._held)
        if goes is None:
            return None
        self._known[goes[0]] = False
        promoted = {**taking, "its_trial": goes[0], "its_stop": goes[1], "reserved": goes[2]}
        return list(self._connection.execute(_LEASE_PROMOTED, promoted)) or None

    def _among(self, takes: Takes, trials: Sequence[int]) -> Collection[int]:
        """Of the best, few: to read who all are would take long with the study's row held."""
        known = self._known if takes == self._held else {}
        if new := [one for one in trials if one not in known]:
            asked = {"its_study": self._seen.id, **columns.among(new).given}
            there = set(self._connection.scalars(_parked_of(takes), asked))
            known.update((one, one in there) for one in new)
        return [one for one in trials if known[one]]


def _with_waiting(
    connection: Connection, optuna_study_id: int, chosen: Sequence[sa.Row[Any]], after: int
) -> tuple[list[sa.Row[Any]], int]:
    """Blank tickets with the trials that plain Optuna has left waiting, if there are any: they count here.

    And up to which trial none waits (`optuna_rows.take_waiting`).
    """
    found, may_wait, none_waits = [], True, after
    for one in chosen:
        if may_wait and one.point is None and one.trial_id is None and one.retry_of is None:
            trial, point, none_waits = optuna_rows.take_waiting(connection, optuna_study_id, none_waits)
            may_wait = trial is not None
            if trial is not None:
                changed = ticket.update().where(ticket.c.id == one.id)
                changed = changed.values(trial_id=trial.id, trial_number=trial.number, point=point)
                one = connection.execute(changed.returning(ticket)).one()
        found.append(one)
    return found, none_waits


def _nothing(
    connection: Connection,
    worker_id: str,
    seen: sa.Row[Any],
    takes: Takes,
    goes_on: Callable[[Takes], Goes | None],
) -> NothingToClaim | None:
    """Why there is nothing to claim as far as a look can tell; None where a claim is worth a try."""
    state = StudyState(seen.study_state)
    if state.ended:
        return NothingToClaim(ended=True, why=f"the study is {state}: {seen.ended_why}")
    if state is not StudyState.RUNNING:
        if not seen.runs:
            outcomes.conclude(connection, seen.id)
        return NothingToClaim(ended=False, why=f"the study is {state}")
    if seen.state is None or seen.state == WorkerState.LEFT:
        return NothingToClaim(ended=True, why="this worker is not registered any more")
    if seen.state == WorkerState.QUARANTINED:
        return NothingToClaim(ended=True, why=f"this worker is quarantined: {seen.reason}", fault=True)
    if (
        seen.study_id is None
        and seen.bad_attempts >= blame.BAD_START
        and blame.bad_start(connection, worker_id, seen.id)
    ):
        why = f"its first {blame.BAD_START} attempts here all failed"
        return NothingToClaim(ended=False, why=why, fault=True)
    if seen.waits is not None or goes_on(takes) is not None:
        return None
    if takes is not None and _takes_new(takes):
        asks, others = {"its_study": seen.id}, tuple(need for need in Need if need not in takes)
        left = [n for n in others if connection.execute(_waiting((n,)), asks).first()]
        if left or goes_on(others) is not None:
            need = (left or others)[0]
            why = f"what is left needs a {need.name.lower()} to itself"
            return NothingToClaim(ended=False, why=why, alone=need)
    if seen.budget_trials is None and _takes_new(takes):
        return None
    if not seen.runs:
        outcomes.conclude(connection, seen.id, lambda: goes_on(None) is None)
    return NothingToClaim(ended=False, why="every trial is done or running elsewhere")


def _take(
    connection: Connection,
    taking: Mapping[str, Any],
    slots: Sequence[int],
    takes: Takes,
    begun: bool,
    *,
    shy: bool = False,
) -> list[sa.Row[Any]]:
    """Lease the first tickets that nobody else holds, for these slots; `shy`: rather such as have not failed
    on this worker, which costs a look at the attempts for waiting tickets.
    """
    asks = {**taking, "most": len(slots)}
    rows = connection.execute(_lease(takes, begun, shy=True), asks).all() if shy else ()
    rows = rows or connection.execute(_lease(takes, begun), asks).all()
    found = sorted(rows, key=lambda row: (-row.priority, row.number))
    if places := [{"leased": row.id, "at": at} for row, at in zip(found[1:], slots[1:], strict=False)]:
        connection.execute(_PLACE, places)
    return found


# Statements are made once, as in `storage.queue.locks`.
_ITS_STUDY = sa.bindparam("its_study", type_=sa.Integer())


may_start = is_queued & sa.or_(ticket.c.not_before.is_(None), ticket.c.not_before <= database_now())


def _needs(takes: Takes) -> sa.ColumnElement[bool]:
    return sa.true() if takes is None else ticket.c.alone.in_([int(need) for need in takes])


@cache
def _parked_of(takes: Takes) -> sa.Select[Any]:
    its, among = ticket.c.study_id == _ITS_STUDY, columns.is_among(ticket.c.trial_id)
    return sa.select(ticket.c.trial_id).where(its, is_parked, among, _needs(takes))


@cache
def _waiting(takes: Takes) -> sa.Select[Any]:
    """The first ticket that may be claimed now."""
    found = sa.select(ticket.c.id).where(ticket.c.study_id == _ITS_STUDY, may_start, _needs(takes))
    return found.order_by(ticket.c.priority.desc(), ticket.c.number).limit(1)


_LEASED = {
    "state": TicketState.RUNNING,
    "attempt": ticket.c.attempt + 1,
    "worker_id": sa.bindparam("its_worker"),
    "runner": sa.bindparam("its_runner"),
    "slot": sa.bindparam("its_slot"),
    "lease_until": database_now() + sa.bindparam("lease"),
    "not_before": None,
}


@cache
def _lease(takes: Takes, begun: bool, *, shy: bool = False) -> Any:
    first = _waiting(takes)
    if begun:
        first = first.where(ticket.c.epochs > 0)
    if shy:
        first = first.where(~blame.failed_on(sa.bindparam("its_worker")))
    free = first.limit(sa.bindparam("most", type_=sa.Integer())).with_for_update(skip_locked=True).cte("free")
    reserved = sa.case((ticket.c.epochs == 0, sa.bindparam("reserved")), else_=ticket.c.epochs)
    leased = ticket.update().where(ticket.c.id.in_(sa.select(free.c.id)))
    return leased.values({**_LEASED, "epochs": reserved}).returning(ticket)


_PLACE = ticket.update().where(ticket.c.id == sa.bindparam("leased")).values(slot=sa.bindparam("at"))
_LEASE_PROMOTED = (
    ticket.update()
    .where(ticket.c.study_id == _ITS_STUDY, ticket.c.trial_id == sa.bindparam("its_trial"), is_parked)
    .values({**_LEASED, "stop_at": sa.bindparam("its_stop")})
    .values(epochs=ticket.c.epochs + sa.bindparam("reserved"))
    .returning(ticket)
)
_BEGIN = attempt.insert().values(started_at=database_now())


_is_mine = sa.and_(
    ticket.c.worker_id == sa.bindparam("its_worker"),
    ticket.c.runner == sa.bindparam("its_runner"),
    columns.is_among(ticket.c.slot),
)
_MINE = sa.select(ticket).where(ticket.c.study_id == _ITS_STUDY, is_running, _is_mine).order_by(ticket.c.id)


@cache
def _look(takes: Takes) -> sa.Select[Any]:
    """What a claim depends on: study, worker, and whether tickets wait, run and are worked at."""
    running = sa.select(ticket.c.id).where(ticket.c.study_id == _ITS_STUDY, is_running)
    mine = running.where(_is_mine)
    works = running.where(ticket.c.lease_until > database_now())
    waits = _waiting(takes).order_by(None)  # any of them
    there = {"mine": mine, "waits": waits, "runs": running, "works": works}
    return (
        sa.select(study.c.id, study.c.state.label("study_state"), study.c.ended_why)
        .add_columns(study.c.budget_trials, study.c.budget_epochs)
        .add_columns(worker.c.state, worker.c.reason, worker.c.study_id, worker.c.bad_attempts)
        .add_columns(*(one.limit(1).correlate(None).scalar_subquery().label(n) for n, one in there.items()))
        .select_from(study.outerjoin(worker, worker.c.id == sa.bindparam("its_worker")))
        .where(study.c.id == _ITS_STUDY)
    )


def counts(connection: Connection, study_id: int) -> Counts:
    """Tickets by state."""
    rows = connection.execute(
        sa.select(ticket.c.state, sa.func.count(), sa.func.count(ticket.c.trial_id))
        .where(ticket.c.study_id == study_id)
        .group_by(ticket.c.state)
    ).all()
    by_state = {str(state): (int(n), int(begun)) for state, n, begun in rows}
    waiting, given_back = by_state.pop(TicketState.QUEUED, (0, 0))
    others = {state: n for state, (n, _) in by_state.items()}
    return Counts(waiting=waiting, given_back=given_back, **others)


def share(connection: Connection, study_id: int, runners: int) -> float:
    """How many of the waiting tickets are a runner's, if each of so many of every worker took as many.

    Infinite where nothing limits the number of trials; at least 1.
    """
    waiting = sa.select(sa.func.count()).where(ticket.c.study_id == study_id, is_queued).scalar_subquery()
    served = sa.or_(worker.c.study_id.is_(None), worker.c.study_id == study_id)
    active = sa.select(sa.func.count()).where(worker.c.state == WorkerState.ACTIVE, served).scalar_subquery()
    row = connection.execute(
        sa.select(study.c.budget_trials, waiting, active).where(study.c.id == study_id)
    ).first()
    if row is None or row[0] is None:
        return math.inf
    return float(max(1, -(-row[1] // (runners * max(1, row[2])))))


def first_trial(connection: Connection, study_id: int) -> int | None:
    """The number of the first ticket's trial; None before it has one."""
    query = sa.select(ticket.c.trial_number).where(ticket.c.study_id == study_id)
    return connection.scalar(query.order_by(ticket.c.number).limit(1))


def parked(connection: Connection, study_id: int) -> dict[int, int]:
    """Trials that are parked, by Optuna's ids, and how many attempts each has had."""
    found = sa.select(ticket.c.trial_id, ticket.c.attempt).where(ticket.c.study_id == study_id, is_parked)
    return {row.trial_id: row.attempt for row in connection.execute(found)}


def is_over(connection: Connection, ticket_id: int) -> bool:
    """Whether the ticket's trial gets no further attempt."""
    state = connection.scalar(sa.select(ticket.c.state).where(ticket.c.id == ticket_id))
    return state is None or TicketState(state).ended


_PARKED = (
    sa.select(
        attempt.c.ticket_id,
        sa.func.max(attempt.c.number),
        sa.func.coalesce(sa.func.sum(attempt.c.ended_at - attempt.c.started_at), 0.0),
    )
    .where(columns.is_among(attempt.c.ticket_id), attempt.c.state == AttemptState.PARKED)
    .group_by(attempt.c.ticket_id)
)


_COPIED = sa.select(ticket.c.number).where(
    ticket.c.study_id == _ITS_STUDY,
    ticket.c.trial_number == sa.bindparam("trial"),
    ticket.c.state == TicketState.PRUNED,
)


def next_number(connection: Connection, study_id: int) -> int:
    """The number the next ticket of the study gets. The caller holds the study's row."""
    newest = connection.scalar(sa.select(sa.func.max(ticket.c.number)).where(ticket.c.study_id == study_id))
    return 0 if newest is None else int(newest) + 1


def _attempt_at(row: sa.Row[Any]) -> dict[str, Any]:
    its = {"trial_id": row.trial_id, "trial_number": row.trial_number}
    return {"ticket_id": row.id, "number": row.attempt, **its}


def _claims(connection: Connection, rows: Sequence[sa.Row[Any]], none_waits: int = 0) -> list[Claim]:
    promoted = [row.id for row in rows if row.stop_at is not None]
    parked = connection.execute(_PARKED, columns.among(promoted).given) if promoted else ()
    before = {ticket_id: (number, worked) for ticket_id, number, worked in parked}
    return [_claim(connection, row, before.get(row.id, (0, 0.0)), none_waits) for row in rows]


def _claim(connection: Connection, row: sa.Row[Any], parked: tuple[int, float], none_waits: int) -> Claim:
    copies = None
    if row.retry_of is not None:
        copies = connection.scalar(_COPIED, {"its_study": row.study_id, "trial": row.retry_of})
    return Claim(
        lease=Lease(row.id, row.attempt),
        study_id=row.study_id,
        number=row.number,
        point={} if row.point is None else json.loads(row.point),
        trial_id=row.trial_id,
        trial_number=row.trial_number,
        retry_of=row.retry_of,
        alone=Need(row.alone),
        lost=row.lost,
        stop_at=row.stop_at,
        parked=parked[0],
        worked=parked[1],
        copies=copies,
        none_waits=none_waits,
    )
