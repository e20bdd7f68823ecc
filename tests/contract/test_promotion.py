"""Trials are parked at rungs, and the best of those that came there go on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from hpo.search.diverged import for_sampler
from hpo.spec import StudySpec
from hpo.studies import creation
from hpo.studies.answers import seconds_left
from hpo.worker.events import Ended
from hpo.worker.study import ServedStudy
from storage.database.engine import Database
from storage.database.records import Claim, Need, NothingToClaim, StudyState, TicketState
from storage.database.tables import ticket
from storage.history.audit import audit
from storage.history.lists import progress
from storage.history.trials import read_trials
from storage.queue import attempts, studies, tickets
from storage.queue.attempts import Delivery
from storage.queue.tickets import Parked
from tests.contract.test_rungs import stored
from tests.support.shared import (
    LEASE,
    Opener,
    Party,
    attempts_of,
    let_expire,
    lose,
    state_of,
    steer,
    ticket_row,
    ticket_states,
)
from tests.support.shared import make_study as plain_study
from tests.support.waiting import wait_until

PROMOTE = {"name": "asha", "min_epochs": 1, "max_epochs": 9, "reduction_factor": 3, "mode": "promote"}


def first_of(connection: Any) -> Any:
    """A rule that promotes whatever is parked, to be parked at epoch 3."""
    trials = connection.scalars(sa.select(ticket.c.trial_id).where(ticket.c.trial_id.isnot(None))).all()

    def choose(parked: Parked, _room: float) -> tuple[int, int, int] | None:
        found = parked(trials)
        return (min(found), 3, 2) if found else None

    return choose


def nobody(_connection: Any) -> Any:
    """A rule that promotes nothing."""
    return lambda _parked, _room: None


def park(one: Party, value: float = 0.5, step: int = 1, **how: Any) -> Claim:
    """Claim, begin or go on, report and stop at a rung."""
    claim = one.try_claim(**how)
    assert isinstance(claim, Claim), claim
    one.start(claim)
    one.writer.report(step, value, {})
    one.writer.deliver(TicketState.PARKED, (value,))
    return claim


def holds(database: Database, study: Any) -> None:
    row = database.read(lambda c: studies.get(c, study.name))
    found = database.read(lambda c: audit(c, row))
    assert found.holds, [check for check in found.checks if not check.holds]


def shown(database: Database, study: Any) -> list[tuple[str, float | None]]:
    """State and value of each trial as people see them, and as Optuna has them when it has ended."""
    records = database.read(lambda c: read_trials(c, study)).values()
    return [(record.state, record.last_report) for record in records]


def test_a_parked_ticket_has_no_lease_and_its_trial_stays_open(database: Database, party: Opener) -> None:
    study = plain_study(database, 2)
    claim = park(party(study))
    row = ticket_row(database, claim.lease)
    assert (row.state, row.lease_until, row.worker_id, row.stop_at) == ("parked", None, None, None)
    assert shown(database, study) == [("parked", 0.5)]
    assert let_expire(database) == 0
    assert state_of(database, study) is StudyState.RUNNING
    holds(database, study)


def test_a_promoted_ticket_goes_on_with_its_trial(database: Database, party: Opener) -> None:
    """And knows how long it has worked, and which attempts have delivered what they found. Its epochs stay
    reserved when it is lost, whatever a new trial would reserve.
    """
    study = plain_study(database, 2)
    one = party(study)
    first = park(one, epochs=1)
    again = one.try_claim(promote=first_of, epochs=1)
    assert isinstance(again, Claim)
    assert (again.lease.ticket_id, again.lease.attempt) == (first.lease.ticket_id, 2)
    assert again.trial_id is not None
    assert (again.stop_at, again.parked, again.is_promoted) == (3, 1, True)
    assert again.worked >= 0
    assert one.try_claim(promote=first_of) == again, "an answer that was lost is found again"
    lose(database, again.lease)
    once_more = one.try_claim(promote=first_of, epochs=1)
    assert isinstance(once_more, Claim)
    assert ticket_row(database, once_more.lease).epochs == 3
    assert (once_more.stop_at, once_more.parked, once_more.is_promoted) == (3, 1, False)
    assert attempts_of(database, first.lease) == ["parked", "lost", "running"]
    holds(database, study)


def test_a_ticket_is_promoted_once(database: Database, party: Opener) -> None:
    """Whoever comes second finds it taken, and begins another trial."""
    study = plain_study(database, 2)
    one, other = party(study), party(study)
    first = park(one)
    claims = [who.try_claim(promote=first_of) for who in (one, other)]
    assert [claim.lease.ticket_id - first.lease.ticket_id for claim in claims] == [0, 1]
    holds(database, study)


def test_who_is_chosen_twice_is_taken_once(database: Database, party: Opener) -> None:
    """A rule that speaks of a ticket that is not parked any more takes nothing."""
    study = plain_study(database, 2)
    one = party(study)
    first = park(one)
    trial = ticket_row(database, first.lease).trial_id
    one.begin()

    def outdated(connection: Any) -> Any:
        connection.execute(sa.text("UPDATE hpo_ticket SET state = 'running' WHERE state = 'parked'"))
        return lambda _parked, _room: (trial, 3, 2)

    found = party(study).try_claim(promote=outdated)
    assert isinstance(found, NothingToClaim)


def test_the_study_ends_when_nothing_can_be_promoted(database: Database, party: Opener) -> None:
    """Not before: another may run whose end lets one go on. Then what is parked is pruned with its value."""
    study = plain_study(database, 3)
    one, other = party(study), party(study)
    park(one, 0.25)
    park(one, float("inf"))
    other.begin()
    assert isinstance(one.try_claim(promote=nobody), NothingToClaim)
    assert state_of(database, study) is StudyState.RUNNING
    other.complete(0.75)
    assert state_of(database, study) is StudyState.RUNNING, "nobody has looked at the parked ones"
    assert isinstance(one.try_claim(promote=nobody), NothingToClaim)
    assert state_of(database, study) is StudyState.FINISHED
    assert ticket_states(database, study) == ["pruned", "pruned", "complete"]
    ended = optuna.load_study(study_name=study.name, storage=database.rdb).trials
    assert [(trial.state.name, trial.value) for trial in ended] == [
        ("PRUNED", 0.25),
        ("PRUNED", float("inf")),
        ("COMPLETE", 0.75),
    ]
    holds(database, study)


@pytest.mark.parametrize("end", ["stop", "target", "seconds", "cancel"])
def test_every_end_closes_what_is_parked(database: Database, party: Opener, end: str) -> None:
    limits = {"target": {"budget_target": 0.7}, "seconds": {"budget_seconds": 100.0}}.get(end, {})
    study = plain_study(database, 3, **limits)
    one = party(study)
    park(one)
    if end == "stop":
        steer(database, study, StudyState.STOPPING)
    elif end == "cancel":
        cancel = partial(studies.cancel, study_id=study.id)
        assert database.write(cancel) == (0, 1)
    else:
        one.begin()
        one.work(101)
        one.complete(0.9)
        one.try_claim(promote=nobody)
    assert state_of(database, study).ended
    ended = {"cancel": "cancelled"}.get(end, "pruned")
    assert ticket_states(database, study)[0] == ended
    assert shown(database, study)[0] == ("failed" if end == "cancel" else "pruned", 0.5)
    holds(database, study)


def test_a_paused_study_promotes_nothing(database: Database, party: Opener) -> None:
    study = plain_study(database, 1)
    one = party(study)
    park(one)
    steer(database, study, StudyState.PAUSED)
    assert isinstance(one.try_claim(promote=first_of), NothingToClaim)
    assert ticket_states(database, study) == ["parked"]
    steer(database, study, StudyState.RUNNING)
    assert isinstance(one.try_claim(promote=first_of), Claim)


def test_a_ticket_that_needs_a_card_to_itself_is_promoted_there(database: Database, party: Opener) -> None:
    study = plain_study(database, 1)
    one = party(study)
    park(one)
    database.write(lambda c: c.execute(sa.text("UPDATE hpo_ticket SET alone = 1")))
    found = one.try_claim(takes=(Need.NOTHING, Need.RUNNER), promote=first_of)
    assert isinstance(found, NothingToClaim)
    assert found.alone
    assert isinstance(one.try_claim(takes=(Need.CARD,), promote=first_of), Claim)


# With runners


def climbing(trained: list[tuple[int, int]], *, keeps: bool = True) -> Any:
    """An objective whose trial n is worth -n, and that notes which epochs of which trial it has trained."""

    def objective(trial: Any) -> float:
        begun = trial.checkpoint.load() if keeps else None
        for epoch in range(1 if begun is None else begun["epoch"] + 1, 10):
            trained.append((trial.number, epoch))
            trial.report(-trial.number, epoch)
            if keeps:
                trial.checkpoint.save({"epoch": epoch}, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return -trial.number

    return objective


def run_all(*runners: Any) -> list[str]:
    """Let the runners run one trial after another in turn until nothing is left: how the attempts ended."""
    ends: list[str] = []
    before = -1
    while len(ends) > before:
        before = len(ends)
        for runner in runners:
            runner.order()
            task = runner.task()
            if task is not None:
                runner.session.run(task)
                wait_until(lambda runner=runner: runner.said(Ended), what="the attempt's end")
                ends.append(runner.said(Ended)[-1].state)
    return ends


@pytest.mark.parametrize("keeps", [True, False])
def test_the_best_third_goes_on_where_it_was(
    database: Database, make_study: Any, open_runner: Any, doing: Any, caplog: Any, keeps: bool
) -> None:
    """Nine trials: with checkpoints each epoch is trained once; without, the worker says so once."""
    study = make_study(pruner=PROMOTE, budget={"trials": 9})
    trained: list[tuple[int, int]] = []
    doing(climbing(trained, keeps=keeps))
    ends = run_all(open_runner(study), open_runner(study))
    assert sorted(ends) == ["complete"] + ["parked"] * 12
    expected = [(n, e) for n in range(9) for e in range(1, 10) if e <= (9 if n == 0 else 3 if n < 3 else 1)]
    if keeps:
        assert sorted(trained) == expected
    else:
        assert sorted(set(trained)) == expected
        assert len(trained) == len(expected) + 1 + 1 + 1 + 3
    assert caplog.text.count("has left no checkpoint") == (0 if keeps else 2), "once for each worker"
    assert state_of(database, study) is StudyState.FINISHED
    assert ticket_states(database, study) == ["complete"] + ["pruned"] * 8
    assert [(trial, rung) for trial, rung, _, _ in stored(database, study)] == [
        (trial, rung) for trial in range(9) for rung in range(2) if rung == 0 or trial < 3
    ]
    holds(database, study)


def test_after_the_warm_ones_trials_are_parked_at_the_second_rung_first(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    sampler = {"name": "rungs", "warm": 3}
    study = make_study(sampler=sampler, pruner=PROMOTE, budget={"trials": 12})
    trained: list[tuple[int, int]] = []
    doing(climbing(trained))
    one, other = open_runner(study), open_runner(study)
    assert sorted(run_all(one, other)) == ["complete"] * 4 + ["parked"] * 15
    assert [max(e for n, e in trained if n == trial) for trial in range(12)] == [9] * 4 + [3] * 8
    assert len(trained) == len(set(trained)), "nothing is trained twice"
    holds(database, study)


def test_the_sampler_sees_what_is_parked_elsewhere(
    database: Database, make_study: Any, open_runner: Any, doing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[tuple[int, ...]]] = []

    def watched(study: optuna.Study, spec: StudySpec) -> optuna.Study:
        trials = study.get_trials(deepcopy=False)
        seen.append([tuple(trial.intermediate_values) for trial in trials if not trial.state.is_finished()])
        return for_sampler(study, spec)

    monkeypatch.setattr("hpo.search.samplers.for_sampler", watched)
    study = make_study(sampler={"name": "rungs", "warm": 0}, pruner=PROMOTE, budget={"trials": 5})
    doing(climbing([]))
    run_all(open_runner(study), open_runner(study))
    assert [(1, 3), (1, 3)] in seen, "of two workers each had parked one"


def test_a_trial_that_was_lost_at_its_rung_is_parked_there(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    """It has its checkpoint and no verdict: whoever takes it over trains nothing more."""
    study = make_study(pruner=PROMOTE, budget={"trials": 1})
    trained: list[int] = []

    def objective(trial: Any) -> float:
        trained.append(1)
        trial.report(0.5, 1)
        trial.checkpoint.save({"epoch": 1}, 1)
        lose(database, runner.desk.held.lease)
        trial.should_prune()
        raise AssertionError("it has no lease")

    runner, other = open_runner(study), open_runner(study)
    doing(objective)
    assert runner.run_one().state == "lost"
    assert other.run_one().state == "parked"
    assert trained == [1]
    assert shown(database, study) == [("parked", 0.5)]
    assert stored(database, study) == [(0, 0, 1, 0.5)]


def test_samplers_see_a_parked_trial_as_one_that_was_pruned_there(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    """Not as running, from whose point they would keep away; and as running again once it was promoted."""
    study = make_study(pruner=PROMOTE, sampler="tpe", budget={"trials": 3})
    runner = open_runner(study)
    served = ServedStudy(database, study, StudySpec.model_validate(study.spec))

    def seen() -> list[tuple[str, dict[int, float]]]:
        served.refresh()
        return [(trial.state.name, trial.intermediate_values) for trial in served.trials()]

    doing(climbing([]))
    for _ in range(3):
        runner.run_one()
    assert seen() == [("PRUNED", {1: -float(n)}) for n in range(3)]
    runner.claim()
    assert seen()[0] == ("RUNNING", {})
    assert seen()[1] == ("PRUNED", {1: -1.0})


def test_a_budget_of_epochs_is_reserved_in_the_claim_and_exact(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    """Promotions that do not fit make room for new trials, and what was lost keeps its part."""
    study = make_study(pruner=PROMOTE, budget={"epochs": 27})
    trained: list[tuple[int, int]] = []
    doing(climbing(trained))
    one, other = open_runner(study), open_runner(study)
    lost = one.claim()
    lose(database, lost.lease)
    assert (now := database.read(lambda c: progress(c, study.name))).spent == (1, 27), (
        "it keeps the first rung's"
    )
    assert seconds_left(now) is None, "nothing has come to a rung"
    one.desk.held = None
    run_all(other, open_runner(study))
    row = database.read(lambda c: studies.get(c, study.name))
    assert (row.state, row.ended_why) == (StudyState.FINISHED, "budget of epochs spent")
    assert database.read(lambda c: progress(c, study.name)).spent == (27, 27)
    assert len(trained) == len(set(trained)) == 27
    assert max(epoch for _, epoch in trained) == 9
    holds(database, study)
    creation.extend(database, row, epochs=29)
    now = replace(database.read(lambda c: progress(c, study.name)), seconds=54.0)
    assert now.row.state is StudyState.RUNNING
    assert seconds_left(now) == pytest.approx(4.0), "two epochs, at the pace so far"
    run_all(open_runner(study))
    assert len(set(trained)) == 29


def test_a_parked_trial_costs_patience_once(database: Database, party: Opener) -> None:
    """When it is parked first; later a better result alone changes what is left."""
    study = plain_study(database, None, budget_patience=4)
    one = party(study)
    for _ in range(3):
        park(one)
    park(one, step=3, promote=first_of)
    claim = one.try_claim(promote=first_of)
    assert isinstance(claim, Claim)
    one.start(claim)
    one.complete(0.5)
    for _ in range(3):
        assert state_of(database, study) is StudyState.RUNNING
        park(one)
    park(one, step=3, promote=first_of)
    assert state_of(database, study) is StudyState.RUNNING
    park(one)
    assert state_of(database, study) is StudyState.FINISHED


def test_epochs_that_a_pruned_trial_did_not_need_are_returned(
    database: Database, make_study: Any, open_runner: Any, doing: Any
) -> None:
    """With mode stop a trial reserves all its epochs, and the study ends when no further one fits."""
    halving = {name: value for name, value in PROMOTE.items() if name != "mode"}
    study = make_study(pruner=halving, budget={"epochs": 20, "trials": 50})
    trained: list[tuple[int, int]] = []
    doing(climbing(trained))
    ends = run_all(open_runner(study))
    assert ends == ["complete", "pruned", "pruned", "pruned"]
    assert len(trained) == 9 + 3
    assert state_of(database, study) is StudyState.FINISHED


def test_places_of_one_runner_claim_together_and_each_has_its_own(database: Database, party: Opener) -> None:
    """What is promoted comes first, a slot that has a ticket keeps it, and what is left is told why."""
    study = plain_study(database, 6)
    one = party(study)
    first, _second = park(one), park(one)
    database.write(lambda c: c.execute(ticket.update().where(ticket.c.number == 4).values(priority=1)))

    def claim(slots: list[int]) -> Any:
        asks = study.id, one.id, 0, "cpu", LEASE, None, slots
        return database.write(lambda connection: tickets.claim(connection, *asks, promote=first_of))

    slots = [0, 3, 5, 1, 4]
    found, nothing = claim(slots)
    assert nothing is None
    assert [found[slot].lease.ticket_id - first.lease.ticket_id for slot in slots] == [0, 1, 4, 2, 3]
    assert [found[slot].is_promoted for slot in slots] == [True, True, False, False, False]
    again, nothing = claim([3, 5, 1, 4, 6, 7])
    assert [again[slot].lease for slot in (3, 5, 1, 4)] == [found[slot].lease for slot in (3, 5, 1, 4)]
    assert again[6].number == 5
    assert 7 not in again
    assert nothing is not None
    assert not nothing.ended
    holds(database, study)


def test_results_of_one_transaction_are_counted_as_one_after_another_would_be(
    database: Database, party: Opener
) -> None:
    """The best of them is the best; the last ones end the study; an attempt ends once."""
    study = plain_study(database, 3)
    one = party(study)
    begun = [one.begin(runner) for runner in range(3)]
    values = (0.2, 0.9, 0.5)
    results = [
        Delivery(claim.lease, trial.id, TicketState.COMPLETE, (value,))
        for (claim, trial), value in zip(begun, values, strict=True)
    ]
    said = attempts.commit(database.write, [*results, results[1]])
    assert said == [None] * 4, "the second result of one attempt is the one that counted"
    assert [trial.value for trial in database.rdb.get_all_trials(study.optuna_study_id)] == list(values)
    assert state_of(database, study) is StudyState.FINISHED
    holds(database, study)
