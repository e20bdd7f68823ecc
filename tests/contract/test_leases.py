"""Leases and the fence: an attempt that lost its ticket changes nothing, whatever it writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy.engine.interfaces import CacheStats

from storage.database.engine import Database
from storage.database.errors import LeaseLostError
from storage.database.records import TicketState
from storage.database.tables import artifact, metric
from storage.files.kept_files import KeptFile
from storage.queue import leases, workers
from storage.queue.fence import Fence
from tests.support.shared import (
    LEASE,
    SPACE,
    Opener,
    Party,
    attempts_of,
    let_expire,
    lose,
    make_study,
    ticket_row,
)

Write = Callable[[Party, int], Any]

# Everything a runner writes, each way it can reach the database: ORM rows, Core upserts, our own tables.
WRITES: dict[str, Write] = {
    "parameter": lambda p, t: p.writer.storage.set_trial_param(t, "y", 0.1, SPACE["x"]),
    "parameters": lambda p, _: p.writer.add_params({"y": 0.1}, {"y": SPACE["x"]}),
    "report through Optuna": lambda p, t: p.writer.storage.set_trial_intermediate_value(t, 1, 0.1),
    "report": lambda p, _: p.writer.report(1, 0.1, {"loss": 2.0}),
    "metric": lambda p, _: p.writer.report(1, None, {"loss": 2.0}),
    "user attribute": lambda p, t: p.writer.storage.set_trial_user_attr(t, "k", 1),
    "system attribute": lambda p, t: p.writer.storage.set_trial_system_attr(t, "k", 1),
    "study's attribute": lambda p, _: p.writer.storage.set_study_user_attr(p.study.optuna_study_id, "k", 1),
    "state": lambda p, t: p.writer.storage.set_trial_state_values(t, TrialState.COMPLETE, [1.0]),
    "result": lambda p, _: p.writer.deliver(TicketState.COMPLETE, (1.0,)),
    "failure": lambda p, _: p.writer.fail("boom"),
    "release": lambda p, _: p.writer.release("drained"),
    "artifact": lambda p, _: p.writer.keep_file(p.study.id, KeptFile("a.txt", "a", "0" * 64, 1)),
    "new trial": lambda p, _: p.writer.storage.create_new_trial(p.study.optuna_study_id),
    # straight at Optuna's storage, as a pruner or sampler with an own handle would
    "bare parameter": lambda p, t: p.database.rdb.set_trial_param(t, "y", 0.1, SPACE["x"]),
    "bare report": lambda p, t: p.database.rdb.set_trial_intermediate_value(t, 1, 0.1),
    "bare user attribute": lambda p, t: p.database.rdb.set_trial_user_attr(t, "k", 1),
    "bare system attribute": lambda p, t: p.database.rdb.set_trial_system_attr(t, "k", 1),
    "bare state": lambda p, t: p.database.rdb.set_trial_state_values(t, TrialState.COMPLETE, [1.0]),
    "bare new trial": lambda p, _: p.database.rdb.create_new_trial(p.study.optuna_study_id),
}

_WATCHED = [
    models.TrialModel,
    models.TrialParamModel,
    models.TrialValueModel,
    models.TrialIntermediateValueModel,
    models.TrialUserAttributeModel,
    models.TrialSystemAttributeModel,
    models.StudyUserAttributeModel,
]


def everything(database: Database) -> list[Any]:
    """All that a trial's writes could change."""
    tables = [model.__table__ for model in _WATCHED] + [metric, artifact]

    def rows(connection: sa.Connection) -> list[Any]:
        return [sorted(map(repr, connection.execute(sa.select(table)))) for table in tables]

    return database.read(rows)


def stale_and_new(database: Database, party: Opener) -> tuple[Party, int]:
    """A party that wakes after its lease went to another."""
    study = make_study(database, 2)
    stale, new = party(study, "stale"), party(study, "new")
    _, trial = stale.begin()
    let_expire(database)
    new.start(new.claim())
    return stale, trial.id


@pytest.mark.parametrize("kind", WRITES)
def test_a_stale_attempt_changes_nothing(database: Database, party: Opener, kind: str) -> None:
    stale, trial_id = stale_and_new(database, party)
    before = everything(database)
    with pytest.raises(LeaseLostError):
        WRITES[kind](stale, trial_id)
    assert everything(database) == before


@pytest.mark.parametrize("kind", [kind for kind in WRITES if kind not in ("failure", "release")])
def test_without_the_fence_the_same_write_gets_through(
    database: Database, party: Opener, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the test above can fail."""
    stale, trial_id = stale_and_new(database, party)
    before = everything(database)
    monkeypatch.setattr(Fence, "prove", lambda *_: None)
    monkeypatch.setattr(leases, "check", lambda *_: None)
    WRITES[kind](stale, trial_id)
    assert everything(database) != before


@pytest.mark.parametrize("kind", ["failure", "release"])
def test_without_the_fence_a_stale_end_takes_the_ticket_from_its_new_holder(
    database: Database, party: Opener, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control for the writes that change only the ticket."""
    stale, trial_id = stale_and_new(database, party)
    assert stale.writer.fence.lease is not None
    monkeypatch.setattr(leases, "check", lambda *_: None)
    WRITES[kind](stale, trial_id)
    assert ticket_row(database, stale.writer.fence.lease).state != TicketState.RUNNING


@pytest.mark.parametrize("kind", WRITES)
def test_a_process_without_an_attempt_may_not_write(database: Database, party: Opener, kind: str) -> None:
    one = party(make_study(database, 2))
    _, trial = one.begin()
    one.writer.fence.lease = None
    before = everything(database)
    with pytest.raises(LeaseLostError):
        WRITES[kind](one, trial.id)
    assert everything(database) == before


@pytest.mark.parametrize("kind", WRITES)
def test_the_holder_may_write(database: Database, party: Opener, kind: str) -> None:
    one = party(make_study(database, 2))
    claim, trial = one.begin()
    before = everything(database), ticket_row(database, claim.lease)
    WRITES[kind](one, trial.id)
    assert (everything(database), ticket_row(database, claim.lease)) != before


def test_a_thread_left_over_from_the_last_trial_cannot_write_to_it(database: Database, party: Opener) -> None:
    one = party(make_study(database, 2))
    _, old = one.begin()
    one.complete()
    one.begin()
    with pytest.raises(LeaseLostError, match="not the one"):
        one.writer.storage.set_trial_user_attr(old.id, "k", 1)


def test_a_stale_start_makes_no_trial(database: Database, party: Opener) -> None:
    study = make_study(database, 1)
    one, other = party(study), party(study)
    claim = one.claim()
    let_expire(database)
    other.begin()
    with pytest.raises(LeaseLostError):
        one.start(claim)
    assert len(other.writer.storage.get_all_trials(study.optuna_study_id)) == 1


def test_a_renewed_lease_does_not_expire(database: Database, party: Opener) -> None:
    one = party(make_study(database, 1))
    claim = one.claim()
    for _ in range(3):
        database.clock.offset += LEASE - 1
        held = database.write(lambda c: leases.renew(c, database.clock, one.id, LEASE))
        assert [item.lease for item in held] == [claim.lease]
        assert database.write(lambda c: leases.reap_expired(c, database.clock, leases.Sight())) == 0


def test_an_expired_lease_that_nobody_reaped_may_still_write(database: Database, party: Opener) -> None:
    """Nobody else works on the ticket yet, so the work need not be thrown away."""
    one = party(make_study(database, 1))
    one.begin()
    database.clock.offset += LEASE + 1
    one.complete()


def test_reaping_twice_counts_once(database: Database, party: Opener) -> None:
    one = party(make_study(database, 1))
    claim = one.claim()
    assert [let_expire(database), let_expire(database)] == [1, 0]
    assert attempts_of(database, claim.lease) == ["lost"]


def test_the_audit_counts_refused_writes(database: Database, party: Opener) -> None:
    stale, _ = stale_and_new(database, party)
    stale.writer.note_rejected()
    assert stale.writer.fence.lease is not None
    assert ticket_row(database, stale.writer.fence.lease).rejected == 1


def test_a_step_reported_again_is_overwritten(database: Database, party: Opener) -> None:
    one = party(make_study(database, 1))
    _, trial = one.begin()
    one.writer.report(1, 0.1, {"loss": 1.0})
    one.writer.report(1, 0.2, {"loss": float("nan")})
    assert one.writer.storage.get_trial(trial.id).intermediate_values == {1: 0.2}


def test_what_a_trial_writes_again_and_again_is_compiled_once(database: Database, party: Opener) -> None:
    """Compiling cost ten times as much as writing."""
    one = party(make_study(database, 3))
    compiled: list[str] = []

    @sa.event.listens_for(one.database.engine, "before_cursor_execute")
    def look(_c: Any, _cursor: Any, statement: str, _p: Any, context: Any, _many: Any) -> None:
        if context.compiled is not None and context.cache_hit is not CacheStats.CACHE_HIT:
            compiled.append(statement)

    for trial in range(2):
        compiled.clear()
        one.begin()
        for step in range(1, 4):
            one.writer.report(step, 0.5, {f"loss {i}": 1.0 for i in range(step)})
        one.complete()
        assert not compiled or trial == 0, compiled


def test_a_take_over_drops_what_came_after_the_checkpoint(database: Database, party: Opener) -> None:
    """Or a stale step 10 would hide a terrible epoch 1; the pruner's rungs go too."""
    study = make_study(database, 1)
    one, other = party(study), party(study)
    claim, trial = one.begin()
    for step in range(1, 6):
        one.writer.report(step, step / 10, {"loss": 1.0})
    one.writer.storage.set_trial_system_attr(trial.id, "completed_rung_0", 0.4)
    one.writer.storage.set_trial_system_attr(trial.id, "kept", 1)
    lose(database, claim.lease)
    again = other.claim()
    other.writer.fence.lease = again.lease
    other.writer.take_over(study.optuna_study_id, again, 2)
    frozen = other.writer.storage.get_trial(trial.id)
    assert frozen.intermediate_values == {1: 0.1, 2: 0.2}
    assert frozen.system_attrs == {"kept": 1}
    steps = database.read(lambda c: sorted(c.scalars(sa.select(metric.c.step))))
    assert steps == [1, 2]


def test_a_worker_known_to_be_dead_loses_its_leases_at_once(database: Database, party: Opener) -> None:
    study = make_study(database, 3)
    one = party(study)
    first, second = one.claim(0), one.claim(1)
    assert database.write(lambda c: workers.bury(c, database.clock, one.id)) == 2
    assert [ticket_row(database, claim.lease).state for claim in (first, second)] == ["queued", "queued"]


def test_clocks_of_workers_do_not_matter(database: Database, party: Opener, monkeypatch: Any) -> None:
    """A worker whose own clock is two hours wrong neither expires others nor itself."""
    import time

    study = make_study(database, 2)
    one, other = party(study), party(study)
    claim = one.claim()
    for wrong in (7200, -7200):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: 1e9 + wrong)
        database.write(lambda c: leases.renew(c, database.clock, one.id, LEASE))
        assert other.database.write(lambda c: leases.reap_expired(c, database.clock, leases.Sight())) == 0
    until = ticket_row(database, claim.lease).lease_until
    now = database.read(lambda c: c.scalar(sa.select(database.clock.now())))
    assert until == pytest.approx(now + LEASE, abs=5)
