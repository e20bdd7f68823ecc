"""Trials' settings are trained again: leased, attempted and counted as tickets are, and seen by no search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from hpo.errors import NotFoundError, UserError
from hpo.studies import confirming, reading, steering
from storage.database.engine import Database
from storage.database.optuna_tables import trials
from storage.database.records import NothingToClaim, StudyRow, StudyState
from storage.database.tables import repeat, ticket
from storage.database.tables import study as study_table
from storage.history.audit import audit
from storage.history.lists import page_of_studies, progress
from storage.history.pulse import changed, take_pulse
from storage.queue import repeats, studies, tickets, waiting
from tests.support.clock import shift
from tests.support.runner import BrokeredRunner
from tests.support.shared import Opener, Party, attempts_of, let_expire, ticket_row
from tests.support.waiting import wait_until

sqlite_alone = pytest.mark.parametrize("url", ["sqlite"], indirect=True, scope="module")


@pytest.fixture
def ended(make_study: Callable[..., StudyRow], open_runner: Any, doing: Any, database: Database) -> StudyRow:
    """A study that has ended: three trials, whose value is their only parameter."""
    doing(lambda trial: trial.params["x"])
    study = make_study(budget={"trials": 3})
    runner = open_runner(study)
    for _ in range(3):
        runner.run_one()
    assert runner.party.database.read(lambda c: studies.get(c, "study")).state is StudyState.FINISHED
    return reading.get_study(database, "study")


def ask(database: Database, study: StudyRow, top: int = 2, seeds: int = 2) -> StudyRow:
    return confirming.ask(database, study, top=top, seeds=seeds)


def run_all(runner: BrokeredRunner) -> int:
    """Run what there is; returns how many."""
    for count in range(1000):
        runner.order()
        task = runner.task()
        if task is None:
            return count
        runner.session.run(task)
    raise AssertionError("it never ends")


def everything(database: Database) -> list[Any]:
    """What is Optuna's, and the study's own row and tickets."""

    def read(connection: Any) -> list[Any]:
        theirs = sa.select(ticket).join(study_table).where(study_table.c.repeats_of.is_(None))
        mine = sa.select(study_table).where(study_table.c.repeats_of.is_(None))
        return [sorted(map(repr, connection.execute(q))) for q in (sa.select(trials), theirs, mine)]

    return database.read(read)


@sqlite_alone
def test_repeats_are_trained_with_common_fresh_seeds_and_change_nothing_of_the_study(
    database: Database, ended: StudyRow, open_runner: Any, doing: Any
) -> None:
    before = everything(database)
    seen: list[tuple[int, float, int]] = []

    def again(trial: Any) -> float:
        seen.append((trial.number, trial.params["x"], trial.seed))
        trial.report(0.0, 1)
        assert not trial.should_prune()
        trial.set_user_attr("note", 1)
        trial.study.stop()
        return float(trial.params["x"]) / 2

    doing(again)
    its = ask(database, ended)
    assert run_all(open_runner(its)) == len(seen)
    now = everything(database)
    now[2][0] = before[2][0]  # its row is what it was, but for an event that tells of it
    assert now == before
    assert database.read(lambda c: studies.by_id(c, ended.id)) == ended
    history = reading.history(database, "study")
    assert history.confirmation is not None
    assert history.confirmation.done
    asked = {number for number, _, _ in seen}
    assert {history.best.number, 0} <= asked  # type: ignore[union-attr]
    by_trial = {n: [seed for number, _, seed in seen if number == n] for n in asked}
    assert len({tuple(seeds) for seeds in by_trial.values()}) == 1
    assert len(set(by_trial[0])) == 2
    assert not {seed for _, _, seed in seen} & {runner_seed(ended, n) for n in range(3)}
    won = history.confirmation.of(history.best.number)  # type: ignore[union-attr]
    assert won is not None
    assert won.estimate is not None
    assert won.shrinkage == pytest.approx(won.estimate.mean)
    assert audit_holds(database, ended)
    gone = ticket.update().where(ticket.c.study_id == its.id, ticket.c.number == 0).values(state="queued")
    database.write(lambda c: c.execute(gone))
    assert [
        check.rule[:11] for check in database.read(lambda c: audit(c, ended)).checks if not check.holds
    ] == ["each repeat"], "a result that no repeat has is seen"


def runner_seed(study: StudyRow, number: int) -> int:
    from hpo.search.draws import training_seed

    return training_seed(study.seed, number)


def audit_holds(database: Database, study: StudyRow) -> bool:
    found = database.read(lambda c: audit(c, study))
    assert found.holds, [check for check in found.checks if not check.holds]
    return found.holds


@sqlite_alone
def test_nobody_sees_them_as_a_study(database: Database, ended: StudyRow) -> None:
    before = database.read(take_pulse)
    its = ask(database, ended)
    assert database.read(studies.names) == ["study"]
    listed = database.read(
        lambda c: page_of_studies(c, state=None, text="", sort="created", descending=False, page=1, size=9)
    )
    assert listed == (["study"], 1)
    assert changed(before, database.read(lambda c: take_pulse(c, before))) == {"study"}
    with pytest.raises(NotFoundError):
        reading.get_study(database, its.name)
    assert {one.study_name for one in optuna.get_all_study_summaries(database.rdb)} == {"study"}
    assert database.read(lambda c: progress(c, "study")).counts.total == 3


def test_two_workers_share_them_and_each_is_counted_once(
    database: Database, ended: StudyRow, open_runner: Any, doing: Any
) -> None:
    seen: list[tuple[int, int]] = []

    def again(trial: Any) -> float:
        seen.append((trial.number, trial.seed))
        return 1.0

    doing(again)
    its = ask(database, ended, top=3, seeds=3)
    one, two = open_runner(its), open_runner(its)
    while (task := (one.order(), one.task())[1]) is not None:
        two.order()
        other = two.task()
        one.session.run(task)
        if other is not None:
            two.session.run(other)
    assert len(seen) == len(set(seen)) == 9
    found = reading.history(database, "study").confirmation
    assert found is not None
    assert (found.trainings, len(found.tied)) == (9, 2)


def test_one_whose_worker_died_goes_on_from_its_checkpoint_and_a_zombie_changes_nothing(
    database: Database, ended: StudyRow, open_runner: Any, doing: Any
) -> None:
    from_steps: list[int | None] = []

    def again(trial: Any) -> float:
        from_steps.append(trial.checkpoint.latest)
        if len(from_steps) == 1:
            trial.checkpoint.save({"epoch": 7}, 7)
            assert let_expire(database) == 1  # it is taken for dead, and goes on all the same
        return 0.25 if len(from_steps) == 1 else 0.75

    doing(again)
    its = ask(database, ended, top=1, seeds=2)
    zombie = open_runner(its)
    assert zombie.run_one().state == "lost"
    lease = zombie.desk.held.claim.lease  # type: ignore[union-attr]
    assert ticket_row(database, lease).rejected == 1
    shift(100)
    ran = run_all(open_runner(its))
    assert from_steps.count(7) == 1
    assert attempts_of(database, lease) == ["lost", "complete"]
    results = {one.result for one in database.read(lambda c: repeats.listed(c, its.id))}
    assert results == {(0.75,)}
    assert len(from_steps) == ran + 1


@sqlite_alone
def test_what_can_no_longer_win_is_not_trained_further(
    database: Database, ended: StudyRow, open_runner: Any, doing: Any
) -> None:
    """Values scatter by far less than the settings differ."""
    doing(lambda trial: trial.params["x"] + trial.seed % 1000 * 1e-7)
    its = ask(database, ended, top=3, seeds=8)
    ran = run_all(open_runner(its))
    found = reading.history(database, "study").confirmation
    assert found is not None
    assert ran == found.trainings == 8 + 4 + 4
    best = reading.history(database, "study").best
    assert best is not None
    assert found.winner == best.number
    assert sorted(one.state for one in found.settings) == ["best", "dropped", "dropped"]
    assert state(database, its) is StudyState.FINISHED
    # asked for more, the winner alone is trained further
    more = ask(database, ended, top=3, seeds=10)
    assert run_all(open_runner(more)) == 2
    assert ask(database, ended, top=3, seeds=10).state is StudyState.FINISHED


@sqlite_alone
def test_a_confirmation_that_is_stopped_goes_on_when_it_is_asked_for_again(
    database: Database, ended: StudyRow, open_runner: Any, doing: Any
) -> None:
    doing(lambda trial: trial.params["x"])
    its = ask(database, ended, top=1, seeds=2)
    open_runner(its).run_one()
    assert steering.stop(database, ended) is StudyState.STOPPED
    assert confirming.open_(database, ended) is None
    assert run_all(open_runner(its)) == 0
    with pytest.raises(UserError, match="nothing to stop"):
        steering.stop(database, ended)
    again = ask(database, ended, top=1, seeds=2)
    assert run_all(open_runner(again)) >= 1
    found = reading.history(database, "study")
    assert found.is_confirmed
    assert audit_holds(database, ended)


@sqlite_alone
def test_whoever_ends_a_search_asks_for_what_its_study_file_confirms(
    database: Database, make_study: Callable[..., StudyRow], open_runner: Any, doing: Any
) -> None:
    """A worker of every study, too, which nobody tells that this one has ended."""
    doing(lambda trial: trial.params["x"])
    study = make_study(budget={"trials": 2}, confirm={"top": 1, "seeds": 2})
    assert run_all(open_runner(study)) == 2
    wait_until(lambda: confirming.open_(database, study) is not None, what="its repeats are queued")
    its = confirming.open_(database, study)
    assert its is not None
    assert 2 <= run_all(open_runner(its)) <= 4
    assert confirming.go_on(database, "study") is None


@sqlite_alone
def test_a_search_and_its_confirmation_in_the_budget_train_no_more_epochs_than_the_budget_has(
    database: Database, make_study: Callable[..., StudyRow], open_runner: Any, doing: Any
) -> None:
    """Nor is the first setting trained again for it."""
    epochs: list[int] = []

    def objective(trial: Any) -> float:
        for epoch in (1, 2, 3):
            epochs.append(epoch)
            trial.report(trial.params["x"], epoch)
        return trial.params["x"]

    doing(objective)
    confirm = {"top": 2, "seeds": 2, "in_budget": True}
    study = make_study(budget={"epochs": 21}, fixed={"epochs": 3}, confirm=confirm)
    assert run_all(open_runner(study)) == 3
    its = confirming.go_on(database, "study")
    assert its is not None
    run_all(open_runner(its))
    assert len(epochs) == 21
    best = confirming.candidates(reading.history(database, "study"), 2, first=False)
    again = {one.trial_number for one in database.read(repeats.listed, its.id)}
    assert again == {trial.number for trial in best}


def state(database: Database, its: StudyRow) -> StudyState:
    return database.read(lambda c: studies.by_id(c, its.id)).state


@sqlite_alone
def test_a_setting_that_diverges_or_fails_with_some_seed_does_not_win(
    database: Database, ended: StudyRow, open_runner: Any, doing: Any
) -> None:
    best = reading.history(database, "study").best
    assert best is not None

    def again(trial: Any) -> float:
        return float("nan") if trial.number == best.number else float(trial.params["x"])

    doing(again)
    its = ask(database, ended, top=3, seeds=2)
    run_all(open_runner(its))
    found = reading.history(database, "study").confirmation
    assert found is not None
    assert found.winner not in (None, best.number)
    lost = found.of(best.number)
    assert lost is not None
    assert (lost.state, lost.estimate) == ("ended early", None)
    chosen = reading.history(database, "study").chosen
    assert chosen is not None
    assert chosen.number == found.winner


@sqlite_alone
def test_workers_of_every_study_find_them(database: Database, ended: StudyRow, party: Opener) -> None:
    its = ask(database, ended)
    one: Party = party(ended, "every", every=True)
    found = database.write(lambda c: waiting.open_studies(c, one.id))
    assert [(each.uid, each.waiting) for each in found] == [
        (its.uid, database.read(lambda c: tickets.counts(c, its.id)).waiting)
    ]
    assert isinstance(one.try_claim(), NothingToClaim)


def test_they_go_with_their_study_and_keep_to_it_under_another_name(
    database: Database, ended: StudyRow, open_runner: Any, doing: Any
) -> None:
    doing(lambda trial: trial.checkpoint.save({"epoch": 1}, 1) or 1.0)
    run_all(open_runner(ask(database, ended)))
    files = Path(ended.artifacts.removeprefix("file://"))
    assert len([*files.iterdir()]) == 2
    database.write(lambda c: studies.set_aside(c, ended.id))
    renamed = reading.get_study(database, "study-1")
    assert database.read(lambda c: repeats.find(c, ended.id)).name == "study-1~confirm"  # type: ignore[union-attr]
    steering.delete(database, renamed)
    assert [*files.iterdir()] == []
    for table in (study_table, ticket, repeat):
        assert database.read(lambda c, t=table: c.execute(sa.select(t)).all()) == []


@sqlite_alone
def test_a_search_that_goes_on_or_found_nothing_has_nothing_to_confirm(
    database: Database, make_study: Callable[..., StudyRow]
) -> None:
    study = make_study()
    with pytest.raises(UserError, match="when the search has ended"):
        ask(database, study)
    database.write(lambda c: studies.set_state(c, study.id, StudyState.STOPPING))
    with pytest.raises(UserError, match="nothing to confirm"):
        ask(database, reading.get_study(database, "study"))
