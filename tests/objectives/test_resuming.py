"""The loop is repeatable, and resumes bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from objectives import classifier, regressor, starter
from objectives.checkpoints import Saver
from objectives.standalone import LocalTrial
from objectives.stopping import Progress
from tests.objectives.helpers import (
    QUICK,
    Interrupted,
    failing_after,
    prepared,
    same_tensors,
    weights,
)

RANDOM_EVERYTHING: dict[str, Any] = {
    **QUICK,
    "model": "cnn",
    "channels": 4,
    "epochs": 6,
    "dropout": 0.3,
    "batch_norm": True,
    "crop": 1,
    "flip": 0.3,
    "rotation": 10,
    "erasing": 0.2,
    "mixup": 0.3,
    "schedule": "one_cycle",
    "warmup_epochs": 1,
    "accumulate": 2,
    "clip_norm": 1.0,
    "checkpoint_every": 1,
}


def without_time(trial: LocalTrial) -> tuple[Any, ...]:
    training = trial.user_attrs["training"]
    return trial.reports, trial.logs, training["stopped"], training["epochs"], training["best_epoch"]


def test_the_same_trial_twice_gives_the_same_bits() -> None:
    first, second = LocalTrial(RANDOM_EVERYTHING, seed=5), LocalTrial(RANDOM_EVERYTHING, seed=5)
    assert classifier.objective(first) == classifier.objective(second)
    assert without_time(first) == without_time(second)
    assert same_tensors(weights(first), weights(second))


def test_another_seed_gives_another_run_on_the_same_split() -> None:
    first, second = LocalTrial(RANDOM_EVERYTHING, seed=5), LocalTrial(RANDOM_EVERYTHING, seed=6)
    classifier.objective(first)
    classifier.objective(second)
    assert not same_tensors(weights(first), weights(second))
    one, other = (prepared(**RANDOM_EVERYTHING) for _ in range(2))
    assert one.data.validation is other.data.validation


@pytest.mark.parametrize(
    "settings",
    [
        RANDOM_EVERYTHING,
        {**QUICK, "epochs": 6, "schedule": "plateau", "plateau_patience": 0, "optimizer": "momentum"},
        {**QUICK, "epochs": 6, "patience": 2, "keep": "last", "optimizer": "rmsprop"},
        {**QUICK, "epochs": 6, "storage": "loader", "loader_workers": 0, "optimizer": "adagrad"},
        {**QUICK, "epochs": 4, "model": "cnn", "channels": 8, "batch_norm": True, "optimizer": "adamw"},
    ],
    ids=["everything random", "plateau", "early stopping", "loader", "channels last"],
)
@pytest.mark.parametrize("broken_in_epoch", [2, 4])
def test_resumed_equals_unbroken_bit_for_bit(settings: dict[str, Any], broken_in_epoch: int) -> None:
    settings = settings | {"checkpoint_every": 1}
    unbroken = LocalTrial(settings, seed=9)
    value = classifier.objective(unbroken)

    batches = len(prepared(**settings).batches)
    stop = failing_after(batches * (broken_in_epoch - 1) + batches // 2, Interrupted())
    broken = LocalTrial(settings, seed=9, on_check=stop)
    with pytest.raises(Interrupted):
        classifier.objective(broken)
    assert broken.checkpoint.latest == broken_in_epoch - 1

    resumed = LocalTrial(settings, seed=9, attempt=2)
    resumed.checkpoint = broken.checkpoint
    assert classifier.objective(resumed) == value
    assert min(resumed.reports) == broken_in_epoch, "it goes on, and does not begin anew"
    assert {**broken.reports, **resumed.reports} == unbroken.reports
    assert {**broken.logs, **resumed.logs} == unbroken.logs
    assert same_tensors(weights(resumed), weights(unbroken))
    assert resumed.read_artifact("evaluation.json") == unbroken.read_artifact("evaluation.json")


def test_a_regression_resumes_bit_for_bit_too() -> None:
    settings = {"dataset": "diabetes", "epochs": 4, "dropout": 0.2, "checkpoint_every": 1}
    unbroken = LocalTrial(settings)
    value = regressor.objective(unbroken)
    broken = LocalTrial(settings, on_check=failing_after(10, Interrupted()))
    with pytest.raises(Interrupted):
        regressor.objective(broken)
    resumed = LocalTrial(settings)
    resumed.checkpoint = broken.checkpoint
    assert regressor.objective(resumed) == value


def test_a_finished_run_that_is_resumed_does_not_train_on() -> None:
    """A kill after the last epoch, before the result is stored: the next attempt only hands it in."""
    trial = LocalTrial({**QUICK, "checkpoint_every": 1})
    value = classifier.objective(trial)
    again = LocalTrial({**QUICK, "checkpoint_every": 1}, on_check=failing_after(0, AssertionError("trained")))
    again.checkpoint = trial.checkpoint
    assert classifier.objective(again) == value


def test_the_first_objective_hands_in_what_its_last_epoch_came_to() -> None:
    """What `hpo init` writes, killed between its last checkpoint and its result."""
    trial = LocalTrial({"lr": 0.003, "hidden": 16, "dropout": 0.0, "epochs": 2})
    value = starter.objective(trial)
    again = LocalTrial(trial.config)
    again.checkpoint = trial.checkpoint
    assert starter.objective(again) == value > 0.1
    assert again.reports == {}


def test_an_interruption_while_reporting_keeps_the_epoch_and_reports_it_later() -> None:
    """The epoch is done: the next attempt starts after it, and its report is not lost."""

    class Draining(LocalTrial):
        def report(self, value: float | Sequence[float], step: int) -> None:
            if step == 2:
                raise Interrupted
            super().report(value, step)

    settings = {**QUICK, "epochs": 3, "checkpoint_every": 0}
    trial = Draining(settings)
    with pytest.raises(Interrupted):
        classifier.objective(trial)
    assert trial.checkpoint.latest == 2
    resumed, unbroken = LocalTrial(settings), LocalTrial(settings)
    resumed.checkpoint = trial.checkpoint
    assert classifier.objective(resumed) == classifier.objective(unbroken)
    assert {**trial.reports, **resumed.reports} == unbroken.reports
    assert list(resumed.reports) == [2, 3]


def test_the_state_can_be_read_back_with_weights_only() -> None:
    """LocalCheckpoint loads with weights_only=True, and so does the service."""
    trial = LocalTrial({**RANDOM_EVERYTHING, "epochs": 2})
    classifier.objective(trial)
    state = trial.checkpoint.load()
    assert state is not None
    assert state["progress"]["epoch"] == 2


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (0, [])])
def test_checkpoints_come_as_often_as_asked_and_after_the_last_epoch(every: int, expected: list[int]) -> None:
    saved: list[int] = []
    trial = LocalTrial({**QUICK, "epochs": 5, "checkpoint_every": every})
    save = trial.checkpoint.save

    def counting(state: dict[str, Any], step: int) -> None:
        saved.append(step)
        save(state, step)

    trial.checkpoint.save = counting  # type: ignore[method-assign]
    classifier.objective(trial)
    assert saved == expected


def test_automatic_checkpoints_cost_at_most_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that takes 1 s is repeated after 20 s at the earliest."""
    now = 0.0
    monkeypatch.setattr("objectives.checkpoints.time.perf_counter", lambda: now)
    setup, trial = prepared(), LocalTrial()

    def slow(state: dict[str, Any], step: int) -> None:
        nonlocal now
        now += 1.0

    trial.checkpoint.save = slow  # type: ignore[method-assign]
    saver, progress = Saver(trial, "auto"), Progress(epoch=1)
    assert saver.due(progress)
    saver.save(setup, progress, {})
    now += 19.0
    assert not saver.due(progress)
    now += 1.5
    assert saver.due(progress)
