"""Prove from the database that the invariants held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.optuna_tables import TrialState, system_attributes, trials, values
from storage.database.records import RESULTS, AttemptState, StudyRow, StudyState, TicketState
from storage.database.tables import attempt, ticket
from storage.queue import outcomes, repeats
from storage.queue.optuna_rows import ADDED

_SHOWN = 20  # numbers of foreign trials


@dataclass(frozen=True)
class Check:
    """One rule, and whether it held."""

    rule: str
    holds: bool
    found: str


@dataclass(frozen=True)
class Audit:
    """What the database says of a study."""

    holds: bool
    study: str
    tickets: int
    results: int  # complete or pruned
    foreign: list[int]  # numbers of trials that plain Optuna ran or somebody added: never counted
    duplicates: int
    missing: int  # tickets with neither a result nor a recorded end though all trials are said to be done
    diverged: int  # the setting made the training's numbers explode
    failed: int  # shown as failed or cancelled, never silently skipped
    rejected_writes: int
    attempts_per_ticket: dict[int, int]  # attempts -> tickets
    checks: list[Check]


def audit(connection: Connection, row: StudyRow) -> Audit:
    """Check one study's tickets, attempts and Optuna's trials against each other."""
    found = connection.execute(sa.select(ticket).where(ticket.c.study_id == row.id)).all()
    attempts = connection.execute(
        sa.select(attempt).join(ticket, attempt.c.ticket_id == ticket.c.id).where(ticket.c.study_id == row.id)
    ).all()
    theirs = connection.execute(sa.select(trials).where(trials.c.study_id == row.optuna_study_id)).all()
    optuna_trials = {trial.trial_id: trial.state for trial in theirs}
    foreign = _foreign(connection, row, theirs, {a.trial_id for a in attempts} | {t.trial_id for t in found})
    added = set(
        connection.scalars(
            sa.select(system_attributes.c.trial_id)
            .join(trials, trials.c.trial_id == system_attributes.c.trial_id)
            .where(trials.c.study_id == row.optuna_study_id, system_attributes.c.key == ADDED)
        )
    )
    done = [t for t in found if t.state in (TicketState.COMPLETE, TicketState.PRUNED)]
    delivered = Counter(
        a.ticket_id for a in attempts if a.state in (AttemptState.COMPLETE, AttemptState.PRUNED)
    )
    twice = delivered.total() - len(delivered)
    cells = Counter(t.point for t in found if t.cell)
    doubled_cells = cells.total() - len(cells)
    finished_trials = {
        trial_id
        for trial_id, state in optuna_trials.items()
        if state in (TrialState.COMPLETE, TrialState.PRUNED) and trial_id not in foreign
    }
    from_tickets = {t.trial_id for t in done}
    live = Counter(a.ticket_id for a in attempts if a.state == AttemptState.RUNNING)
    running = {t.id for t in found if t.state == TicketState.RUNNING}
    parked = sum(t.state == TicketState.PARKED for t in found)
    all_done = row.state is StudyState.FINISHED and row.ended_why == outcomes.ALL_DONE
    misfits = sum(
        TicketState(t.state).ended == (optuna_trials.get(t.trial_id) == TrialState.RUNNING)
        for t in found
        if t.trial_id is not None
    )
    diverged = sum(t.state == TicketState.DIVERGED for t in found)
    failed = sum(t.state in (TicketState.FAILED, TicketState.CANCELLED) for t in found)
    missing = len(found) - len(done) - diverged - failed if all_done else 0
    budget = row.budget_trials
    checks = [
        Check(
            "number of tickets = the budget",
            budget is None or len(found) == budget,
            f"{len(found)} tickets, budget {'open' if budget is None else budget}",
        ),
        Check("no ticket has two results", twice == 0, f"{twice} duplicates"),
        Check("no grid cell stands twice", doubled_cells == 0, f"{doubled_cells} duplicates"),
        Check(
            "every result belongs to one ticket, every finished ticket has its result",
            finished_trials == from_tickets,
            f"{len(finished_trials)} finished trials in Optuna's tables, {len(from_tickets)} in ours",
        ),
        Check(
            "foreign trials, which plain Optuna ran or a person added, are outside the budget",
            not added & from_tickets,
            _named(sorted(foreign.values()), len(added)),
        ),
        Check(
            "at most one open attempt a ticket, and only for running tickets",
            all(count == 1 for count in live.values()) and set(live) == running,
            f"{len(live)} open, {len(running)} running",
        ),
        Check(
            "no trial is left open but those that run, wait or are parked, and they are",
            misfits == 0,
            f"{misfits} are one in Optuna's tables and the other in ours",
        ),
        Check(
            "nothing runs or is parked in a study that has ended",
            not (row.state.ended and (running or parked)),
            f"{len(running)} running, {parked} parked, the study is {row.state}",
        ),
        Check(
            "when all trials are done, every ticket has a result or a recorded failure",
            missing == 0,
            f"{missing} tickets wait; `hpo resume {row.name}` has them tried" if missing else "0 missing",
        ),
        *_of_repeats(connection, row),
    ]
    return Audit(
        holds=all(check.holds for check in checks),
        study=row.name,
        tickets=len(found),
        results=len(done),
        foreign=sorted(foreign.values()),
        duplicates=twice + doubled_cells,
        missing=missing,
        diverged=diverged,
        failed=failed,
        rejected_writes=sum(t.rejected for t in found),
        attempts_per_ticket=dict(sorted(Counter(t.attempt for t in found).items())),
        checks=checks,
    )


def _of_repeats(connection: Connection, row: StudyRow) -> list[Check]:
    """That each repeat brought one result at most and became no trial; nothing where nobody asked for any."""
    its = [one.id for one in repeats.every(connection, row.id)]
    if not its:
        return []
    found = connection.execute(sa.select(ticket).where(ticket.c.study_id.in_(its))).all()
    brought = Counter(
        connection.scalars(
            sa.select(attempt.c.ticket_id)
            .join(ticket, attempt.c.ticket_id == ticket.c.id)
            .where(ticket.c.study_id.in_(its), attempt.c.state.in_(RESULTS))
        )
    )
    odd = sum(brought[t.id] != (t.state in RESULTS) or t.trial_id is not None for t in found)
    refused = sum(t.rejected for t in found)
    told = f"{len(found)} repeats, {odd} are not; {refused} stale writes rejected"
    return [Check("each repeat with a result has one, and is no trial", odd == 0, told)]


def _foreign(
    connection: Connection, row: StudyRow, theirs: Sequence[sa.Row[Any]], ours: Collection[int | None]
) -> dict[int, int]:
    """Optuna's trials that no ticket or attempt of ours had, number by id.

    One that waits is for us to run; a complete one without a value is none that Optuna could have made.
    """
    valued = set(
        connection.scalars(
            sa.select(values.c.trial_id)
            .join(trials, trials.c.trial_id == values.c.trial_id)
            .where(trials.c.study_id == row.optuna_study_id)
        )
    )
    return {
        trial.trial_id: trial.number
        for trial in theirs
        if trial.trial_id not in ours
        and trial.state != TrialState.WAITING
        and (trial.state != TrialState.COMPLETE or trial.trial_id in valued)
    }


def _named(numbers: Sequence[int], added: int) -> str:
    """ "3 foreign: trials 4, 7, 9 (1 added by hand)"."""
    if not numbers:
        return "0 foreign"
    listed = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
    by_hand = f" ({added} added by hand)" if added else ""
    return f"{len(numbers)} foreign: trials {listed}{by_hand}"
