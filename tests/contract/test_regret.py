"""A sample of the pruned trials is run to its end, on from kept checkpoints; and so is a copy of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest

from hpo.errors import UserError
from hpo.search.draws import in_sample, training_seed
from hpo.studies import confirming, reading, regret, steering
from hpo.studies.why import why
from storage.database.engine import Database
from storage.database.records import StudyRow, StudyState
from storage.queue import repeats
from tests.contract.test_repeats import audit_holds, everything, run_all

pytestmark = pytest.mark.parametrize("url", ["sqlite"], indirect=True, scope="module")
EPOCHS = 3


class Trained:
    """An objective of three epochs whose last value is the opposite of the first; it notes what it trains."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []  # trial, seed, epoch

    def __call__(self, trial: Any) -> float:
        x = float(trial.params["x"])
        trial.set_user_attr("begun", 1)
        for epoch in range((trial.checkpoint.load() or {"epoch": 0})["epoch"] + 1, EPOCHS + 1):
            self.seen.append((trial.number, trial.seed, epoch))
            trial.checkpoint.save({"epoch": epoch}, epoch)
            trial.report(x, epoch)
            trial.log(epochs_seen=epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return 1.0 - x


@pytest.fixture
def trained(doing: Any) -> Trained:
    act = Trained()
    doing(act)
    return act


@pytest.fixture
def ended(
    make_study: Callable[..., StudyRow], open_runner: Any, trained: Trained, database: Database
) -> StudyRow:
    """Twelve trials, of which those below a half are pruned after their first epoch."""
    study = make_study(
        budget={"trials": 12}, pruner={"name": "threshold", "lower": 0.5}, keep="best 1, pruned 50%"
    )
    assert run_all(open_runner(study)) == 12
    return reading.get_study(database, "study")


def by_state(database: Database, state: str) -> list[Any]:
    return [t for t in reading.history(database, "study").trials if t.state == state]


def test_a_sample_of_the_pruned_goes_on_from_what_was_kept_and_is_compared(
    database: Database, ended: StudyRow, open_runner: Any, trained: Trained
) -> None:
    pruned, complete = by_state(database, "pruned"), by_state(database, "complete")
    assert len(pruned) > 4
    order = sorted(pruned, key=lambda trial: in_sample(ended.seed, trial.ticket))
    before, trained.seen = everything(database), []
    its = regret.ask(database, ended, len(pruned) - 1)
    assert run_all(open_runner(its)) == len(pruned) - 1
    after = everything(database)
    after[2][0] = before[2][0]  # its row is what it was, but for an event that tells of it
    assert after == before
    numbers = {one.ticket_id: one for one in database.read(lambda c: repeats.listed(c, its.id))}
    assert [one.trial_number for one in numbers.values()] == [one.number for one in order[:-1]]
    kept = {one.number for one in order if in_sample(ended.seed, one.ticket) < 0.5}
    assert 0 < len(kept) < len(pruned)
    for one in order[:-1]:
        begins = 2 if one.number in kept else 1
        seed = training_seed(ended.seed, one.ticket)
        epochs = [e for n, s, e in trained.seen if s == seed]
        assert epochs == [*range(begins, EPOCHS + 1)], one.number
    found = regret.of(database, ended, top=1)
    assert found.done
    assert (found.pruned, len(found.trials), found.missed) == (len(pruned), len(pruned) - 1, len(pruned) - 1)
    assert found.low == (len(pruned) - 1) / len(pruned)
    assert found.high == 1.0
    assert found.saved_epochs == (EPOCHS - 1) * len(pruned)
    assert found.best == max(t.value for t in complete)
    told = "pruned trials that were run to their end would have been among the best; of all"
    assert regret.sentence(found).startswith(f"{found.missed} of {found.missed} {told} {found.pruned}")
    assert regret.ask(database, ended, 2).state is StudyState.FINISHED  # all that is there already
    assert audit_holds(database, ended)


def test_a_pruned_trial_goes_on_as_a_copy_to_its_end(
    database: Database, ended: StudyRow, open_runner: Any, trained: Trained
) -> None:
    old = min(by_state(database, "pruned"), key=lambda trial: in_sample(ended.seed, trial.ticket))
    trained.seen = []
    with pytest.raises(UserError, match="was not pruned"):
        regret.unprune(database, ended, by_state(database, "complete")[0].number)
    number = regret.unprune(database, ended, old.number)
    with pytest.raises(UserError, match="has a copy already"):
        regret.unprune(database, ended, old.number)
    waits = reading.history(database, "study").trials[number]
    assert (waits.state, waits.foreign, waits.reports) == ("waiting", False, old.reports)
    assert run_all(open_runner(reading.get_study(database, "study"))) == 1
    assert trained.seen == [(number, training_seed(ended.seed, old.ticket), epoch) for epoch in (2, 3)]
    done = reading.history(database, "study").trials[number]
    assert (done.state, done.params, done.user_attrs) == ("complete", old.params, {"begun": 1})
    assert sorted(done.reports) == sorted(done.metrics["epochs_seen"]) == [1, 2, 3]
    assert f"a copy of trial {old.number}" in database.read(lambda c: why(c, ended, done))
    row = reading.get_study(database, "study")
    assert (row.state, row.budget_trials) == (StudyState.FINISHED, 13)
    assert len(by_state(database, "pruned")) + len(by_state(database, "complete")) == 13
    assert audit_holds(database, row)


def test_what_is_trained_again_can_be_cancelled_and_asked_for_again(
    database: Database, ended: StudyRow, open_runner: Any
) -> None:
    its = confirming.ask(database, ended, top=2, seeds=3)
    runner = open_runner(its)
    runner.order()
    assert runner.task() is not None
    assert steering.cancel(database, ended) == 1
    assert confirming.open_(database, ended) is None
    again = confirming.ask(database, ended, top=2, seeds=3)
    assert run_all(open_runner(again)) >= 6
    found = reading.history(database, "study").confirmation
    assert found is not None
    assert found.done
    assert "dropped" not in {one.state for one in found.settings}
