"""The shared storage as several processes see it, without starting any: studies, workers, claims."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from optuna.distributions import FloatDistribution
from optuna.storages._rdb import models

from storage.database.engine import Database, parse_url
from storage.database.records import Claim, Lease, NothingToClaim, StudyRow, StudyState, TicketState
from storage.database.tables import attempt, metadata, ticket
from storage.queue import leases, outcomes, studies, tickets, workers
from storage.queue.optuna_rows import Trial
from tests.support.claims import claim_next
from tests.support.clock import shift
from tests.support.writer import Writer

LEASE = 30.0  # seconds; tests shift the clock instead of waiting
SPACE = {"x": FloatDistribution(0.0, 1.0)}


def make_study(
    database: Database,
    points: int | Sequence[Mapping[str, Any] | None] | None = 3,
    *,
    name: str = "study",
    **changes: Any,
) -> StudyRow:
    """A study with so many blank tickets, or with these points, or (None) without a budget of trials."""
    listed = [None] * points if isinstance(points, int) else list(points or [])
    fields: dict[str, Any] = {
        "name": name,
        "directions": ["maximize"],
        "spec": {},
        "digest": "0" * 64,
        "seed": 0,
        "points": listed,
        "cells": False,
        "enqueued": 0,
        "budget_trials": None if points is None else len(listed),
        "budget_seconds": None,
        "budget_target": None,
        "retry_lost": 3,
        "retry_failed": 0,
        "artifacts": "memory://artifacts",
    }
    return studies.create(database, studies.NewStudy(**{**fields, **changes}))


def reopen(url: str) -> Database:
    """A database that is known to be migrated, as one more process sees it."""
    parsed = parse_url(url)
    return Database(parsed)


class Party:
    """One worker with one runner: a database connection and a writer of its own.

    `every`: it serves every study; `study` is the one it is at, and may be changed.
    """

    def __init__(
        self, url: str, study: StudyRow, name: str = "w", *, every: bool = False, lease: float = LEASE
    ) -> None:
        self.database = reopen(url)
        self.writer = Writer(self.database)
        self.study = study
        self.name = name
        self.id = uuid.uuid4().hex
        self.database.write(
            lambda connection: workers.register(
                connection,
                worker_id=self.id,
                name=name,
                host="host",
                host_key=f"elsewhere-{self.id}",
                pid=1,
                pid_started=0.0,
                lease_seconds=lease,
                study_id=None if every else study.id,
                devices=["cpu"],
                versions={},
            )
        )

    def try_claim(
        self,
        runner: int = 0,
        takes: tickets.Takes = None,
        slot: int = 0,
        promote: Any = None,
        epochs: int = 0,
    ) -> Claim | NothingToClaim:
        """Ask for a ticket."""
        study = self.study.id
        return self.database.write(
            lambda connection: claim_next(
                connection, study, self.id, runner, "cpu", LEASE, takes, slot, promote=promote, epochs=epochs
            )
        )

    def claim(self, runner: int = 0, slot: int = 0) -> Claim:
        """Get a ticket; fails the test when there is none."""
        found = self.try_claim(runner, slot=slot)
        assert isinstance(found, Claim), found
        return found

    def start(self, claim: Claim, **params: float) -> Trial:
        """Begin, or take over, the claim's trial; writes are this claim's from now on."""
        self.writer.lease = claim.lease
        if claim.trial_id is not None:
            return self.writer.take_over(claim, None)
        chosen = params or {"x": 0.5}
        return self.writer.start_trial(self.study.optuna_study_id, claim, chosen, SPACE, {})

    def begin(self, runner: int = 0) -> tuple[Claim, Trial]:
        """Claim and start."""
        claim = self.claim(runner)
        return claim, self.start(claim)

    def complete(self, value: float = 1.0) -> None:
        """Deliver a value for the current attempt."""
        self.writer.deliver(TicketState.COMPLETE, (value,))

    def finish_one(self, value: float = 1.0) -> Claim:
        """Claim, start, deliver."""
        claim, _ = self.begin()
        self.complete(value)
        return claim

    def work(self, seconds: float) -> None:
        """Time passes, and the leases are renewed meanwhile."""
        while seconds > 0:
            shift(min(seconds, LEASE / 2))
            seconds -= LEASE / 2
            self.database.write(lambda connection: leases.renew(connection, self.id, LEASE))

    def close(self) -> None:
        self.database.close()


def let_expire(database: Database) -> int:
    """Move the clock past every lease and reap; returns how many attempts were lost."""
    shift(LEASE + 1)
    return database.write(lambda connection: leases.reap_expired(connection, leases.Sight()))


def lose(database: Database, lease: Lease, why: str = "gone") -> None:
    """End an attempt as lost."""
    database.write(lambda connection: outcomes.lose(connection, lease, why))


def steer(database: Database, study: StudyRow, state: StudyState) -> StudyState:
    """Pause, resume or stop."""
    return database.write(lambda connection: studies.set_state(connection, study.id, state))


def state_of(database: Database, study: StudyRow) -> StudyState:
    """The study's state now."""
    return database.read(lambda connection: studies.get(connection, study.name)).state


def ticket_row(database: Database, lease: Lease) -> Any:
    """The ticket of a lease."""
    return database.read(
        lambda connection: connection.execute(sa.select(ticket).where(ticket.c.id == lease.ticket_id)).one()
    )


def attempts_of(database: Database, lease: Lease) -> list[str]:
    """States of a ticket's attempts, oldest first."""
    query = (
        sa.select(attempt.c.state).where(attempt.c.ticket_id == lease.ticket_id).order_by(attempt.c.number)
    )
    return database.read(lambda connection: [str(state) for state in connection.scalars(query)])


def ticket_states(database: Database, study: StudyRow) -> list[str]:
    """States of a study's tickets, by number."""
    query = sa.select(ticket.c.state).where(ticket.c.study_id == study.id).order_by(ticket.c.number)
    return database.read(lambda connection: [str(state) for state in connection.scalars(query)])


def empty(database: Database) -> None:
    """Delete every row of ours and of Optuna's but its version."""
    kept = {"version_info", "alembic_version"}
    theirs = [table for table in models.BaseModel.metadata.sorted_tables if table.name not in kept]

    def clear(connection: sa.Connection) -> None:
        for table in [*reversed(metadata.sorted_tables), *reversed(theirs)]:
            connection.execute(table.delete())

    database.write(clear)


Opener = Callable[..., Party]
