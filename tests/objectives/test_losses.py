"""Losses equal PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from objectives.config import TrainingConfig
from objectives.datasets.records import Task
from objectives.errors import ConfigError
from objectives.losses import Loss, build
from tests.objectives.helpers import classify, regress

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 1, 2, 2, 2, 1, 2, 0])
WEIGHT = torch.tensor([0.5, 1.0, 2.0])


def make(task: Task = "classification", classes: int = 3, **settings: Any) -> Loss:
    return build(TrainingConfig.read(settings), task, classes, LABELS, CPU)


@pytest.fixture
def outputs() -> torch.Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


def test_cross_entropy_with_smoothing_and_weights(outputs: torch.Tensor) -> None:
    loss = make(loss="cross_entropy", label_smoothing=0.1, class_weights=[0.5, 1.0, 2.0])
    expected = torch.nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1)(outputs, LABELS)
    torch.testing.assert_close(loss(outputs, LABELS), expected)


def test_hinge_is_multi_margin(outputs: torch.Tensor) -> None:
    torch.testing.assert_close(
        make(loss="hinge")(outputs, LABELS), torch.nn.MultiMarginLoss()(outputs, LABELS)
    )


def test_hinge_sums_every_margin_that_is_missed_as_weston_and_watkins_do(outputs: torch.Tensor) -> None:
    expected = 0.0
    for row, label in zip(outputs.tolist(), LABELS.tolist(), strict=True):
        margins = [max(0.0, 1 - row[label] + row[other]) for other in range(3) if other != label]
        expected += sum(margins) / 3 / 8  # Crammer and Singer would take max(margins)
    assert float(make(loss="hinge")(outputs, LABELS)) == pytest.approx(expected, rel=1e-6)


def test_binary_cross_entropy_of_two_classes_has_one_output() -> None:
    loss = make(classes=2, loss="binary_cross_entropy")
    outputs, labels = torch.tensor([[0.3], [-2.0]]), torch.tensor([1, 0])
    assert loss.outputs == 1
    expected = torch.nn.BCEWithLogitsLoss()(outputs[:, 0], labels.float())
    torch.testing.assert_close(loss(outputs, labels), expected)
    torch.testing.assert_close(loss.scores(outputs)[:, 1], outputs[:, 0].sigmoid())
    torch.testing.assert_close(loss.scores(outputs).sum(1), torch.ones(2))


def test_binary_cross_entropy_of_more_classes_is_one_against_the_rest(outputs: torch.Tensor) -> None:
    loss = make(loss="binary_cross_entropy")
    expected = torch.nn.BCEWithLogitsLoss()(outputs, F.one_hot(LABELS, 3).float())
    torch.testing.assert_close(loss(outputs, LABELS), expected)
    torch.testing.assert_close(loss.scores(outputs).sum(1), torch.ones(8))


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        ({"loss": "mse"}, torch.nn.MSELoss()),
        ({"loss": "huber", "huber_delta": 0.4}, torch.nn.HuberLoss(delta=0.4)),
    ],
)
def test_regression_losses(settings: dict[str, Any], reference: torch.nn.Module) -> None:
    outputs, targets = torch.tensor([[0.1], [2.0], [-1.0]]), torch.tensor([0.0, 0.5, -3.0])
    loss = make("regression", 0, **settings)
    torch.testing.assert_close(loss(outputs, targets), reference(outputs[:, 0], targets))
    torch.testing.assert_close(loss.scores(outputs), outputs[:, 0])


@pytest.mark.parametrize("name", ["cross_entropy", "hinge", "binary_cross_entropy"])
def test_a_mixture_of_nothing_but_the_own_sample_is_the_plain_loss(name: str, outputs: torch.Tensor) -> None:
    loss = make(loss=name)
    mixed = loss.mixed(outputs, LABELS, LABELS.flip(0), torch.ones(8))
    torch.testing.assert_close(mixed, loss(outputs, LABELS))


def test_mixup_of_cross_entropy_is_cross_entropy_with_mixed_targets(outputs: torch.Tensor) -> None:
    share, others = torch.linspace(0, 1, 8), LABELS.flip(0)
    soft = share[:, None] * F.one_hot(LABELS, 3) + (1 - share[:, None]) * F.one_hot(others, 3)
    torch.testing.assert_close(make().mixed(outputs, LABELS, others, share), F.cross_entropy(outputs, soft))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_leave_the_scale_of_a_mixed_loss_as_it_is(
    outputs: torch.Tensor, smoothing: float
) -> None:
    """With one share for all it mixes PyTorch's two weighted means; weights that are all 7 do nothing."""
    others = LABELS.flip(0)
    loss = make(class_weights=[0.5, 1.0, 2.0], label_smoothing=smoothing)
    reference = torch.nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=smoothing)
    mixed = loss.mixed(outputs, LABELS, others, torch.full((8,), 0.3))
    expected = 0.3 * reference(outputs, LABELS) + 0.7 * reference(outputs, others)
    torch.testing.assert_close(mixed, expected)
    share = torch.linspace(0, 1, 8)
    same = make(class_weights=[7.0, 7.0, 7.0], label_smoothing=smoothing)
    plain = make(label_smoothing=smoothing)
    torch.testing.assert_close(
        same.mixed(outputs, LABELS, others, share), plain.mixed(outputs, LABELS, others, share)
    )
    torch.testing.assert_close(loss.mixed(outputs, LABELS, others, torch.ones(8)), reference(outputs, LABELS))


def test_balanced_weights_are_inverse_to_the_classes_shares(outputs: torch.Tensor) -> None:
    weight = 8 / (3 * torch.tensor([2.0, 2.0, 4.0]))
    expected = F.cross_entropy(outputs, LABELS, weight)
    torch.testing.assert_close(make(class_weights="balanced")(outputs, LABELS), expected)


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("classification", {"loss": "mse"}, "loss: mse is for regression"),
        ("regression", {"loss": "hinge"}, "loss: hinge is for classification"),
        ("classification", {"class_weights": [1.0, 2.0]}, "class_weights: 2 weights for 3 classes"),
        ("classification", {"loss": "hinge", "label_smoothing": 0.1}, "belongs to loss: cross_entropy"),
    ],
)
def test_a_loss_of_the_wrong_task_is_refused(task: Task, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(task, **settings)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "hinge"])
@pytest.mark.parametrize("dataset", ["breast_cancer", "wine"])
def test_every_classification_loss_learns(loss: str, dataset: str) -> None:
    value, _ = classify(dataset=dataset, loss=loss, train_limit=None, epochs=40, class_weights="balanced")
    assert value > 0.9


@pytest.mark.parametrize("loss", ["mse", "huber"])
@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_every_regression_loss_learns(loss: str, model: str) -> None:
    value, trial = regress(loss=loss, model=model, epochs=30, objective="r2")
    assert value > 0.3
    assert trial.reports[30] <= value
