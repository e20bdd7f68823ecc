"""Losses, and how a model's raw outputs become scores.

Dimensions: B batch, K classes, O outputs of the model, L lanes.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from objectives.config import TrainingConfig
from objectives.datasets.records import Task
from objectives.errors import ConfigError
from objectives.imports import is_import_path, load_callable


class Loss:
    """A loss and its scores.

    `outputs` is how many numbers the model must return per sample. Subclasses define `each`, and `scores`
    where they are no softmax.
    `weight` [K] is that of each class where a mean is divided by the weights of its samples instead of by
    their number; None elsewhere. `class_weight` [K] multiplies each sample's loss.
    """

    outputs = 1
    weight: Tensor | None = None
    class_weight: Tensor | None = None
    smoothing: float = 0.0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of `outputs` [B, O] against `targets` [B], a scalar."""
        return self.each(outputs, targets).mean()

    def mixed(self, outputs: Tensor, targets: Tensor, others: Tensor, share: Tensor) -> Tensor:
        """Mean loss where sample i is `share[i]` of `targets[i]` and the rest of `others[i]` (mixup)."""
        return (share * self.each(outputs, targets) + (1 - share) * self.each(outputs, others)).mean()

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each sample, [B]; of `outputs` [L, O, B] and `targets` [L, B] also [L, B]."""
        raise NotImplementedError

    def scores(self, outputs: Tensor) -> Tensor:
        """Class probabilities [B, K], or predicted values [B] for regression; of [L, O, B] with L first."""
        return outputs.float().softmax(1)

    def labels(self, outputs: Tensor) -> Tensor:
        """Predicted classes [B], those of the largest score."""
        return outputs.argmax(1)


class CrossEntropy(Loss):
    """Softmax cross-entropy with label smoothing (Szegedy et al. 2016) and class weights [K]."""

    def __init__(self, classes: int, smoothing: float = 0.0, weight: Tensor | None = None) -> None:
        self.outputs, self.smoothing = classes, smoothing
        self.weight = self.class_weight = weight

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """As torch's: with class weights, the mean is weighted too."""
        return F.cross_entropy(outputs, targets, self.weight, label_smoothing=self.smoothing)

    def mixed(self, outputs: Tensor, targets: Tensor, others: Tensor, share: Tensor) -> Tensor:
        """As the mean of two cross-entropies, each class's part counting by its weight."""
        mean = super().mixed(outputs, targets, others, share)
        if self.weight is None:
            return mean
        return mean / (share * self.weight[targets] + (1 - share) * self.weight[others]).mean()

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(
            outputs, targets, self.weight, reduction="none", label_smoothing=self.smoothing
        )


class BinaryCrossEntropy(Loss):
    """Sigmoid cross-entropy: one output for two classes, one per class (one against the rest) for more."""

    def __init__(self, classes: int, weight: Tensor | None = None) -> None:
        self.outputs = 1 if classes == 2 else classes
        self._classes = classes
        self.class_weight = weight

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.outputs == 1:
            truth = targets.to(outputs.dtype)[:, None]
        else:
            truth = F.one_hot(targets, self._classes).movedim(-1, 1).to(outputs.dtype)
        loss = F.binary_cross_entropy_with_logits(outputs, truth, reduction="none").mean(1)
        return loss if self.class_weight is None else loss * self.class_weight[targets]

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
        self.outputs, self.class_weight = classes, weight

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        rows = outputs.movedim(1, -1).flatten(0, -2)
        each = F.multi_margin_loss(rows, targets.flatten(), weight=self.class_weight, reduction="none")
        return each.view(targets.shape)


class Squared(Loss):
    """Mean squared error of [B, 1] against [B]."""

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, 0] - targets).square()

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0].float()


class Huber(Squared):
    """Huber 1964: squared below `delta`, linear above."""

    def __init__(self, delta: float) -> None:
        self.delta = delta

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.huber_loss(outputs[:, 0], targets, reduction="none", delta=self.delta)


class Own(Loss):
    """A callable of the user's: of (outputs [B, K], targets [B]), or ([B], [B]) for a regression.

    A class, as `torch.nn:SmoothL1Loss`, is first called with the arguments. Scores are a softmax.
    """

    def __init__(self, config: TrainingConfig, task: Task, classes: int) -> None:
        self.outputs = classes if task == "classification" else 1
        self._named, self._task = config.loss, task
        made = load_callable(config.loss, "loss")
        arguments = dict(config.loss_args)
        self._each: Callable[[Tensor, Tensor], Tensor] | None = None
        if isinstance(made, type) or "reduction" in inspect.signature(made).parameters:
            self._each = self._bound(made, arguments | {"reduction": "none"})
        self._mean = self._bound(made, arguments)
        if self._mean is None:
            raise ConfigError(f"loss: {config.loss} cannot be called with {arguments}")
        if config.mixup and self._each is None:
            raise ConfigError(f"mixup: {config.loss} must take reduction='none', for a loss of each sample")

    @staticmethod
    def _bound(made: Any, arguments: dict[str, Any]) -> Any:
        try:
            return made(**arguments) if isinstance(made, type) else functools.partial(made, **arguments)
        except TypeError:
            return None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._call(self._mean, outputs, targets).mean()

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._call(self._each or self._mean, outputs, targets)

    def _call(self, function: Any, outputs: Tensor, targets: Tensor) -> Tensor:
        try:
            result = function(outputs if self._task == "classification" else outputs[:, 0], targets)
            return torch.as_tensor(result)
        except (MemoryError, torch.OutOfMemoryError):
            raise  # no fault of the setting
        except Exception as error:  # whatever code that is not ours raises
            raise ConfigError(
                f"loss: {self._named} fails on outputs {list(outputs.shape)} and targets "
                f"{list(targets.shape)}: {type(error).__name__}: {error}"
            ) from error

    def scores(self, outputs: Tensor) -> Tensor:
        return super().scores(outputs) if self._task == "classification" else outputs[:, 0].float()


class LaneLoss:
    """The losses of L lanes at once: alike but for the label smoothing and class weights of each.

    Args:
        losses: one for each lane, of one class and, for Huber's, one `delta`.
    """

    def __init__(self, losses: Sequence[Loss]) -> None:
        self._first = losses[0]
        self._plain = copy.copy(losses[0])
        self._plain.weight = self._plain.class_weight = None
        self._plain.smoothing = 0.0
        self._losses = list(losses)
        self._smoothing: Tensor | None = None  # [L, 1]
        self._weight: Tensor | None = None  # [L, K]
        self._divides: Tensor | None = None  # [L, 1], whose mean is divided by the weights
        if any(loss.smoothing for loss in losses):
            self._smoothing = torch.tensor([[loss.smoothing] for loss in losses])
        given = next((loss.class_weight for loss in losses if loss.class_weight is not None), None)
        if given is not None:
            weights = [loss.class_weight for loss in losses]
            self._weight = torch.stack([torch.ones_like(given) if own is None else own for own in weights])
            divides = [[loss.weight is not None] for loss in losses]
            self._divides = torch.tensor(divides, device=given.device) if any(map(any, divides)) else None

    def of(self, lanes: Sequence[int]) -> LaneLoss:
        """The losses of these lanes."""
        return LaneLoss([self._losses[lane] for lane in lanes])

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss [L] of `outputs` [L, B, O] against `targets` [L, B]."""
        return self._mean(self.each(outputs, targets), self._counts(targets))

    def mixed(self, outputs: Tensor, targets: Tensor, others: Tensor, share: Tensor) -> Tensor:
        """As `Loss.mixed`, [L]; a lane without mixup has the share 1."""
        each = share * self.each(outputs, targets) + (1 - share) * self.each(outputs, others)
        counts = self._counts(targets)
        if counts is not None:
            counts = share * counts + (1 - share) * self._counts(others)  # type: ignore[operator]
        return self._mean(each, counts)

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each sample, [L, B]."""
        outputs = outputs.mT  # samples last: a softmax over a few classes is several times as fast
        each = self._plain.each(outputs, targets)
        if self._weight is not None:
            each = each * self._weight.gather(1, targets)
        if self._smoothing is not None:
            self._smoothing = smoothing = self._smoothing.to(each.device)
            spread = -outputs.log_softmax(1)
            if self._weight is not None:
                spread = spread * self._weight[:, :, None]
            each = (1 - smoothing) * each + smoothing * spread.mean(1)
        return each

    def labels(self, outputs: Tensor) -> Tensor:
        """Predicted classes [L, B]."""
        return self._first.labels(outputs.flatten(0, 1)).view(outputs.shape[:2])

    def scores(self, outputs: Tensor) -> Tensor:
        """Class probabilities [L, B, K], or predicted values [L, B]."""
        scores = self._first.scores(outputs.mT)
        return scores.mT.contiguous() if scores.ndim == 3 else scores

    def _counts(self, targets: Tensor) -> Tensor | None:
        """[L, B], what each sample counts in the mean of its lane; None where all count alike."""
        if self._weight is None or self._divides is None:
            return None
        weights = self._weight.gather(1, targets)
        return torch.where(self._divides, weights, 1.0)

    def _mean(self, each: Tensor, counts: Tensor | None) -> Tensor:
        return each.mean(1) if counts is None else each.sum(1) / counts.sum(1)


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
    if is_import_path(name):
        if config.class_weights != "none" or config.label_smoothing:
            raise ConfigError(f"class_weights, label_smoothing: {name} is your own loss; hand it loss_args")
        return Own(config, task, classes)
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
    if name == "cross_entropy":
        return CrossEntropy(classes, config.label_smoothing, weight)
    return Hinge(classes, weight) if name == "hinge" else BinaryCrossEntropy(classes, weight)


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
