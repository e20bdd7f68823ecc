"""Folds and seeds: several trainings of one setting are one trial."""

from __future__ import annotations

import json
import statistics
from typing import Any

import optuna
import pytest
import torch

from objectives import classifier, seeds
from objectives.config import TrainingConfig, check_study
from objectives.datasets.load import prepare
from objectives.errors import ConfigError, DivergedError
from objectives.setup import assemble
from objectives.standalone import LocalTrial
from objectives.train import train
from tests.objectives.helpers import QUICK, Interrupted, classify, failing_after, regress, weights

TOLERANCE = 1e-5


def test_folds_are_disjoint_stratified_and_complete() -> None:
    """Each sample that is not test data validates once; a class differs by one sample at most."""
    config = TrainingConfig.read({"dataset": "digits", "folds": 5, "preparation": "none"})
    parts = [prepare(config, "classification", torch.device("cpu"), fold) for fold in range(5)]
    whole = prepare(TrainingConfig.read({"dataset": "digits"}), "classification", torch.device("cpu"))
    total = len(whole.train) + len(whole.validation)
    assert sum(len(part.validation) for part in parts) == total
    assert max(len(part.validation) for part in parts) - min(len(part.validation) for part in parts) <= 1
    counts = torch.stack([torch.bincount(part.validation.targets, minlength=10) for part in parts])
    assert int((counts.amax(0) - counts.amin(0)).max()) <= 1
    rows = torch.cat([part.validation.stored for part in parts])  # type: ignore[union-attr]
    every = torch.cat([rows, parts[0].test.stored]).flatten(1)  # type: ignore[union-attr]
    assert len(torch.unique(every, dim=0)) == len(every)
    assert all(len(part.train) + len(part.validation) == total for part in parts)
    assert torch.equal(parts[0].test.targets, whole.test.targets)


@pytest.mark.parametrize("together", [True, False], ids=["in lanes", "in turn"])
def test_the_mean_of_seeds_is_that_of_the_trainings_alone(together: bool) -> None:
    own: dict[str, Any] = {"seeds": 3, "dropout": 0.2} | ({} if together else {"storage": "loader"})
    own |= {} if together else {"loader_workers": 0}
    value, trial = classify(**own)
    alone = []
    for seed in (0, seeds.derive(0, "member", 1), seeds.derive(0, "member", 2)):
        other = LocalTrial({**QUICK, **own, "seeds": 1}, seed=seed)
        classifier.objective(other)
        alone.append(other)
    for epoch in (1, 2, 3):
        accuracies = [other.reports[epoch] for other in alone]
        assert trial.reports[epoch] == pytest.approx(statistics.fmean(accuracies))
        assert trial.logs[epoch]["validation_accuracy_std"] == pytest.approx(statistics.pstdev(accuracies))
        losses = [other.logs[epoch]["train_loss"] for other in alone]
        assert trial.logs[epoch]["train_loss"] == pytest.approx(statistics.fmean(losses), abs=TOLERANCE)
    assert value == pytest.approx(statistics.fmean(max(other.reports.values()) for other in alone))
    record = trial.user_attrs["training"]
    best = [other.logs[other.user_attrs["training"]["counted_epoch"]] for other in alone]
    for name in ("validation_loss", "train_loss"):
        kept = [logged[name] for logged in best]
        assert record["counted"][name] == pytest.approx(statistics.fmean(kept), abs=TOLERANCE)
    assert record["counted"]["validation_loss_std"] == pytest.approx(
        statistics.pstdev(logged["validation_loss"] for logged in best), abs=TOLERANCE
    )
    assert record["counted"]["validation_accuracy"] == pytest.approx(value)
    assert record["lanes"] == (3 if together else 1)
    assert [member["seed"] for member in record["members"]] == [other.seed for other in alone]
    assert json.loads(json.dumps(record)) == record


def test_folds_are_lanes_and_each_is_the_training_alone() -> None:
    """The weights of every one are kept, and measured on the test set."""
    settings: dict[str, Any] = {**QUICK, "folds": 4, "seeds": 2, "combine": "median"}
    trial = LocalTrial(settings, seed=3)
    value = classifier.objective(trial)
    config = TrainingConfig.read({**settings, "checkpoint_every": 0})
    best = []
    for number in range(8):
        seed = (3, seeds.derive(3, "member", 1))[number % 2]
        other = LocalTrial(settings)
        progress, _ = train(other, assemble(other, config, "classification", seed, number // 2))
        best.append(progress.best_value)
    assert value == pytest.approx(statistics.median(best))
    record = trial.user_attrs["training"]
    assert [member["accuracy"] for member in record["members"]] == pytest.approx(best)
    assert record["std"]["accuracy"] == pytest.approx(statistics.pstdev(best))
    assert record["lanes"] == 8
    document = json.loads(trial.read_artifact("evaluation.json"))
    assert document["samples"] == 2 * 1438
    tested = classifier.evaluate(trial, weights(trial))
    assert tested["samples"] == 8 * 359
    assert tested["metrics"]["accuracy"] > 0.7


def test_a_regression_in_folds_is_measured_in_its_own_units() -> None:
    value, trial = regress(folds=3)
    assert 30 < value < 200
    assert json.loads(trial.read_artifact("evaluation.json"))["samples"] == 354
    assert set(trial.logs[1]) >= {"validation_rmse_std", "validation_loss_std"}


@pytest.mark.parametrize("own", [{}, {"batch_norm": True}], ids=["in lanes", "uneven folds under batch norm"])
def test_an_interrupted_set_goes_on_where_it_was(own: dict[str, Any]) -> None:
    settings = {**QUICK, "train_limit": None, "folds": 3, "epochs": 4, "checkpoint_every": 1, **own}
    whole = LocalTrial(settings)
    value = classifier.objective(whole)
    broken = LocalTrial(settings, on_check=failing_after(40, Interrupted()))
    with pytest.raises(Interrupted):
        classifier.objective(broken)
    done = broken.checkpoint.latest
    assert done in (1, 2, 3)
    resumed = LocalTrial(settings)
    resumed.checkpoint = broken.checkpoint
    assert classifier.objective(resumed) == value
    assert min(resumed.reports) == done + 1, "it goes on, and does not begin anew"
    assert {**broken.reports, **resumed.reports} == whole.reports
    assert {**broken.logs, **resumed.logs} == whole.logs


def test_an_interrupted_report_is_made_by_the_next_attempt() -> None:
    trial = LocalTrial({**QUICK, "seeds": 2})

    def refuse(value: float, step: int) -> None:
        raise Interrupted

    trial.report = refuse  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        classifier.objective(trial)
    assert trial.checkpoint.latest == 1
    del trial.report  # type: ignore[method-assign]
    classifier.objective(trial)
    assert list(trial.reports) == [1, 2, 3]


def test_a_set_is_pruned_and_diverges_as_one_trial() -> None:
    pruned = LocalTrial({**QUICK, "folds": 3}, prune=lambda step, value: step == 2)
    with pytest.raises(optuna.TrialPruned, match="after epoch 2"):
        classifier.objective(pruned)
    with pytest.raises(DivergedError):
        classify(seeds=2, lr=1e30, optimizer="sgd")


def test_members_that_end_early_count_with_their_last_epoch() -> None:
    value, trial = classify(seeds=4, epochs=12, patience=1, lr=0.03)
    record = trial.user_attrs["training"]
    ends = [member["epochs"] for member in record["members"]]
    assert len(set(ends)) > 1
    assert list(trial.reports) == list(range(1, max(ends) + 1))
    assert value == pytest.approx(statistics.fmean(member["accuracy"] for member in record["members"]))


@pytest.mark.parametrize("name", ["folds", "seeds", "combine"])
def test_how_trials_are_measured_is_not_searched(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: it says how every trial is measured"):
        check_study({"dataset": "digits"}, [name], "classification")
