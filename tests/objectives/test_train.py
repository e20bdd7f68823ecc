"""The loop: its steps as by hand, and ended by the right reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import torch

from objectives import classifier, metrics
from objectives.augment import mix
from objectives.config import TrainingConfig
from objectives.errors import DivergedError, OutOfMemoryError
from objectives.metrics import Metric
from objectives.seeds import derive
from objectives.setup import Setup
from objectives.standalone import LocalTrial
from objectives.stopping import Progress
from objectives.train import predict, train_epoch
from tests.objectives.helpers import (
    QUICK,
    classify,
    prepared,
    regress,
)


def test_pruning_is_asked_after_each_report_and_raises() -> None:
    trial = LocalTrial({**QUICK, "epochs": 5}, prune=lambda step, value: step == 2)
    with pytest.raises(optuna.TrialPruned, match="after epoch 2"):
        classifier.objective(trial)
    assert list(trial.reports) == [1, 2]


def test_check_is_called_before_every_batch() -> None:
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    settings = {**QUICK, "epochs": 2, "batch_size": 50}
    classifier.objective(LocalTrial(settings, on_check=count))
    assert calls == 2 * 6


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_divergence_names_the_epoch(task: str) -> None:
    run: Callable[..., Any] = classify if task == "classification" else regress
    with pytest.raises(DivergedError, match=r"training diverged in epoch 1: the loss is (nan|inf)"):
        run(optimizer="sgd", lr=1e12, epochs=3)


def test_a_validation_loss_that_is_not_finite_is_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectives.train.measure", lambda *_: {"loss": math.inf, "accuracy": 0.5})
    with pytest.raises(DivergedError, match="in epoch 1: the loss is inf"):
        classify()


def test_no_epoch_is_reported_after_divergence() -> None:
    trial = LocalTrial({**QUICK, "optimizer": "sgd", "lr": 1e12})
    with pytest.raises(DivergedError):
        classifier.objective(trial)
    assert trial.reports == {}


def test_early_stopping_waits_for_patience_and_returns_the_best_weights() -> None:
    value, trial = classify(epochs=40, patience=2, min_delta=0.02, lr=0.02)
    training = trial.user_attrs["training"]
    assert training["stopped"] == "patience"
    assert training["epochs"] < 40
    assert value == max(trial.reports.values())
    assert value == trial.reports[training["best_epoch"]]
    assert training["counted_epoch"] == training["best_epoch"], "which a study's constraints look at"
    logged = [epoch for epoch, named in trial.logs.items() if "parameters" in named]
    assert (logged, trial.logs[1]["parameters"]) == ([1], training["parameters"])


@pytest.mark.parametrize(
    ("settings", "maximize", "values", "epochs", "why"),
    [
        ({"patience": 2}, True, [0.1, 0.3, 0.3, 0.2, 0.9], 4, "patience"),
        ({"patience": 2}, False, [0.3, 0.1, 0.2, 0.0, 0.1, 0.1], 6, "patience"),
        ({"patience": 2, "min_delta": 0.1}, True, [0.1, 0.15, 0.25, 0.3, 0.34, 0.9], 5, "patience"),
        ({"patience": 2, "min_delta": 0.25}, False, [1.0, 0.75, 0.5, 0.49, 0.48], 5, "patience"),
        ({"patience": 2}, True, [math.nan, math.nan, 0.5], 2, "patience"),
        ({"target": 0.5}, True, [0.4, 0.5], 2, "target"),
        ({"target": 0.5}, False, [0.6, 0.5], 2, "target"),
        ({"epochs": 3, "patience": 3}, True, [0.1, 0.1, 0.1, 0.1], 3, "epochs"),
        ({"epochs": 4, "refit_epochs": 2}, True, [0.1, 0.2], 2, "epochs"),
    ],
)
def test_a_run_stops(
    settings: dict[str, Any], maximize: bool, values: list[float], epochs: int, why: str
) -> None:
    """Patience counts epochs without an improvement by more than `min_delta` over the last that counted."""
    progress = Progress()
    config, monitor = TrainingConfig.read({**QUICK, "epochs": 9, **settings}), Metric("it", maximize, None)
    for value in values:
        progress.record(config, monitor, 1.0, 0.1, {"it": value})
        if progress.stopped is not None:
            break
    assert (progress.epoch, progress.stopped) == (epochs, why)


def test_losses_have_converged_when_those_of_so_many_epochs_differ_from_the_one_before_by_little() -> None:
    progress, config = Progress(), TrainingConfig.read({**QUICK, "converged_epochs": 2, "epochs": 9})
    for loss in (1.0, 0.5, 0.5, 0.5):
        assert progress.stopped is None
        progress.record(config, Metric("it", True, None), loss, 0.1, {"it": 0.5})
    assert progress.stopped == "converged"


def test_keep_last_returns_the_last_epoch() -> None:
    value, trial = classify(epochs=5, keep="last", lr=0.05)
    assert value == trial.reports[5]
    assert trial.user_attrs["training"]["counted_epoch"] == 5


def test_training_ends_at_the_target() -> None:
    value, trial = classify(epochs=50, target=0.8, lr=0.02)
    assert trial.user_attrs["training"]["stopped"] == "target"
    assert value >= 0.8
    assert all(report < 0.8 for report in list(trial.reports.values())[:-1])


def test_training_ends_when_the_loss_has_converged() -> None:
    _, trial = classify(epochs=50, converged_epochs=3, converged_tolerance=0.5, lr=0.02)
    training = trial.user_attrs["training"]
    assert training["stopped"] == "converged"
    losses = [trial.logs[epoch]["train_loss"] for epoch in sorted(trial.logs)]
    recent = losses[-4:]
    assert max(recent) - min(recent) < 0.5
    assert max(losses[-5:-1]) - min(losses[-5:-1]) >= 0.5


def one_epoch(setup: Setup) -> dict[str, torch.Tensor]:
    train_epoch(LocalTrial(), setup, 1)
    return {name: tensor.clone() for name, tensor in setup.model.state_dict().items()}


UNEVEN = [0.1, 5.0, 1.0, 0.2, 9.0, 0.3, 2.0, 0.1, 4.0, 1.0]


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "hinge"])
@pytest.mark.parametrize("class_weights", ["none", "balanced", UNEVEN])
def test_accumulated_batches_make_the_step_of_one_large_batch(loss: str, class_weights: Any) -> None:
    """300 samples: 3 batches of 100 as one step, or one full batch; the order does not matter to a mean."""
    settings: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "loss": loss, "class_weights": class_weights}
    accumulated = one_epoch(prepared(batch_size=100, accumulate=3, **settings))
    whole = one_epoch(prepared(batch_size="full", **settings))
    for name in whole:
        torch.testing.assert_close(accumulated[name], whole[name])


def test_a_short_last_batch_does_not_tilt_an_accumulated_step() -> None:
    accumulated = one_epoch(prepared(batch_size=280, accumulate=2, optimizer="sgd"))
    whole = one_epoch(prepared(batch_size="full", optimizer="sgd"))
    for name in whole:
        torch.testing.assert_close(accumulated[name], whole[name])


@pytest.mark.parametrize("storage", ["memory", "loader"])
def test_an_epochs_loss_with_class_weights_is_their_weighted_mean(storage: str) -> None:
    """Not the mean of the batches' means, in which a batch of light samples would count like any other."""
    settings: dict[str, Any] = {"batch_size": 7, "class_weights": UNEVEN, "lr": 1e-12, "storage": storage}
    setup = prepared(**settings, loader_workers=0)
    outputs, targets = predict(setup, setup.batches)
    expected = torch.nn.functional.cross_entropy(outputs, targets, torch.tensor(UNEVEN))
    assert train_epoch(LocalTrial(), setup, 1) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    "settings", [{}, {"dataset": "breast_cancer", "loss": "binary_cross_entropy"}, {"loss": "hinge"}]
)
def test_the_training_accuracy_is_a_metric_of_each_epoch(settings: dict[str, Any]) -> None:
    """Of the samples as they were trained; with steps too small to matter, that of the initial weights."""
    config: dict[str, Any] = {"lr": 1e-12, "epochs": 2, **settings}
    setup = prepared(**config)
    outputs, targets = predict(setup, setup.batches)
    expected = metrics.compute(["accuracy"], setup.loss.scores(outputs), targets)["accuracy"]
    _, trial = classify(**config)
    assert [trial.logs[epoch]["train_accuracy"] for epoch in (1, 2)] == pytest.approx([expected] * 2)


def test_a_mixture_is_predicted_rightly_by_its_shares() -> None:
    """As in the mixup paper's code: the share of the class that was predicted, if it is one of the two."""
    setup = prepared(mixup=1.0, batch_size="full")
    hits = metrics.Hits(setup.loss.labels)
    train_epoch(LocalTrial(), setup, 1, hits)
    again = prepared(mixup=1.0, batch_size="full")
    torch.manual_seed(derive(again.seed, "epoch", 1))
    inputs, targets = next(again.batches.shuffled(1))
    inputs, others, share = mix(inputs, targets, 1.0)
    again.model.train()
    predicted = again.model(inputs).argmax(1)
    expected = share * (predicted == targets) + (1 - share) * (predicted == others)
    assert hits.share() == pytest.approx(float(expected.mean()))


def test_a_regression_has_no_training_accuracy() -> None:
    _, trial = regress()
    assert "train_accuracy" not in trial.logs[1]


@pytest.mark.parametrize(("size", "batches"), [("full", 1), (1, 300), (64, 5)])
def test_full_mini_and_online_batches(size: int | str, batches: int) -> None:
    setup = prepared(batch_size=size)
    assert len(setup.batches) == batches
    assert sum(len(targets) for _, targets in setup.batches.shuffled(1)) == 300


def test_one_epoch_of_sgd_equals_the_loop_written_by_hand() -> None:
    setup = prepared(optimizer="sgd", lr=0.1, batch_size=64)
    by_hand = prepared(optimizer="sgd", lr=0.1, batch_size=64)
    loss = torch.nn.CrossEntropyLoss()
    total = 0.0
    for inputs, targets in by_hand.batches.shuffled(1):
        value = loss(by_hand.model(inputs), targets)
        by_hand.model.zero_grad()
        torch.autograd.backward(value)
        with torch.no_grad():
            for parameter in by_hand.model.parameters():
                assert parameter.grad is not None
                parameter -= 0.1 * parameter.grad
        total += value.item() * len(targets)
    mean = train_epoch(LocalTrial(), setup, 1)
    assert mean == pytest.approx(total / 300, rel=1e-6)
    for one, other in zip(setup.model.parameters(), by_hand.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("l2", 2)])
def test_a_penalty_adds_its_gradient_to_weights_but_not_to_biases(name: str, power: int) -> None:
    settings: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "batch_size": "full", "model": "linear"}
    plain = prepared(**settings)
    start = {key: tensor.clone() for key, tensor in plain.model.state_dict().items()}
    without = one_epoch(plain)
    penalised = one_epoch(
        prepared(optimizer="sgd", lr=0.1, batch_size="full", model="linear", **{name: 0.01})
    )
    gradient = start["1.weight"].sign() if power == 1 else start["1.weight"]
    torch.testing.assert_close(penalised["1.weight"], without["1.weight"] - 0.1 * 0.01 * gradient)
    torch.testing.assert_close(penalised["1.bias"], without["1.bias"])


def test_clipping_bounds_the_step() -> None:
    start = {key: tensor.clone() for key, tensor in prepared().model.state_dict().items()}
    settings: dict[str, Any] = {"optimizer": "sgd", "lr": 1.0, "batch_size": "full"}
    after = one_epoch(prepared(**settings, clip_norm=0.01))
    moved = math.sqrt(sum(float((after[key] - start[key]).square().sum()) for key in start))
    assert moved == pytest.approx(0.01, rel=1e-3)
    after = one_epoch(prepared(**settings, clip_value=1e-4))
    assert max(float((after[key] - start[key]).abs().max()) for key in start) <= 1.01e-4


def test_a_last_batch_of_one_sample_joins_the_one_before_under_batch_norm() -> None:
    setup = prepared(batch_norm=True, batch_size=299)
    assert [len(targets) for _, targets in setup.batches.shuffled(1)] == [300]
    assert math.isfinite(train_epoch(LocalTrial(), setup, 1))


def test_several_objectives_are_returned_reported_together_and_logged() -> None:
    values, trial = classify(objective=["accuracy", "f1", "parameters", "flops", "seconds_per_epoch"])
    accuracy, f1, parameters, flops, seconds = values
    assert trial.reports[1][:4] == (
        trial.logs[1]["validation_accuracy"],
        trial.logs[1]["validation_f1"],
        parameters,
        flops,
    )
    assert trial.logs[1].keys() >= {"validation_accuracy", "validation_f1", "train_loss"}
    assert accuracy == max(log["validation_accuracy"] for log in trial.logs.values())
    assert 0 < f1 <= 1
    assert parameters == 64 * 16 + 16 + 16 * 10 + 10
    assert flops == 2 * (64 * 16 + 16 * 10)
    assert seconds > 0


def test_a_cost_alone_may_be_the_objective() -> None:
    value, trial = classify(objective="parameters")
    assert value == 1210
    assert trial.reports == {}  # a constant tells a pruner nothing
    assert trial.logs[1]["validation_accuracy"] > 0


def test_what_a_run_needed_and_where_it_ran_is_kept() -> None:
    _, trial = classify()
    training = trial.user_attrs["training"]
    assert training["seconds"] > 0
    assert training["peak_memory"] > 1_000_000
    where = trial.user_attrs["origin"]["environment"]
    assert (where["torch"], where["threads"], where["device"]) == (torch.__version__, 1, "cpu")


def test_running_out_of_memory_names_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("objectives.train.train_epoch", exhausted)
    with pytest.raises(OutOfMemoryError, match=r"batch_size 48.*smaller.*20\.00 GiB") as caught:
        classify(batch_size=48)
    assert caught.value.needs_restart


def test_other_runtime_errors_are_not_taken_for_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> float:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("objectives.train.train_epoch", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        classify()


@pytest.mark.parametrize("device", ["cuda:0", "cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_said_to_be_missing(device: str) -> None:
    if device == "cuda:0" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(Exception, match=r"PyTorch finds no CUDA GPU|this machine has|no kind of device"):
        classifier.objective(LocalTrial(QUICK, device=device))


def test_the_library_leaves_the_number_of_threads_alone() -> None:
    torch.set_num_threads(2)
    classify(epochs=1)
    assert torch.get_num_threads() == 2
