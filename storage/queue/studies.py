"""Studies: create, read, steer, delete. One row beside each Optuna study."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import database_now
from storage.database.engine import Database
from storage.database.errors import LimitError, StudyExistsError, UnknownStudyError
from storage.database.records import Lease, StudyRow, StudyState, TicketState
from storage.database.tables import artifact, is_queued, is_running, metric, study, ticket
from storage.history import history_rows
from storage.history.records import NOTE
from storage.queue import blame, events, locks, notices, optuna_rows, outcomes, tickets, tokens
from storage.queue import seconds as seconds_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class NewStudy:
    """What a study starts with."""

    name: str
    directions: Sequence[str]  # "minimize" or "maximize", one an objective value
    spec: Mapping[str, Any]
    digest: str
    seed: int
    points: Sequence[Mapping[str, Any] | None]  # one a ticket; None is blank
    cells: bool  # the points are grid cells
    enqueued: int  # how many of the first points a person asked for
    budget_trials: int | None
    budget_seconds: float | None
    budget_target: float | None
    retry_lost: int
    retry_failed: int
    artifacts: str
    budget_epochs: int | None = None
    budget_patience: int | None = None
    prior: Mapping[str, Any] | None = None  # observations of another study, for the sampler


RUNS_AGAIN: Mapping[str, Any] = {"state": StudyState.RUNNING, "ended_at": None, "ended_why": None}


def create(database: Database, new: NewStudy, history: Sequence[FrozenTrial] = ()) -> StudyRow:
    """Store a study with its tickets. Two at once: one creates, the other is told that it exists.

    With a `history`, trials that ended elsewhere, the study is finished and its tickets are theirs.

    Raises:
        StudyExistsError: the name is taken, by a study of ours or by an Optuna study with trials.
    """
    exists = f"a study named {new.name} exists already"

    def insert(connection: Connection) -> StudyRow:
        if connection.scalar(sa.select(study.c.id).where(study.c.name == new.name)) is not None:
            raise StudyExistsError(exists)
        told = {name: value for name, value in vars(new).items() if name in study.c}  # under the same names
        more = {
            "uid": uuid.uuid4().hex,
            "optuna_study_id": optuna_rows.make_study(connection, new.name, new.directions),
            "state": StudyState.RUNNING,
            "spec": json.dumps(new.spec),
            "maximize": int(new.directions[0] == "maximize"),
            "prior": None if new.prior is None else json.dumps(new.prior),
            "created_at": database_now(),
        }
        connection.execute(study.insert().values({**told, **more}))
        row = get(connection, new.name)
        budgets = {what: getattr(new, f"budget_{what}") for what in tokens.LIMITS}
        tokens.charge(connection, database.token, **budgets)
        events.add(connection, row.id, "create", database.who)
        notices.settle(connection, row.id, new.spec.get("notify") or ())
        asked, rest = new.points[: new.enqueued], new.points[new.enqueued :]
        tickets.add(connection, row.id, asked, first=0, priority=tickets.ENQUEUED)
        tickets.add(connection, row.id, rest, first=len(asked), cells=new.cells)
        if history:
            history_rows.insert(connection, row, history)
            return get(connection, new.name)
        return row

    try:
        return database.write_once(insert)
    except sa.exc.IntegrityError as error:
        raise StudyExistsError(exists) from error


def get(connection: Connection, name: str) -> StudyRow:
    """One study.

    Raises:
        UnknownStudyError
    """
    return StudyRow.of(_row(connection, study.c.name == name, f"there is no study named {name}"))


def ruin(connection: Connection, name: str) -> StudyRow:
    """What can be read of a damaged study, for whoever deletes it.

    Raises:
        UnknownStudyError
    """
    return StudyRow.ruin(_row(connection, study.c.name == name, f"there is no study named {name}"))


def by_id(connection: Connection, study_id: int) -> StudyRow:
    """One study.

    Raises:
        UnknownStudyError
    """
    return StudyRow.of(_row(connection, study.c.id == study_id, "the study was deleted"))


def _row(connection: Connection, which: sa.ColumnElement[bool], otherwise: str) -> sa.Row[Any]:
    row = connection.execute(sa.select(study).where(which)).first()
    if row is None:
        raise UnknownStudyError(otherwise)
    return row


def prior(connection: Connection, study_id: int) -> Mapping[str, Any] | None:
    """What another study observed: {"study": name, "trials": [{"params", "values"}]}; mostly None."""
    text = connection.scalar(sa.select(study.c.prior).where(study.c.id == study_id))
    return None if text is None else json.loads(text)


def names(connection: Connection) -> list[str]:
    """Of every study that people have made, oldest first."""
    query = sa.select(study.c.name).where(study.c.repeats_of.is_(None)).order_by(study.c.id)
    return list(connection.scalars(query))


def set_state(connection: Connection, study_id: int, wanted: StudyState) -> StudyState:
    """Pause, resume or stop; returns the state the study is in afterwards.

    Pausing halts the count of seconds. A stopping study becomes stopped when nothing runs any more. A study
    that its budget ended stays so, unless tickets wait although all trials were said to be done.
    """
    row = hold(connection, study_id)
    state = StudyState(row.state)
    values: Mapping[str, Any] = {}
    if wanted is StudyState.PAUSED and state is StudyState.RUNNING:
        seconds_of.stop(connection, row)
        values = {"state": wanted}
    elif wanted is StudyState.RUNNING and _can_resume(connection, row):
        values = RUNS_AGAIN
    elif wanted is StudyState.STOPPING and not state.ended and row.ended_why not in outcomes.FOR_GOOD:
        values = {"state": wanted, "ended_why": outcomes.BY_HAND}
    if values:
        locks.change(connection, study, study_id, **values)
        if wanted is StudyState.RUNNING:
            _go_on(connection, study_id)
        else:
            outcomes.conclude(connection, study_id)
    return StudyState(hold(connection, study_id).state)


def _can_resume(connection: Connection, row: sa.Row[Any]) -> bool:
    """Whether a person may let the study go on without giving it more."""
    if row.state == StudyState.FINISHED:
        left = sa.select(ticket.c.id).where(ticket.c.study_id == row.id, is_queued).limit(1)
        return row.ended_why == outcomes.ALL_DONE and connection.execute(left).first() is not None
    return row.state != StudyState.RUNNING and row.ended_why not in outcomes.BY_BUDGET


def cancel(connection: Connection, study_id: int) -> tuple[int, int]:
    """End the study now, with every trial that runs, or waits or is parked: returns how many did.

    Their workers notice at the next beat, and end what runs. Tickets without a trial stay in the queue, and
    repeats return there.
    """
    its = hold(connection, study_id)
    end = outcomes.cancel if its.repeats_of is None else partial(outcomes.release, why="cancelled")
    parked = outcomes.end_parked(connection, study_id, TicketState.CANCELLED)
    set_state(connection, study_id, StudyState.STOPPING)
    open_ = is_running | (is_queued & ticket.c.trial_id.is_not(None))
    query = sa.select(ticket).where(ticket.c.study_id == study_id, open_).order_by(ticket.c.id)
    rows = connection.execute(query.with_for_update()).all()
    running = [row for row in rows if row.state == TicketState.RUNNING]
    for row in running:
        end(connection, Lease(row.id, row.attempt))
    for row in rows:
        if row.state == TicketState.QUEUED:
            outcomes.give_up(connection, row.id, row.trial_id, TicketState.CANCELLED)
    return len(running), len(rows) - len(running) + parked


def enqueue(
    connection: Connection, study_id: int, point: Mapping[str, Any], by: str, why: str | None = None
) -> int | None:
    """Give a point to the next blank ticket, ahead of the others; returns the ticket's number.

    `by` and `why` stay with it. Those that ask at once get no more together than `proposals` allows.

    None when the study's budget has ended it, or every ticket is taken: the budget stays exact, so the
    study must be extended first. A study without a budget of trials gets a new ticket.

    Raises:
        LimitError: as many points came from outside as may.
    """
    row = hold(connection, study_id)
    if row.ended_why in outcomes.BY_BUDGET:
        return None
    _demand_room(connection, row)
    untouched = is_queued & ticket.c.point.is_(None) & ticket.c.trial_id.is_(None)
    blank = (
        sa.select(ticket.c.id, ticket.c.number)
        .where(ticket.c.study_id == study_id, untouched)
        .order_by(ticket.c.number)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    found = connection.execute(blank).first()
    if found is None and row.budget_trials is None:
        tickets.add(connection, study_id, [None], first=tickets.next_number(connection, study_id))
        found = connection.execute(blank).first()
    if found is None:
        return None
    asked = {"point": json.dumps(point), "asked_by": by[:300], "asked_why": why}
    locks.change(connection, ticket, found.id, priority=tickets.ENQUEUED, **asked)
    return int(found.number)


def _demand_room(connection: Connection, row: sa.Row[Any]) -> None:
    """Whether one more point may come from outside. The caller holds the study's row."""
    share = json.loads(row.spec).get("proposals")
    if share is None:
        return
    mine = sa.select(sa.func.count(), sa.func.count(ticket.c.asked_by)).where(ticket.c.study_id == row.id)
    there, had = connection.execute(mine).one()
    total = row.budget_trials or there + 1
    if had + 1 > round(share * total, 6):
        raise LimitError(
            f"{row.name} has had its {had} proposals: `proposals` in its study file allows {share:.4g} of "
            f"its {total} trials; the rest is the sampler's"
        )


def extend(
    connection: Connection,
    study_id: int,
    points: Sequence[Mapping[str, Any] | None],
    *,
    cells: bool,
    first: int | None = None,
    **budgets: float | None,
) -> bool:
    """Add tickets, or raise `budgets` (seconds, epochs, target, patience: the new one); an ended study runs
    again. It does not where a result meets its target, or its seconds or patience are spent all the same.

    `first` is the ticket number that the first of `points` (grid cells) is for; False, and nothing is
    changed, when somebody else has extended the study meanwhile.
    """
    row = hold(connection, study_id)
    values: dict[str, Any] = {}
    number = tickets.next_number(connection, study_id)
    if first is not None and first != number:
        return False
    if points:
        tickets.add(connection, study_id, points, first=number, cells=cells)
        values["budget_trials"] = (row.budget_trials or 0) + len(points)
    values |= {f"budget_{name}": value for name, value in budgets.items() if value is not None}
    if StudyState(row.state).ended or row.state == StudyState.STOPPING:
        values |= RUNS_AGAIN
    locks.change(connection, study, study_id, **values)
    _go_on(connection, study_id)
    return True


def retry_failed(connection: Connection, study_id: int, trial: int | None = None) -> int:
    """Queue every failed ticket again, or that of one trial, with a new trial; returns how many.

    A diverged one is queued by its trial alone: its setting would diverge again. An ended study runs again,
    but not where a result meets its target, or its seconds are spent.
    """
    row = hold(connection, study_id)
    failed = (ticket.c.study_id == study_id) & (ticket.c.state == TicketState.FAILED)
    if trial is not None:
        failed |= (ticket.c.study_id == study_id) & (ticket.c.state == TicketState.DIVERGED)
        failed &= ticket.c.trial_number == trial
    optuna_rows.unmark(connection, sa.select(ticket.c.trial_id).where(failed, ticket.c.trial_id.isnot(None)))
    found = connection.execute(ticket.update().where(failed).values({**blame.ANEW, "lost": 0}))
    if found.rowcount and row.state != StudyState.PAUSED:
        locks.change(connection, study, study_id, **RUNS_AGAIN)
        _go_on(connection, study_id)
    return int(found.rowcount)


def mark(
    connection: Connection, row: StudyRow, note: str | None, trials: Mapping[int, Mapping[str, Any]]
) -> None:
    """Write what a person noted with the study (None: as it was) and with trials, by Optuna's id, as user
    attributes, which plain Optuna reads, too. Safe beside others: the study's row is held.
    """
    connection.execute(study.update().where(study.c.id == row.id).values(marked=study.c.marked + 1))
    if note is not None:
        optuna_rows.set_attribute(connection, "study user", row.optuna_study_id, NOTE, json.dumps(note))
    for trial_id, marks in trials.items():
        for name, value in marks.items():
            optuna_rows.set_attribute(connection, "user", trial_id, name, json.dumps(value))


def delete(database: Database, row: StudyRow) -> None:
    """Delete a study with its trials, tickets and records, or nothing. Running attempts lose their leases.

    Who did is remembered.
    """

    def everything(connection: Connection) -> None:
        if locks.hold_study(connection, row.id) is None:
            return
        connection.execute(study.delete().where(study.c.repeats_of == row.id))
        of_it = ticket.c.study_id == row.id
        connection.execute(sa.select(ticket.c.id).where(of_it).order_by(ticket.c.id).with_for_update()).all()
        kept = sa.select(artifact.c.trial_id).where(artifact.c.study_id == row.id)
        mine = sa.select(ticket.c.trial_id).where(of_it, ticket.c.trial_id.is_not(None))
        connection.execute(metric.delete().where(metric.c.trial_id.in_(mine.union(kept))))
        events.forget(connection, row.uid)
        events.add(connection, row.id, events.DELETE, database.who)
        connection.execute(study.delete().where(study.c.id == row.id))
        optuna_rows.delete_study(connection, row.optuna_study_id)

    database.write(everything)


def set_aside(connection: Connection, study_id: int) -> str | None:
    """Stop a study of which nothing runs and give it a name that is free, which is returned; None: it runs.

    Safe beside others: they claim and finish with its row held.
    """
    row = hold(connection, study_id)
    running = sa.select(ticket.c.id).where(ticket.c.study_id == study_id, is_running)
    if connection.execute(running.limit(1)).first() is not None:
        return None
    if not StudyState(row.state).ended:
        set_state(connection, study_id, StudyState.STOPPING)
    taken = optuna_rows.names(connection)
    name = next(name for n in itertools.count(1) if (name := f"{row.name[:60]}-{n}") not in taken)
    locks.change(connection, study, study_id, name=name)
    of_it = study.update().where(study.c.repeats_of == study_id)
    connection.execute(of_it.values(name=sa.literal(f"{name}~").concat(study.c.repeats)))
    optuna_rows.rename_study(connection, row.optuna_study_id, name)
    return name


def remember(connection: Connection, study_id: int, column: str, value: Mapping[str, Any]) -> None:
    """Keep a JSON value with the study: `code`, `test_evaluation` or a changed `spec`."""
    locks.change(connection, study, study_id, **{column: json.dumps(value)})


def code_of(connection: Connection, study_id: int) -> Mapping[str, Any] | None:
    """What the first completed trial ran on; None before there is one, and of a study that was deleted."""
    found = connection.scalar(sa.select(study.c.code).where(study.c.id == study_id))
    return None if found is None else dict(json.loads(found))


def pinned_code(
    connection: Connection, study_id: int, first: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """What the first completed trial ran on. Where there was none yet, that is `first`, which is kept."""
    row = hold(connection, study_id)
    if row.code is not None:
        return dict(json.loads(row.code))
    if first is not None:
        remember(connection, study_id, "code", first)
    return first


def hold(connection: Connection, study_id: int) -> sa.Row[Any]:
    """The study's row, held (`storage.queue.locks`).

    Raises:
        UnknownStudyError: it was deleted.
    """
    row = locks.hold_study(connection, study_id)
    if row is None:
        raise UnknownStudyError("the study was deleted")
    return row


def _go_on(connection: Connection, study_id: int) -> None:
    """The study may go on: seconds count while somebody works, and a budget that is spent ends it again."""
    row = hold(connection, study_id)
    if row.state == StudyState.RUNNING and seconds_of.anybody_works(connection, study_id):
        seconds_of.start(connection, study_id)
    outcomes.end_if_spent(connection, study_id)
