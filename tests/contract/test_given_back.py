"""What is given back, by a drain, a stop or an end, stays in the queue; only `cancel` cancels."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from hpo.errors import UserError
from hpo.studies import creation, steering
from storage.database.engine import Database
from storage.database.records import NothingToClaim, StudyRow, StudyState, TicketState
from storage.files import checkpoints, retention
from storage.files.artifacts import ArtifactStore
from storage.history.audit import Audit, audit
from storage.queue import outcomes, studies, tickets
from tests.contract.test_diverged import diverge
from tests.support.shared import Opener, Party, lose, make_study, state_of, steer, ticket_row, ticket_states

End = Callable[[Database, StudyRow], Any]
GoOn = Callable[[Database, StudyRow], Any]


def audited(database: Database, study: StudyRow) -> Audit:
    row = read(database, study)
    return database.read(lambda c: audit(c, row))


def read(database: Database, study: StudyRow) -> StudyRow:
    return database.read(lambda connection: studies.get(connection, study.name))


def extend(database: Database, study: StudyRow, **more: Any) -> None:
    database.write(lambda c: studies.extend(c, study.id, [], cells=False, **more))


def resume(database: Database, study: StudyRow) -> None:
    assert steer(database, study, StudyState.RUNNING) is StudyState.RUNNING


WAYS: dict[str, tuple[Callable[[Database, StudyRow, Party], Any], GoOn, str]] = {
    "stop, then resume": (
        lambda database, study, _: steer(database, study, StudyState.STOPPING),
        resume,
        "stopped",
    ),
    "stop, then extend": (
        lambda database, study, _: steer(database, study, StudyState.STOPPING),
        lambda database, study: extend(database, study, seconds=1000.0),
        "stopped",
    ),
    "the budget of seconds, then extend": (
        lambda database, study, other: (other.work(101), other.try_claim(runner=1)),
        lambda database, study: extend(database, study, seconds=1000.0),
        "finished",
    ),
    "the target, then extend": (
        lambda database, study, other: other.complete(0.95),
        lambda database, study: extend(database, study, target=0.99),
        "finished",
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", ["drained", "lost"])
def test_what_was_given_back_before_an_end_goes_on_after_it(
    database: Database, party: Opener, way: str, how: str
) -> None:
    """With the same trial: its parameters, its number and its checkpoint."""
    end, go_on, state = WAYS[way]
    study = make_study(database, 4, budget_seconds=100.0, budget_target=0.9)
    one, other = party(study, "one"), party(study, "other")
    claim, trial = one.begin()
    other.begin()
    if how == "drained":
        one.writer.release("drained")
    else:
        lose(database, claim.lease)
    end(database, study, other)
    if state_of(database, study) is StudyState.STOPPING:
        other.complete(0.1)
    assert state_of(database, study) == state
    assert ticket_row(database, claim.lease).state == TicketState.QUEUED
    assert other.database.rdb.get_trial(trial.id).state is TrialState.RUNNING
    assert audited(database, study).holds
    ended = read(database, study).state
    shown = database.read(lambda c: tickets.counts(c, study.id)).shown_in(ended)
    assert shown.waiting == (1 if state == "finished" else 3), (
        "a finished study's untried tickets wait for nobody"
    )
    go_on(database, study)
    again = other.claim()
    assert (again.number, again.trial_id, again.lease.attempt) == (claim.number, trial.id, 2)
    other.start(again)
    other.complete(0.2)
    for _ in range(2):
        other.finish_one(0.3)
    assert ticket_states(database, study) == ["complete"] * 4
    assert (state_of(database, study), audited(database, study).holds) == ("finished", True)


def test_the_checkpoints_of_what_waits_stay_when_the_study_ends(
    database: Database, party: Opener, tmp_path: Path
) -> None:
    """The last worker clears up; a cancelled trial's checkpoints go, a waiting one's are needed."""
    study = make_study(database, 2)
    store = ArtifactStore(tmp_path.as_uri())
    one = party(study)
    _, trial = one.begin()
    folder = checkpoints.trial_key(study.uid, study.name, trial.number)
    store.put(f"{folder}/1/{checkpoints.file_name(1, b'state')}", b"state")
    one.writer.release("drained")
    steer(database, study, StudyState.STOPPING)
    retention.sweep(database, store, study, lambda: 1)
    assert len(checkpoints.stored(store, folder)) == 1
    database.write(lambda connection: studies.cancel(connection, study.id))
    retention.sweep(database, store, study, lambda: 1)
    assert checkpoints.stored(store, folder) == []


def test_a_drain_while_the_study_stops_keeps_its_ticket(database: Database, party: Opener) -> None:
    study = make_study(database, 2)
    one = party(study)
    _, trial = one.begin()
    steer(database, study, StudyState.STOPPING)
    one.writer.release("drained")
    assert state_of(database, study) is StudyState.STOPPED
    assert ticket_states(database, study) == ["queued", "queued"]
    resume(database, study)
    assert one.claim().trial_id == trial.id


@pytest.mark.parametrize("before", ["running", "stopped"])
def test_cancel_ends_what_runs_and_what_was_given_back(
    database: Database, party: Opener, before: str
) -> None:
    study = make_study(database, 3)
    one, other = party(study, "one"), party(study, "other")
    _, trial = one.begin()
    one.writer.release("drained")
    if before == "stopped":
        steer(database, study, StudyState.STOPPING)
    else:
        assert other.begin()[1].id == trial.id
    assert steering.cancel(database, read(database, study)) == (1 if before == "running" else 0)
    assert ticket_states(database, study) == ["cancelled", "queued", "queued"]
    assert one.database.rdb.get_trial(trial.id).state is TrialState.FAIL
    assert audited(database, study).holds
    assert state_of(database, study) is StudyState.STOPPED
    with pytest.raises(UserError, match="nothing to cancel"):
        steering.cancel(database, read(database, study))


def test_an_ended_study_gives_nothing_of_what_waits(database: Database, party: Opener) -> None:
    study = make_study(database, 3)
    one = party(study)
    one.begin()
    one.writer.release("drained")
    steer(database, study, StudyState.STOPPING)
    refused = one.try_claim()
    assert isinstance(refused, NothingToClaim)
    assert refused.ended


def test_a_study_whose_tickets_wait_though_it_is_finished_can_be_resumed(database: Database) -> None:
    """As a version before this one left them behind."""
    from storage.database.tables import study as table

    study = make_study(database, 2)
    stranded = {"state": "finished", "ended_why": "all trials done"}
    database.write(lambda c: c.execute(table.update().where(table.c.id == study.id).values(**stranded)))
    found = audited(database, study)
    assert (found.holds, found.missing) == (False, 2)
    assert steering.resume(database, read(database, study)) is StudyState.RUNNING
    assert audited(database, study).holds


def test_a_finished_study_says_how_it_goes_on(database: Database, party: Opener) -> None:
    study = make_study(database, 1)
    party(study).finish_one()
    with pytest.raises(UserError, match="hpo extend study --trials"):
        steering.resume(database, read(database, study))
    assert read(database, study).ended_at is not None


ENDS = {
    "target": ({"budget_target": 0.9}, "target reached", "hpo extend study --target"),
    "seconds": ({"budget_seconds": 10.0}, "budget of seconds spent", "hpo extend study --seconds"),
}
SPEC = {
    "study": "study",
    "objective": "mine.py",
    "direction": "maximize",
    "sampler": "random",
    "budget": {"trials": 9},
    "space": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("points", [5, None])
def test_a_point_for_a_study_that_its_budget_ended_is_refused(
    database: Database, party: Opener, end: str, points: int | None
) -> None:
    """Nobody would try it; the way on is said."""
    budget, why, way = ENDS[end]
    study = make_study(database, points, spec=SPEC, **budget)
    one = party(study)
    one.begin()
    one.work(11)
    one.complete(0.95)
    one.try_claim()
    before = ticket_states(database, study)
    with pytest.raises(UserError, match=f"{why}.*{way}"):
        creation.enqueue(database, read(database, study), {"x": 0.5})
    assert ticket_states(database, study) == before


@pytest.mark.parametrize("state", [StudyState.PAUSED, StudyState.STOPPING])
def test_a_point_for_a_study_that_rests_is_kept_and_what_it_waits_for_is_said(
    database: Database, state: StudyState
) -> None:
    study = make_study(database, 3, spec=SPEC)
    assert creation.enqueue(database, study, {"x": 0.5}) == (0, "")
    steer(database, study, state)
    number, when = creation.enqueue(database, read(database, study), {"x": 0.6})
    assert number == 1
    assert "hpo resume study" in when


@pytest.mark.parametrize("before", ["running", "paused", "finished", "target reached"])
def test_a_result_that_meets_an_extended_target_ends_the_study(
    database: Database, party: Opener, before: str
) -> None:
    first = 0.5 if before == "target reached" else 0.99
    study = make_study(database, 1 if before == "finished" else 3, budget_target=first, spec=SPEC)
    one = party(study)
    one.finish_one(0.7)
    if before == "paused":
        steer(database, study, StudyState.PAUSED)
    now = creation.extend(database, read(database, study), trials=2, target=0.6)
    assert (now.state, now.ended_why) == (StudyState.FINISHED, "target reached")
    assert "target reached" in creation.standing(now)
    on = creation.extend(database, now, target=0.8)
    assert (on.state, on.ended_why) == (StudyState.RUNNING, None)
    one.finish_one(0.85)
    assert state_of(database, study) is StudyState.FINISHED


@pytest.mark.parametrize("maximize", [True, False])
def test_as_many_trials_without_a_better_result_as_the_patience_end_the_study(
    database: Database, party: Opener, maximize: bool
) -> None:
    """A pruned or diverged one brings none, nor does an equal or infinite one; a failed one says nothing."""
    directions = ["maximize" if maximize else "minimize"]
    study = make_study(database, None, budget_patience=3, directions=directions, spec=SPEC)
    one, sign = party(study), 1 if maximize else -1
    one.finish_one(sign * 0.4)
    for value in (0.4, -math.inf, 0.5):
        one.finish_one(sign * value)
    one.finish_one(sign * 0.3)
    one.begin()
    one.writer.deliver(TicketState.PRUNED, None)
    one.begin()
    one.writer.fail("boom")
    assert state_of(database, study) is StudyState.RUNNING
    other = party(study)
    other.begin()
    one.begin()
    diverge(one)
    assert state_of(database, study) is StudyState.STOPPING
    assert isinstance(one.try_claim(), NothingToClaim)
    other.complete(sign * 0.9)
    row = read(database, study)
    assert (row.state, row.ended_why) == (StudyState.FINISHED, outcomes.PATIENCE_SPENT)
    assert "`hpo extend study --patience N` gives it more than 3" in creation.standing(row)
    with pytest.raises(UserError, match="must be above the study's, which is 3, got 3"):
        creation.extend(database, row, patience=3)
    assert creation.extend(database, row, patience=4).state is StudyState.RUNNING, "the last was better"


def test_a_smaller_target_counts_downwards_when_minimizing(database: Database, party: Opener) -> None:
    study = make_study(database, 3, budget_target=0.1, directions=["minimize"], spec=SPEC)
    party(study).finish_one(0.7)
    assert creation.extend(database, study, target=0.6).state is StudyState.RUNNING
    assert creation.extend(database, study, target=0.7).state is StudyState.FINISHED
