"""Leases and the fence: an attempt that lost its ticket changes nothing, whatever it writes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.storages._rdb import models
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import CacheStats

from storage.database import optuna_tables
from storage.database.clock import read_now
from storage.database.engine import Database
from storage.database.errors import LeaseLostError
from storage.database.records import AttemptState, Claim, KeptFile, TicketState
from storage.database.tables import artifact, metric
from storage.queue import attempts, leases, optuna_rows, outcomes, rungs, workers
from storage.queue.attempts import Entry, Report, Row, Write
from storage.queue.optuna_rows import Trial
from storage.queue.rungs import Rung
from tests.support.clock import shift
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

Act = Callable[[Party, int], Any]

# Everything that is written for an attempt: Optuna's rows, attributes, our own tables, and how it ends.
WRITES: dict[str, Act] = {
    "parameters": lambda p, _: p.writer.add_params({"y": 0.1}, {"y": SPACE["x"]}),
    "report": lambda p, _: p.writer.report(1, 0.1, {"loss": 2.0}),
    "metric": lambda p, _: p.writer.report(1, None, {"loss": 2.0}),
    "user attribute": lambda p, _: p.writer.set_attribute("user", "k", 1),
    "system attribute": lambda p, _: p.writer.set_attribute("system", "k", 1),
    "study's attribute": lambda p, _: p.writer.set_attribute("study user", "k", 1, p.study.optuna_study_id),
    "result": lambda p, _: p.writer.deliver(TicketState.COMPLETE, (1.0,)),
    "divergence": lambda p, _: p.writer.deliver(TicketState.DIVERGED, None, error="nan"),
    "failure": lambda p, _: p.writer.fail("boom"),
    "release": lambda p, _: p.writer.release("drained"),
    "artifact": lambda p, _: p.writer.keep_file(p.study.id, KeptFile("a.txt", "a", "0" * 64, 1)),
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
    tables = [*(sa.inspect(model).local_table for model in _WATCHED), metric, artifact]

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
    monkeypatch.setattr(leases, "refusal", lambda *_: None)
    WRITES[kind](stale, trial_id)
    assert everything(database) != before


@pytest.mark.parametrize("kind", ["failure", "release"])
def test_without_the_fence_a_stale_end_takes_the_ticket_from_its_new_holder(
    database: Database, party: Opener, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control for the writes that change only the ticket."""
    stale, trial_id = stale_and_new(database, party)
    assert stale.writer.lease is not None
    monkeypatch.setattr(leases, "refusal", lambda *_: None)
    WRITES[kind](stale, trial_id)
    assert ticket_row(database, stale.writer.lease).state != TicketState.RUNNING


@pytest.mark.parametrize("kind", WRITES)
def test_the_holder_may_write(database: Database, party: Opener, kind: str) -> None:
    one = party(make_study(database, 2))
    claim, trial = one.begin()
    before = everything(database), ticket_row(database, claim.lease)
    WRITES[kind](one, trial.id)
    assert (everything(database), ticket_row(database, claim.lease)) != before


def test_in_a_batch_the_lost_attempts_writes_are_named_and_the_others_go_through(
    database: Database, party: Opener
) -> None:
    """Whoever writes for many runners must not lose the work of all because of one."""
    study = make_study(database, 3)
    one = party(study)
    lost, kept = one.begin(0), one.begin(1)
    lose(database, lost[0].lease)
    entries: list[Report | Write] = [
        Report(claim.lease, trial.id, 1, 0.5, {"loss": 1.0}) for claim, trial in (lost, kept)
    ]
    entries += [
        Write(
            claim.lease,
            partial(optuna_rows.set_attribute, of="user", owner_id=trial.id, key="k", value_json="1"),
        )
        for claim, trial in (lost, kept)
    ]
    answers = attempts.commit(database.write, entries)
    assert [isinstance(answer, LeaseLostError) for answer in answers] == [True, False, True, False]
    found = [database.rdb.get_trial(trial.id) for _, trial in (lost, kept)]
    assert [trial.intermediate_values for trial in found] == [{}, {1: 0.5}]
    assert [trial.user_attrs for trial in found] == [{}, {"k": 1}]


def test_what_attempts_say_alike_is_one_statement_and_comes_before_what_is_said_next(
    database: Database, party: Opener
) -> None:
    """Of a lost one nothing is written, and of two for one key the later counts."""
    one = party(make_study(database, 3))
    lost, first, second = one.begin(0), one.begin(1), one.begin(2)
    lose(database, lost[0].lease)
    sent: list[str] = []
    seen: list[str | None] = []

    def key(held: tuple[Claim, Trial], value: str) -> Row:
        return Row(held[0].lease, optuna_rows.set_attributes, ("user", held[1].id, "k", value))

    def look(connection: Connection) -> None:
        its = optuna_tables.user_attributes.c
        seen.append(connection.scalar(sa.select(its.value_json).where(its.trial_id == first[1].id)))

    sa.event.listen(database.engine, "before_cursor_execute", lambda _c, _u, text, *_: sent.append(text))
    entries: list[Entry] = [key(lost, "0"), key(first, "1"), key(second, "1"), key(first, "2")]
    entries += [Write(first[0].lease, look), key(first, "3")]
    answers = attempts.commit(database.write, entries)
    assert [isinstance(answer, LeaseLostError) for answer in answers] == [True, *[False] * 5]
    assert sum("INSERT INTO trial_user_attributes" in text for text in sent) == 2
    assert seen == ["2"]
    found = [database.rdb.get_trial(trial.id).user_attrs for _, trial in (lost, first, second)]
    assert found == [{}, {"k": 3}, {"k": 1}]


def test_in_a_batch_a_value_the_database_does_not_take_harms_its_own_attempt_alone(
    database: Database, party: Opener
) -> None:
    one = party(make_study(database, 3))
    (bad, first), (good, second) = one.begin(0), one.begin(1)
    answers = attempts.commit(
        database.write,
        [
            Report(bad.lease, first.id, 10**30, 0.5, {}),
            Report(good.lease, second.id, 1, 0.5, {}),
        ],
    )
    assert isinstance(answers[0], Exception)
    assert answers[1] is None
    assert database.rdb.get_trial(second.id).intermediate_values == {1: 0.5}


def test_after_its_end_an_attempt_writes_nothing_more_even_in_the_same_batch(
    database: Database, party: Opener
) -> None:
    one = party(make_study(database, 1))
    claim, trial = one.begin()
    release = partial(outcomes.release, lease=claim.lease)
    note = partial(optuna_rows.set_attribute, of="user", owner_id=trial.id, key="k", value_json="1")
    row = Row(claim.lease, optuna_rows.set_attributes, ("user", trial.id, "k", "1"))
    ending = Write(claim.lease, release, ends=AttemptState.RELEASED)
    answers = attempts.commit(database.write, [ending, Write(claim.lease, note), row])
    assert [isinstance(answer, LeaseLostError) for answer in answers] == [False, True, True]
    assert database.rdb.get_trial(trial.id).user_attrs == {}


def test_a_stale_start_makes_no_trial(database: Database, party: Opener) -> None:
    study = make_study(database, 1)
    one, other = party(study), party(study)
    claim = one.claim()
    let_expire(database)
    other.begin()
    with pytest.raises(LeaseLostError):
        one.start(claim)
    assert len(other.database.rdb.get_all_trials(study.optuna_study_id)) == 1


def test_a_renewed_lease_does_not_expire(database: Database, party: Opener) -> None:
    one = party(make_study(database, 1))
    claim = one.claim()
    for _ in range(3):
        shift(LEASE - 1)
        held = database.write(lambda c: leases.renew(c, one.id, LEASE))
        assert held == [claim.lease]
        assert database.write(lambda c: leases.reap_expired(c, leases.Sight())) == 0


def test_an_expired_lease_that_nobody_reaped_may_still_write(database: Database, party: Opener) -> None:
    """Nobody else works on the ticket yet, so the work need not be thrown away."""
    one = party(make_study(database, 1))
    one.begin()
    shift(LEASE + 1)
    one.complete()


def test_reaping_twice_counts_once(database: Database, party: Opener) -> None:
    one = party(make_study(database, 1))
    claim = one.claim()
    assert [let_expire(database), let_expire(database)] == [1, 0]
    assert attempts_of(database, claim.lease) == ["lost"]


def test_the_audit_counts_refused_writes(database: Database, party: Opener) -> None:
    stale, _ = stale_and_new(database, party)
    stale.writer.note_rejected()
    assert stale.writer.lease is not None
    assert ticket_row(database, stale.writer.lease).rejected == 1


def test_a_step_reported_again_is_overwritten(database: Database, party: Opener) -> None:
    one = party(make_study(database, 1))
    _, trial = one.begin()
    one.writer.report(1, 0.1, {"loss": 1.0})
    one.writer.report(1, 0.2, {"loss": float("nan")})
    assert one.database.rdb.get_trial(trial.id).intermediate_values == {1: 0.2}


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
    """Or a stale step 10 would hide a terrible epoch 1; rungs go too, and who has seen them is told."""
    study = make_study(database, 1)
    one, other = party(study), party(study)
    claim, trial = one.begin()
    for step in range(1, 6):
        one.writer.report(step, step / 10, {"loss": 1.0})
    one.writer.set_attribute("system", "completed_rung_0", 0.4)  # of an older version
    one.writer.set_attribute("system", "kept", 1)
    reached = [Rung(trial.id, 0, 0, 1, 0.1), Rung(trial.id, 1, 0, 3, 0.3)]
    database.write(lambda c: rungs.write(c, study.id, reached))
    seen, before = database.read(lambda c: rungs.newer(c, study.id, 0))
    assert before == reached
    lose(database, claim.lease)
    again = other.claim()
    other.writer.lease = again.lease
    other.writer.take_over(again, 2)
    frozen = other.database.rdb.get_trial(trial.id)
    assert frozen.intermediate_values == {1: 0.1, 2: 0.2}
    assert frozen.system_attrs == {"kept": 1}
    assert Rung(trial.id, 1, 0, 3, None) in database.read(lambda c: rungs.newer(c, study.id, seen))[1]
    assert reached[0] in database.read(lambda c: rungs.newer(c, study.id, 0))[1]
    steps = database.read(lambda c: sorted(c.scalars(sa.select(metric.c.step))))
    assert steps == [1, 2]


def test_a_worker_known_to_be_dead_loses_its_leases_at_once(database: Database, party: Opener) -> None:
    study = make_study(database, 3)
    one = party(study)
    first, second = one.claim(0), one.claim(1)
    assert database.write(lambda c: workers.bury(c, one.id)) == 2
    assert [ticket_row(database, claim.lease).state for claim in (first, second)] == ["queued", "queued"]


def test_clocks_of_workers_do_not_matter(database: Database, party: Opener, monkeypatch: Any) -> None:
    """A worker whose own clock is two hours wrong neither expires others nor itself."""
    import time

    study = make_study(database, 2)
    one, other = party(study), party(study)
    claim = one.claim()
    for wrong in (7200, -7200):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: 1e9 + wrong)
        database.write(lambda c: leases.renew(c, one.id, LEASE))
        assert other.database.write(lambda c: leases.reap_expired(c, leases.Sight())) == 0
    until = ticket_row(database, claim.lease).lease_until
    now = database.read(read_now)
    assert until == pytest.approx(now + LEASE, abs=600)
