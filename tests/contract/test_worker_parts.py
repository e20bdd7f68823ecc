"""What a worker writes of itself and its runners when something goes wrong, without starting one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from hpo.runner.messages import GAVE_UP
from hpo.settings import Settings
from hpo.worker import identity, lease_keeper, registration
from hpo.worker.lease_keeper import LeaseKeeper
from hpo.worker.settling import Settlements
from hpo.worker.supervisor import Worker
from storage.database.engine import Database
from storage.database.errors import DatabaseUnreachableError
from storage.database.records import WorkerState
from storage.database.tables import worker
from tests.support.shared import Opener, attempts_of, make_study, ticket_row


@pytest.mark.parametrize(("status", "ended", "lost"), [(GAVE_UP, "released", 0), (-9, "lost", 1)])
def test_a_runner_that_gave_up_on_the_database_before_its_word_costs_its_trial_nothing(
    database: Database, party: Opener, status: int, ended: str, lost: int
) -> None:
    one = party(make_study(database, 1))
    claim = one.claim()
    supervisor = Worker(database, Settings(), None, ".", [])
    supervisor._settlements = Settlements(database, one.id)
    child: Any = SimpleNamespace(
        index=0,
        current=None,
        asked=True,
        never_worked=False,
        close=lambda: None,
        process=SimpleNamespace(returncode=status),
        how_it_died=lambda: ("it died", False),
    )
    supervisor._children[0] = child
    supervisor._bury(child)
    assert attempts_of(database, claim.lease) == [ended]
    row = ticket_row(database, claim.lease)
    assert (row.state, row.lost) == ("queued", lost)


def test_a_worker_starts_although_dead_ones_cannot_be_buried_now(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is registered by then, and its next heartbeat buries them."""

    def locked(*_: Any) -> None:
        raise DatabaseUnreachableError("the database is locked")

    monkeypatch.setattr(registration, "bury_dead", locked)
    me = identity.identify(uuid.uuid4().hex, None)
    registration.sign_on(database, me, None, [], lease=30.0)
    state = database.read(lambda c: c.scalar(sa.select(worker.c.state).where(worker.c.id == me.id)))
    assert state == WorkerState.ACTIVE


@pytest.fixture
def wake() -> Iterator[int]:
    reading, writing = os.pipe()
    yield writing
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("error", [DatabaseUnreachableError("away"), KeyError("no such process")])
def test_heartbeats_go_on_whatever_happens_at_the_burial_of_others(
    database: Database, party: Opener, monkeypatch: pytest.MonkeyPatch, wake: int, error: Exception
) -> None:
    def raising(*_: Any) -> None:
        raise error

    monkeypatch.setattr(lease_keeper, "bury_dead", raising)
    one = party(make_study(database, 1))
    keeper = LeaseKeeper(
        database, one.id, None, lease=30.0, interval=10.0, status=dict, runners=list, wake=wake
    )
    keeper.beat()
    first = keeper.latest
    keeper.beat()
    assert keeper.latest is not None
    assert keeper.latest is not first
