"""What a worker writes of itself and its runners when something goes wrong, without starting one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from hpo.runner.messages import GAVE_UP
from hpo.settings import Settings
from hpo.spec import parse_spec
from hpo.studies import creation
from hpo.worker import identity, lease_keeper, registration
from hpo.worker.child import Phase
from hpo.worker.lease_keeper import LeaseKeeper
from hpo.worker.supervisor import Worker
from storage.database.engine import Database
from storage.database.errors import DatabaseUnreachableError
from storage.database.records import WorkerState
from storage.database.tables import worker
from storage.queue import workers
from tests.support.runner import BrokeredRunner
from tests.support.shared import Opener, attempts_of, make_study, ticket_row
from tests.support.waiting import wait_until


@pytest.mark.parametrize(
    ("status", "ended", "lost"), [(GAVE_UP, "released", 0), (-9, "lost", 1), (3, "lost", 1)]
)
def test_a_runner_that_dies_before_its_trial_began_loses_it_and_one_that_gave_up_gives_it_back(
    database: Database, party: Opener, tmp_path: Path, status: int, ended: str, lost: int
) -> None:
    (tmp_path / "mine.py").write_text("def objective(trial):\n    return 1.0\n")
    spec = {"study": "s", "objective": "mine.py", "direction": "maximize", "budget": {"trials": 1}}
    settings = Settings(artifacts=(tmp_path / "artifacts").as_uri())
    study = creation.create(database, parse_spec(spec), settings)
    runner = BrokeredRunner(party(study), study, tmp_path)
    claim = runner.claim()
    supervisor = Worker(database, Settings(), None, ".", [])
    supervisor._broker = runner.broker
    child: Any = SimpleNamespace(
        index=0,
        current=None,
        at_work=0,
        why_killed=None,
        abandoned=None,
        phase=Phase.ASKED,
        assignment=SimpleNamespace(uid=study.uid),
        never_worked=False,
        why_broken=None,
        close=lambda: None,
        forget=lambda _waiting: None,
        desk=runner.desk,
        process=SimpleNamespace(returncode=status),
        process_key=None,
        how_it_died=lambda: ("it died", status > 0),
    )
    child.lanes = [child]
    supervisor._children[0] = child
    supervisor._bury(child)
    wait_until(lambda: not runner.broker.unsettled, what="the runner's end is written")
    runner.close()
    assert attempts_of(database, claim.lease) == [ended]
    row = ticket_row(database, claim.lease)
    assert (row.state, row.lost) == ("queued", lost)


def test_a_worker_starts_although_dead_ones_cannot_be_buried_now(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is registered by then, and its next heartbeat buries them."""

    def locked(*_: Any) -> None:
        raise DatabaseUnreachableError("the database is locked")

    monkeypatch.setattr(registration, "is_alive", lambda *_: False)
    monkeypatch.setattr(workers, "bury", locked)
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
    keeper = LeaseKeeper(database, one.id, None, lease=30.0, interval=10.0, status=dict, wake=wake)
    keeper.beat()
    first = keeper.latest
    keeper.beat()
    assert keeper.latest is not None
    assert keeper.latest is not first


def test_a_heartbeat_that_was_cut_off_is_made_up_for_before_the_next_is_due(
    database: Database, party: Opener, wake: int
) -> None:
    """A lease survives two beats that fail; with an interval between them a third would be too late."""
    one = party(make_study(database, 1))
    keeper = LeaseKeeper(database, one.id, None, lease=3600.0, interval=1200.0, status=dict, wake=wake)
    waited: list[float] = []
    outcomes = iter([False, False, True, True])
    keeper.beat = lambda: next(outcomes)  # type: ignore[method-assign]

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) == 4

    keeper._stopped.wait = wait  # type: ignore[method-assign,assignment]
    keeper.run()
    assert waited[:2] == [240.0, 240.0]
    assert waited[2:] == [1200.0, 1200.0]
