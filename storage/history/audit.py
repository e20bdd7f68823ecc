"""Prove from the database that the invariants held."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.optuna_tables import TrialState, system_attributes, trials
from storage.database.records import AttemptState, StudyRow, StudyState, TicketState
from storage.database.tables import attempt, ticket
from storage.queue import outcomes
from storage.queue.optuna_rows import ADDED

_OPEN = (TicketState.QUEUED, TicketState.RUNNING)


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
    optuna_trials = {
        trial.trial_id: trial.state
        for trial in connection.execute(sa.select(trials).where(trials.c.study_id == row.optuna_study_id))
    }
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
    twice = sum(count - 1 for count in delivered.values() if count > 1)
    cells = Counter(t.point for t in found if t.cell)
    doubled_cells = sum(count - 1 for count in cells.values() if count > 1)
    finished_trials = {
        trial_id
        for trial_id, state in optuna_trials.items()
        if state in (TrialState.COMPLETE, TrialState.PRUNED) and trial_id not in added
    }
    from_tickets = {t.trial_id for t in done}
    live = Counter(a.ticket_id for a in attempts if a.state == AttemptState.RUNNING)
    running = {t.id for t in found if t.state == TicketState.RUNNING}
    all_done = row.state is StudyState.FINISHED and row.ended_why == outcomes.ALL_DONE
    misfits = sum(
        (t.state in _OPEN) != (optuna_trials.get(t.trial_id) == TrialState.RUNNING)
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
            "trials that a person added are outside the budget",
            not added & from_tickets,
            f"{len(added)} added",
        ),
        Check(
            "at most one open attempt a ticket, and only for running tickets",
            all(count == 1 for count in live.values()) and set(live) == running,
            f"{len(live)} open, {len(running)} running",
        ),
        Check(
            "no trial is left open but those that run or wait, and they are",
            misfits == 0,
            f"{misfits} are one in Optuna's tables and the other in ours",
        ),
        Check(
            "nothing runs in a study that has ended",
            not (row.state.ended and running),
            f"{len(running)} running, the study is {row.state}",
        ),
        Check(
            "when all trials are done, every ticket has a result or a recorded failure",
            missing == 0,
            f"{missing} tickets wait; `hpo resume {row.name}` has them tried" if missing else "0 missing",
        ),
    ]
    return Audit(
        holds=all(check.holds for check in checks),
        study=row.name,
        tickets=len(found),
        results=len(done),
        duplicates=twice + doubled_cells,
        missing=missing,
        diverged=diverged,
        failed=failed,
        rejected_writes=sum(t.rejected for t in found),
        attempts_per_ticket=dict(sorted(Counter(t.attempt for t in found).items())),
        checks=checks,
    )
