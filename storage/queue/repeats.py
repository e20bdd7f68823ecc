"""Repeats: trials' settings trained again. They are no trials: whoever searches sees none of them.

A repeat is a ticket with a row in `hpo_repeat`, claimed, leased, attempted and ended like any other. The
repeats of a study are the tickets of another row of `hpo_study`, which is nobody's search: it has no study of
Optuna's, and people see it as part of the one it is of (`repeats_of`). So a budget, a count or a best of that
one cannot include them, and what claims, reaps or pauses a study does the same here.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.clock import database_now
from storage.database.records import AttemptState, Repeat, StudyRow, StudyState, TicketState
from storage.database.tables import artifact, attempt, is_queued, metric, repeat, study, ticket
from storage.files import kept_files
from storage.history.known import read_whole
from storage.queue import locks, optuna_rows, outcomes, studies, tickets
from storage.queue.optuna_rows import Trial

CONFIRM, REGRET = KINDS = ("confirm", "regret")  # what trials are trained again for


@dataclass(frozen=True)
class Repeated:
    """A repeat as it stands."""

    ticket_id: int
    number: int  # of the ticket among the repeats
    trial_number: int
    seed: int
    seeds: int
    state: TicketState
    result: tuple[float, ...] | None  # a value of each training; () where it ended without
    seconds: float  # worked at it
    rejected: int  # writes of stale attempts that were refused


def find(connection: Connection, study_id: int, kind: str = CONFIRM) -> StudyRow | None:
    """The row that a study's repeats are the tickets of; None where there are none."""
    return next((its for its in every(connection, study_id) if its.repeats == kind), None)


def every(connection: Connection, study_id: int) -> list[StudyRow]:
    """The rows of `find`, of every kind."""
    its = sa.select(study).where(study.c.repeats_of == study_id).order_by(study.c.repeats)
    return [StudyRow.of(row) for row in connection.execute(its)]


def going(connection: Connection, study_id: int) -> StudyRow | None:
    """The row of those of a study's repeats that are trained now; None where none are."""
    return next((its for its in every(connection, study_id) if not its.state.ended), None)


def add(
    connection: Connection,
    study_id: int,
    wanted: Sequence[tuple[Repeat, Mapping[str, Any]]],
    kind: str = CONFIRM,
) -> StudyRow:
    """Queue repeats, each with the parameters it has; those that are queued or done already are left out.

    Safe beside others: the study's row is held, then that of its repeats.

    Raises:
        UnknownStudyError: the study was deleted.
    """
    row = studies.hold(connection, study_id)
    its = find(connection, study_id, kind) or _begin(connection, row, kind)
    locks.hold_study(connection, its.id)
    there = {(one.trial_number, one.seed) for one in listed(connection, its.id)}
    new = [(one, params) for one, params in wanted if (one.trial_number, one.seed) not in there]
    if new:
        first = tickets.next_number(connection, its.id)
        tickets.add(connection, its.id, [dict(params) for _, params in new], first=first)
        ids = connection.scalars(
            sa.select(ticket.c.id)
            .where(ticket.c.study_id == its.id, ticket.c.number >= first)
            .order_by(ticket.c.number)
        ).all()
        named = ticket.update().where(ticket.c.id.in_(ids)).values(trial_number=ticket.c.number)
        connection.execute(named)  # its folder, as a trial's number does
        rows = [{"ticket_id": one, **vars(repeated)} for one, (repeated, _) in zip(ids, new, strict=True)]
        connection.execute(repeat.insert(), rows)
    values: dict[str, Any] = {"budget_trials": len(there) + len(new)}
    if new or its.ended_why == outcomes.BY_HAND:
        values |= studies.RUNS_AGAIN
    locks.change(connection, study, its.id, **values)
    outcomes.conclude(connection, its.id)
    return studies.by_id(connection, its.id)


def _begin(connection: Connection, row: sa.Row[Any], kind: str) -> StudyRow:
    copied = ("spec", "digest", "seed", "maximize", "retry_lost", "retry_failed", "artifacts", "code")
    connection.execute(
        study.insert().values(
            **{name: getattr(row, name) for name in copied},
            uid=uuid.uuid4().hex,
            name=f"{row.name}~{kind}",
            optuna_study_id=-2 * row.id - (kind == CONFIRM),  # none; of its own, for the column demands it
            state=StudyState.RUNNING,
            created_at=database_now(),
            seconds_used=0.0,
            repeats_of=row.id,
            repeats=kind,
        )
    )
    found = find(connection, row.id, kind)
    assert found is not None
    return found


def of_ticket(connection: Connection, ticket_id: int) -> tuple[Repeat, tuple[float, ...] | None]:
    """What a ticket trains again, and the values that an attempt at it has said before it ended."""
    row = connection.execute(sa.select(repeat).where(repeat.c.ticket_id == ticket_id)).one()
    said = None if row.result is None else tuple(json.loads(row.result))
    return Repeat(row.trial_id, row.trial_number, row.seed, row.seeds, row.from_epoch), said


def say(connection: Connection, ticket_id: int, values: Sequence[float]) -> None:
    """Keep the values of a ticket's trainings. They count when it has ended."""
    its = repeat.update().where(repeat.c.ticket_id == ticket_id)
    connection.execute(its.values(result=json.dumps(list(values))))


def listed(connection: Connection, its_id: int, ending: int | None = None) -> list[Repeated]:
    """All repeats of a row of `find`, by number; what was worked at one that runs is not counted yet.

    `ending`: the ticket whose end this very transaction writes, so that its result counts.
    """
    worked = (
        sa.select(sa.func.coalesce(sa.func.sum(attempt.c.ended_at - attempt.c.started_at), 0.0))
        .where(attempt.c.ticket_id == ticket.c.id)
        .scalar_subquery()
    )
    rows = connection.execute(
        sa.select(repeat.c.ticket_id, ticket.c.number, repeat.c.trial_number, repeat.c.seed, repeat.c.seeds)
        .add_columns(ticket.c.state, repeat.c.result, worked, ticket.c.rejected)
        .join(ticket, ticket.c.id == repeat.c.ticket_id)
        .where(ticket.c.study_id == its_id)
        .order_by(ticket.c.number)
    )
    found = []
    for one, number, trial, seed, seeds, state, result, seconds, rejected in rows:
        counts = result is not None and (TicketState(state).ended or one == ending)
        values = tuple(json.loads(result)) if counts else None
        found.append(Repeated(one, number, trial, seed, seeds, TicketState(state), values, seconds, rejected))
    return found


def drop(connection: Connection, its_id: int, trials: Collection[int]) -> None:
    """Cancel what waits of these trials (by number), and release the weights that their repeats left.

    The caller holds the row of the repeats.
    """
    theirs = (
        sa.select(repeat.c.ticket_id)
        .join(ticket, ticket.c.id == repeat.c.ticket_id)
        .where(ticket.c.study_id == its_id, repeat.c.trial_number.in_(trials))
    )
    ids = connection.scalars(
        sa.select(ticket.c.id)
        .where(ticket.c.id.in_(theirs), is_queued)
        .order_by(ticket.c.id)
        .with_for_update()
    ).all()
    connection.execute(ticket.update().where(ticket.c.id.in_(ids)).values(state=TicketState.CANCELLED))
    kept_files.release_weights_of(connection, its_id, theirs.with_only_columns(-repeat.c.ticket_id))


def carry_on(connection: Connection, row: StudyRow, trial: int, epochs: int = 0) -> Trial | None:
    """Queue a copy of a pruned trial, on a further ticket, that goes on where it was pruned, to its end.

    The budget grows by that ticket; what it knows until then is the copy's, too. A study that has come to
    all its trials, or was stopped, runs again. None: no trial of that number was pruned, or it has a copy.
    `epochs`: of a budget of them, reserved beyond it.
    """
    its = locks.hold_study(connection, row.id)
    of_it = ticket.c.study_id == row.id
    pruned = of_it & (ticket.c.trial_number == trial) & (ticket.c.state == TicketState.PRUNED)
    old = connection.execute(sa.select(ticket).where(pruned)).first()
    there = sa.select(ticket.c.id).where(of_it, ticket.c.retry_of == trial)
    if its is None or old is None or connection.execute(there).first() is not None:
        return None
    (known,) = read_whole(connection, [old.trial_id])
    its_study, distributions = row.optuna_study_id, known.distributions
    (made,) = optuna_rows.insert_trials(connection, its_study, [known.params], distributions)
    optuna_rows.upsert_reports(connection, [(made.id, *one) for one in known.intermediate_values.items()])
    for key, value in known.user_attrs.items():
        optuna_rows.set_attribute(connection, "user", made.id, key, json.dumps(value))
    logged = sa.select(sa.literal(made.id), metric.c.name, metric.c.step, metric.c.value)
    names = ["trial_id", "name", "step", "value"]
    connection.execute(metric.insert().from_select(names, logged.where(metric.c.trial_id == old.trial_id)))
    number = tickets.next_number(connection, row.id)
    tickets.add(connection, row.id, [None], first=number, priority=tickets.ENQUEUED)
    link = {"trial_id": made.id, "trial_number": made.number, "retry_of": trial, "epochs": epochs}
    changed = ticket.update().where(of_it, ticket.c.number == number).values(link).returning(ticket.c.id)
    _was_tried(connection, connection.execute(changed).scalar_one(), made, old)
    more = study.c.budget_trials + 1  # none stays none
    locks.change(connection, study, row.id, budget_trials=more)
    if its.state != StudyState.PAUSED:
        studies.set_state(connection, row.id, StudyState.RUNNING)
    return made


def _was_tried(connection: Connection, ticket_id: int, made: Trial, old: sa.Row[Any]) -> None:
    """Note as a copy's attempt 0 what was done for it before: else it looks like a foreign trial."""
    last = (attempt.c.ticket_id == old.id) & (attempt.c.number == old.attempt)
    its = connection.execute(sa.select(attempt.c.worker_id, attempt.c.runner, attempt.c.device).where(last))
    new = {"ticket_id": ticket_id, "number": 0, "trial_id": made.id, "trial_number": made.number}
    how = {"state": AttemptState.RELEASED, "error": f"pruned as trial {old.trial_number}"}
    when = {"started_at": database_now(), "ended_at": database_now()}
    connection.execute(attempt.insert().values(**its.one()._mapping, **new, **how, **when))


def artifacts_of(ticket_id: int) -> int:
    """What stands for a trial's id where a repeat keeps files."""
    return -ticket_id


@dataclass(frozen=True)
class Weights:
    """What a repeat has kept."""

    path: str  # relative to the store
    sha256: str
    seeds: int  # trainings whose weights it holds


def weights_of(connection: Connection, study_id: int, trial: int) -> Weights | None:
    """The weights that the first repeat of a trial (by number) has kept."""
    rows = connection.execute(
        sa.select(artifact.c.path, artifact.c.sha256, repeat.c.seeds)
        .join(repeat, -repeat.c.ticket_id == artifact.c.trial_id)
        .join(study, study.c.id == artifact.c.study_id)
        .where(study.c.repeats_of == study_id, repeat.c.trial_number == trial)
        .where(artifact.c.name.in_(kept_files.WEIGHTS))
        .order_by(artifact.c.trial_id.desc(), artifact.c.id)
    )
    found = rows.first()
    return None if found is None else Weights(*found)
