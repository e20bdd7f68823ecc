"""Losses, and how a model's raw outputs become scores.

Dimensions: B batch, K classes, O outputs of the model.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from objectives.config import TrainingConfig
from objectives.datasets.records import Task
from objectives.errors import ConfigError


class Loss:
    """A loss and its scores.

    `outputs` is how many numbers the model must return per sample. Subclasses define `each` and `scores`.
    `weight` [K] is that of each class where a mean is divided by the weights of its samples instead of by
    their number; None elsewhere.
    """

    weight: Tensor | None = None

    def __init__(self, outputs: int) -> None:
        self.outputs = outputs

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of `outputs` [B, O] against `targets` [B], a scalar."""
        return self.each(outputs, targets).mean()

    def mixed(self, outputs: Tensor, targets: Tensor, others: Tensor, share: Tensor) -> Tensor:
        """Mean loss where sample i is `share[i]` of `targets[i]` and the rest of `others[i]` (mixup)."""
        return (share * self.each(outputs, targets) + (1 - share) * self.each(outputs, others)).mean()

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each sample, [B]."""
        raise NotImplementedError

    def scores(self, outputs: Tensor) -> Tensor:
        """Class probabilities [B, K], or predicted values [B] for regression."""
        raise NotImplementedError

    def labels(self, outputs: Tensor) -> Tensor:
        """Predicted classes [B], those of the largest score."""
        return outputs.argmax(1)


class CrossEntropy(Loss):
    """Softmax cross-entropy with label smoothing (Szegedy et al. 2016) and class weights [K]."""

    def __init__(self, classes: int, smoothing: float = 0.0, weight: Tensor | None = None) -> None:
        super().__init__(classes)
        self._smoothing = smoothing
        self.weight = weight

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """As torch's: with class weights, the mean is weighted too."""
        return F.cross_entropy(outputs, targets, self.weight, label_smoothing=self._smoothing)

    def mixed(self, outputs: Tensor, targets: Tensor, others: Tensor, share: Tensor) -> Tensor:
        """As the mean of two cross-entropies, each class's part counting by its weight."""
        mean = super().mixed(outputs, targets, others, share)
        if self.weight is None:
            return mean
        return mean / (share * self.weight[targets] + (1 - share) * self.weight[others]).mean()

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(
            outputs, targets, self.weight, reduction="none", label_smoothing=self._smoothing
        )

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.float().softmax(1)


class BinaryCrossEntropy(Loss):
    """Sigmoid cross-entropy: one output for two classes, one per class (one against the rest) for more."""

    def __init__(self, classes: int, weight: Tensor | None = None) -> None:
        super().__init__(1 if classes == 2 else classes)
        self._classes = classes
        self._weight = weight

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.outputs == 1:
            truth = targets.to(outputs.dtype)[:, None]
        else:
            truth = F.one_hot(targets, self._classes).to(outputs.dtype)
        loss = F.binary_cross_entropy_with_logits(outputs, truth, reduction="none").mean(1)
        return loss if self._weight is None else loss * self._weight[targets]

    def scores(self, outputs: Tensor) -> Tensor:
        positive = outputs.float().sigmoid()
        if self.outputs == 1:
            return torch.cat([1 - positive, positive], dim=1)
        return positive / positive.sum(1, keepdim=True).clamp_min(1e-12)

    def labels(self, outputs: Tensor) -> Tensor:
        return (outputs[:, 0] > 0).long() if self.outputs == 1 else super().labels(outputs)


class Hinge(Loss):
    """Multi-class margin loss: sum over k != y of max(0, 1 - x_y + x_k), divided by K.

    Weston and Watkins 1999, who sum where Crammer and Singer 2001 take the largest; as torch's
    multi_margin_loss.
    Scores are a softmax of the margins: they rank classes but are not calibrated probabilities.
    """

    def __init__(self, classes: int, weight: Tensor | None = None) -> None:
        super().__init__(classes)
        self._weight = weight

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.multi_margin_loss(outputs, targets, weight=self._weight, reduction="none")

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.float().softmax(1)


class Squared(Loss):
    """Mean squared error of [B, 1] against [B]."""

    def __init__(self) -> None:
        super().__init__(1)

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, 0] - targets).square()

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0].float()


class Huber(Loss):
    """Huber 1964: squared below `delta`, linear above."""

    def __init__(self, delta: float) -> None:
        super().__init__(1)
        self._delta = delta

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.huber_loss(outputs[:, 0], targets, reduction="none", delta=self._delta)

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0].float()


def build(config: TrainingConfig, task: Task, classes: int, labels: Tensor, device: torch.device) -> Loss:
    """Build the loss that `config` asks for.

    Args:
        classes: K; unused for regression.
        labels: the training labels [N], for balanced class weights.
        device: where the weights go.

    Raises:
        ConfigError: the loss is not one for this task, or the class weights are not K numbers.
    """
    name = config.loss
    if name == "auto":
        name = "cross_entropy" if task == "classification" else "mse"
    if task == "regression":
        if name == "mse":
            return Squared()
        if name == "huber":
            return Huber(config.huber_delta)
        raise ConfigError(f"loss: {name} is for classification; a regression takes mse or huber")
    if name in ("mse", "huber"):
        raise ConfigError(
            f"loss: {name} is for regression; a classification takes cross_entropy, "
            "binary_cross_entropy or hinge"
        )
    if config.label_smoothing and name != "cross_entropy":
        raise ConfigError(f"label_smoothing belongs to loss: cross_entropy, not {name}")
    weight = _class_weights(config, classes, labels)
    weight = weight.to(device) if weight is not None else None
    kinds: dict[str, Any] = {"binary_cross_entropy": BinaryCrossEntropy, "hinge": Hinge}
    if name == "cross_entropy":
        return CrossEntropy(classes, config.label_smoothing, weight)
    loss: Loss = kinds[name](classes, weight)
    return loss


def _class_weights(config: TrainingConfig, classes: int, labels: Tensor) -> Tensor | None:
    given = config.class_weights
    if given == "none":
        return None
    if given == "balanced":
        counts = torch.bincount(labels.cpu(), minlength=classes).float()
        return counts.sum() / (classes * counts)
    if len(given) != classes:
        raise ConfigError(f"class_weights: {len(given)} weights for {classes} classes")
    return torch.tensor(given, dtype=torch.float32)
