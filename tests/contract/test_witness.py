"""Who may call others silent: outages, sleeping machines and clocks that are set take nobody's lease.

`World` moves two clocks: the database's, and that of the witness's own machine, which nobody can set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from hpo.dashboard.housekeeping import look_after
from storage.database.engine import Database
from storage.database.records import TicketState, WorkerState
from storage.database.tables import ticket, worker
from storage.queue import leases, workers
from storage.queue.witness import Witness
from tests.support.clock import shift
from tests.support.shared import LEASE, Opener, Party, make_study, ticket_row

BEAT = LEASE / 3


class World:
    """A database with witnesses, and time that passes when told to."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._slept = 0.0

    def boot_seconds(self) -> float:
        """As the database's clock, it stands still while a slow test runs."""
        return 1000.0 + self._slept

    def pass_by(self, seconds: float) -> None:
        """Time passes for everybody."""
        self._slept += seconds
        shift(seconds)

    def jump(self, seconds: float) -> None:
        """Somebody sets the database's clock."""
        shift(seconds)

    def witness(self, lease: float = LEASE) -> Witness:
        return Witness(self.database, lease, lease / 3, self.boot_seconds)

    def renew(self, one: Party, lease: float = LEASE) -> None:
        """A worker that is well."""
        self.database.write(lambda c: leases.renew(c, one.id, lease))
        self.database.write(lambda c: workers.beat(c, one.id, {}))


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def as_dashboard(world: World, witness: Witness, _me: Party) -> int:
    before = lost(world.database)
    look_after(world.database, witness)
    return lost(world.database) - before


def as_worker(world: World, witness: Witness, me: Party) -> int:
    def ask(connection: sa.Connection) -> tuple[bool, float | None]:
        leases.renew(connection, me.id, LEASE)
        return True, workers.beat(connection, me.id, {})[1]

    assert witness.beat(ask)
    return witness.reap()


def lost(database: Database) -> int:
    query = sa.select(sa.func.coalesce(sa.func.sum(ticket.c.lost), 0))
    return database.read(lambda c: int(c.scalar(query) or 0))


Look = Callable[[World, Witness, Party], int]
both_kinds = pytest.mark.parametrize("look", [as_worker, as_dashboard])
worker_only = pytest.mark.parametrize("look", [as_worker])
dashboard_only = pytest.mark.parametrize("look", [as_dashboard])


def watch(world: World, look: Look, witness: Witness, me: Party, seconds: float, *well: Party) -> int:
    """The witness beats while time passes; the others renew just after it. Returns how many it ended."""
    ended = 0
    for _ in range(round(seconds / BEAT)):
        world.pass_by(BEAT)
        ended += look(world, witness, me)
        for one in well:
            world.renew(one)
    return ended


@both_kinds
def test_the_trials_of_a_silent_worker_are_taken_back(world: World, party: Opener, look: Look) -> None:
    """And those of the others are not."""
    study = make_study(world.database, 2)
    me, well, silent = party(study), party(study), party(study)
    kept, gone = well.claim(), silent.claim()
    assert watch(world, look, world.witness(), me, 3 * LEASE, well) == 1
    assert ticket_row(world.database, kept.lease).state == TicketState.RUNNING
    assert ticket_row(world.database, gone.lease).state == TicketState.QUEUED


@both_kinds
@pytest.mark.parametrize("jump", [0.9 * LEASE, 86_400.0, -86_400.0])
def test_a_jump_of_the_databases_clock_takes_nobodys_lease(
    world: World, party: Opener, look: Look, jump: float
) -> None:
    study = make_study(world.database, 2)
    me, well = party(study), party(study)
    claim, witness = well.claim(), world.witness()
    assert watch(world, look, witness, me, 2 * LEASE, well) == 0
    world.jump(jump)
    assert look(world, witness, me) == 0
    assert watch(world, look, witness, me, 3 * LEASE, well) == 0
    assert ticket_row(world.database, claim.lease).attempt == 1


@worker_only
@pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
def test_after_a_jump_the_dead_are_noticed_within_two_leases(
    world: World, party: Opener, look: Look, jump: float
) -> None:
    """Also when the clock went back, so that a lease seems to last for a day."""
    study = make_study(world.database, 2)
    me, silent = party(study), party(study)
    witness = world.witness()
    watch(world, look, witness, me, 2 * LEASE)
    silent.claim()
    world.jump(jump)
    assert watch(world, look, witness, me, 2 * LEASE) == 1
    watch(world, look, witness, me, LEASE)
    states = world.database.read(lambda c: dict(c.execute(sa.select(worker.c.id, worker.c.state)).all()))  # type: ignore[arg-type]
    assert states[silent.id] == WorkerState.LOST


@worker_only
def test_whoever_wakes_first_waits_for_the_others(world: World, party: Opener, look: Look) -> None:
    """A machine that slept: both clocks went on, and nobody could renew."""
    study = make_study(world.database, 1)
    me, well = party(study), party(study)
    well.claim()
    witness = world.witness()
    watch(world, look, witness, me, 2 * LEASE, well)
    world.pass_by(3600)
    assert look(world, witness, me) == 0
    assert watch(world, look, witness, me, 2 * LEASE, well) == 0


@both_kinds
def test_a_database_that_stands_still_during_a_beat_lets_nobody_expire(
    world: World, party: Opener, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(world.database, 1)
    me, well = party(study), party(study)
    well.claim()
    witness = world.witness()
    watch(world, look, witness, me, 2 * LEASE, well)
    beat, bear = workers.beat, workers.bear_witness

    def slow(verb: Any) -> Any:
        def stalled(*args: Any, **more: Any) -> Any:
            world.pass_by(2 * LEASE)
            return verb(*args, **more)

        return stalled

    with monkeypatch.context() as patch:
        patch.setattr(workers, "beat", slow(beat))
        patch.setattr(workers, "bear_witness", slow(bear))
        assert look(world, witness, me) == 0
    assert watch(world, look, witness, me, 2 * LEASE, well) == 0


@worker_only
def test_a_database_that_stands_still_after_a_beat_lets_nobody_expire(
    world: World, party: Opener, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is ended is decided by the time of the beat, however late the decision is carried out."""
    study = make_study(world.database, 1)
    me, well = party(study), party(study)
    well.claim()
    witness = world.witness()
    watch(world, look, witness, me, 2 * LEASE, well)
    reap = leases.reap_expired

    def late(*args: Any, **more: Any) -> int:
        world.pass_by(2 * LEASE)
        return reap(*args, **more)

    monkeypatch.setattr(leases, "reap_expired", late)
    monkeypatch.setattr(workers, "is_anything_overdue", lambda *_: True)  # of another worker, say
    world.pass_by(BEAT)
    assert look(world, witness, me) == 0


@dashboard_only
def test_control_with_endless_sight_the_same_standstill_takes_the_lease(
    world: World, party: Opener, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(world.database, 1)
    me, well = party(study), party(study)
    well.claim()
    witness = world.witness()
    watch(world, look, witness, me, 2 * LEASE, well)
    reap = leases.reap_expired

    def late(connection: Any, _sight: Any) -> int:
        world.pass_by(2 * LEASE)
        return reap(connection, leases.Sight())

    monkeypatch.setattr(leases, "reap_expired", late)
    monkeypatch.setattr(workers, "is_anything_overdue", lambda *_: True)  # of another worker, say
    world.pass_by(BEAT)
    assert look(world, witness, me) == 1


@dashboard_only
def test_a_beat_that_fails_begins_the_waiting_anew(
    world: World, party: Opener, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(world.database, 1)
    me, well = party(study), party(study)
    well.claim()
    witness = world.witness()
    watch(world, look, witness, me, 2 * LEASE, well)

    def away(*_args: Any, **_more: Any) -> Any:
        raise sa.exc.TimeoutError("nobody answers")

    with monkeypatch.context() as patch:
        patch.setattr(world.database.engine, "connect", away)
        look_after(world.database, witness)
    assert witness.away is not None
    world.pass_by(0.9 * LEASE)  # others were away for longer than this one
    world.jump(0.2 * LEASE)
    assert look(world, witness, me) == 0
    assert witness.away is None


@worker_only
def test_who_can_only_read_is_no_witness(
    world: World, party: Opener, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading goes on where writing is blocked, and those who cannot write cannot renew."""
    study = make_study(world.database, 1)
    me = party(study)
    party(study).claim()
    witness = world.witness()
    for _ in range(12):
        world.pass_by(BEAT)
        witness.beat(lambda connection: (connection.execute(sa.select(worker)), None))
        assert witness.reap() == 0
    assert watch(world, look, witness, me, 2 * LEASE) == 1


def test_a_worker_of_version_0_1_which_told_no_lease_is_judged_by_its_tickets(
    world: World, party: Opener
) -> None:
    """Its lease may be longer than anybody else's."""
    study = make_study(world.database, 1)
    me, old = party(study), party(study)
    old.claim()
    unknown = worker.update().where(worker.c.id == old.id).values(lease_seconds=None)
    world.database.write(lambda c: c.execute(unknown))
    world.renew(old, 10 * LEASE)
    witness = world.witness()
    assert watch(world, as_worker, witness, me, 9 * LEASE) == 0
    assert watch(world, as_worker, witness, me, 2 * LEASE) == 1


@worker_only
@pytest.mark.parametrize(("mine", "theirs"), [(LEASE / 30, LEASE), (LEASE, LEASE / 30)])
def test_every_worker_is_judged_by_its_own_lease(
    world: World, party: Opener, look: Look, mine: float, theirs: float
) -> None:
    """After an outage a short lease has watched for long before a long one has had its turn; and a long one
    may have missed an outage that a short one did not survive.
    """
    study = make_study(world.database, 1)
    me, well = party(study), party(study, lease=theirs)
    well.claim()
    world.renew(well, theirs)
    witness = world.witness(mine)
    gap = max(mine, theirs) / 3
    for _ in range(12):
        world.pass_by(mine / 3)
        world.renew(well, theirs)
        assert look(world, witness, me) == 0
    world.pass_by(2 * gap if mine > theirs else 2 * theirs)  # nobody reaches the database
    spent = 0.0
    while spent < gap:  # in which it beats again, sooner or later
        assert look(world, witness, me) == 0
        world.pass_by(mine / 3)
        spent += mine / 3
    world.renew(well, theirs)
    assert look(world, witness, me) == 0
    row = world.database.read(lambda c: c.execute(sa.select(worker).where(worker.c.id == well.id)).one())
    assert (row.lease_seconds, row.state) == (theirs, WorkerState.ACTIVE)
