"""Metrics of all predictions of an evaluation at once, as scikit-learn defines them.

Dimensions: N samples, K classes. `scores` are class probabilities [N, K], or predicted values [N] in the
target's own units for regression; `targets` are [N].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from objectives.config import TrainingConfig, near
from objectives.datasets.records import Task
from objectives.errors import ConfigError
from objectives.imports import is_import_path, load_callable
from objectives.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Metric:
    """A named number. `maximize` says which way is better; `task` None means it needs no predictions.

    `own` is a function of the user's, called with scores and targets.
    """

    name: str
    maximize: bool
    task: Task | None
    own: Callable[[Tensor, Tensor], Any] | None = None


@dataclass(frozen=True)
class How:
    """What the metrics of one configuration are measured by.

    `positive` is the class (from 0) that the metrics `..._positive` are about. A sample is predicted to be of
    it from `threshold` on; None: where it has the largest score; "best": the threshold whose F-beta is the
    largest on the scores at hand. `own` are metrics of the user's.
    """

    top_k: int = 5
    positive: int | None = None
    beta: float = 1.0
    threshold: float | Literal["best"] | None = None
    own: tuple[Metric, ...] = ()

    @classmethod
    def of(cls, config: TrainingConfig, classes: tuple[str, ...], task: Task) -> How:
        """As `config` says for a data set of these `classes`.

        Raises:
            ConfigError: the positive class is none of them, or must be named.
        """
        named = [find(name, task) for name in config.objectives or ()]
        positive = None
        if config.positive_class is not None:
            name = str(config.positive_class)
            if name not in classes:
                raise ConfigError(
                    f"positive_class: {config.dataset} has no class {name!r}; {near(name, classes)}"
                )
            positive = classes.index(name)
        elif len(classes) == 2:
            positive = 1
        needing = [metric.name for metric in named if metric.name in POSITIVE]
        if needing or config.threshold is not None:
            if task == "regression":
                raise ConfigError("threshold: it is for classes; a regression has none")
            if positive is None:
                what = f"objective: {needing[0]}" if needing else "threshold"
                raise ConfigError(
                    f"{what} is about one class; name it with positive_class, of {', '.join(classes)}"
                )
        threshold = None if config.threshold == "largest" else config.threshold
        own = tuple(metric for metric in named if metric.own is not None)
        return cls(config.top_k, positive, config.beta, threshold, own)


def _names(task: Task | None, higher: str, lower: str) -> list[Metric]:
    return [Metric(name, True, task) for name in higher.split()] + [
        Metric(name, False, task) for name in lower.split()
    ]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in [
        *_names(
            "classification",
            "accuracy top_k precision precision_micro precision_weighted recall recall_micro recall_weighted "
            "f1 f1_micro f1_weighted auc average_precision balanced_accuracy mcc "
            "precision_positive recall_positive fbeta_positive average_precision_positive",
            "log_loss calibration_error",
        ),
        *_names("regression", "r2", "mae mse rmse"),
        *_names(None, "", "parameters flops seconds_per_epoch peak_memory"),
    ]
}
LOSS = Metric("loss", False, None)  # measured with every evaluation, whatever the task
POSITIVE = frozenset(name for name in METRICS if name.endswith("_positive"))
COSTS = frozenset(name for name, metric in METRICS.items() if metric.task is None)


def find(name: str, task: Task) -> Metric:
    """Return the metric called `name`.

    Raises:
        ConfigError: there is none for `task`; names the nearest.
    """
    if name == "loss":
        return LOSS
    if is_import_path(name):  # a class of torchmetrics, say, is called without arguments
        found = load_callable(name, "objective")
        maximize = getattr(found, "higher_is_better", None) is not False
        own = found() if isinstance(found, type) else found
        return Metric(name.rpartition(":")[2], maximize, task, own)
    metric = METRICS.get(name)
    if metric is not None and metric.task in (None, task):
        return metric
    known = ["loss", *(other.name for other in METRICS.values() if other.task in (None, task))]
    why = "there is no metric" if metric is None else f"no {task} has the metric"
    raise ConfigError(f"objective: {why} {name!r}; {near(name, known)}")


def compute(names: Iterable[str], scores: Tensor, targets: Tensor, how: How = How()) -> dict[str, float]:
    """Compute the named metrics; the device is waited for once.

    precision, recall and f1 are macro averages unless the name says micro or weighted. auc and
    average_precision are macro averages of one class against the rest. calibration_error is the expected
    calibration error with 15 bins (Guo et al. 2017). log_loss is in nats. balanced_accuracy is the mean of
    the classes' recalls, mcc Matthews' correlation.

    Raises:
        ConfigError: a metric of the user's own raised, or did not return a number.
    """
    names = list(names)
    if not names:
        return {}
    own = {metric.name: metric for metric in how.own}
    if how.threshold == "best" and POSITIVE.intersection(names):
        how = replace(how, threshold=best_threshold(scores, targets, how))
    one = _classification if scores.ndim == 2 else _regression
    values = [
        _own(own[name], scores, targets) if name in own else one(name, scores, targets, how) for name in names
    ]
    numbers = torch.stack([value.double() for value in values]).tolist()
    return dict(zip(names, numbers, strict=True))


def compute_lanes(
    names: Iterable[str], scores: Tensor, targets: Tensor, how: How = How()
) -> list[dict[str, float]]:
    """`compute` for each of L lanes, of scores [L, N, K] or [L, N] and targets [L, N]; as one if it can."""
    names = list(names)
    together: dict[str, Tensor] = {}
    if "accuracy" in names:
        together["accuracy"] = (scores.argmax(2) == targets).sum(1).double() / targets.shape[1]
    if "log_loss" in names:
        right = scores.double().gather(2, targets[:, :, None])[:, :, 0]
        together["log_loss"] = -right.clamp(1e-15, 1).log().mean(1)
    for name in ("mse", "rmse"):
        if name in names:
            squares = (scores.double() - targets.double()).square().mean(1)
            together[name] = squares.sqrt() if name == "rmse" else squares
    rest = [name for name in names if name not in together]
    one_by_one = [compute(rest, *lane, how) for lane in zip(scores, targets, strict=True)]
    numbers = torch.stack(list(together.values()), 1).tolist() if together else [[]] * len(scores)
    every = [
        values | dict(zip(together, own, strict=True))
        for values, own in zip(one_by_one, numbers, strict=True)
    ]
    return [{name: values[name] for name in names} for values in every]


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """`part / whole`, 0 where there is no whole."""
    return torch.where(whole == 0, 0.0, part / whole)


def confusion(scores: Tensor, targets: Tensor) -> Tensor:
    """How many samples of each class (row) are predicted to be of which (column): [K, K], float64."""
    classes = scores.shape[1]
    counts = torch.bincount(targets * classes + scores.argmax(1), minlength=classes**2)
    return counts.view(classes, classes).double()


def of_each_class(matrix: Tensor) -> dict[str, Tensor]:
    """precision, recall and f1 [K] of a confusion matrix."""
    right, truth, guesses = matrix.diag(), matrix.sum(1), matrix.sum(0)
    return {
        "precision": ratio(right, guesses),
        "recall": ratio(right, truth),
        "f1": ratio(2 * right, truth + guesses),
    }


@dataclass(frozen=True)
class Ranking:
    """How many samples that are, and are not, of a class have a score of each threshold [M] or more.

    From the highest threshold on; counts are float64.
    """

    thresholds: Tensor
    hits: Tensor
    others: Tensor

    @classmethod
    def of(cls, scores: Tensor, truth: Tensor) -> Ranking:
        """By scores [N] of the class, and whether each sample is of it."""
        ranked, order = scores.sort(descending=True)
        last = torch.ones_like(truth)  # of those that have the same score
        last[:-1] = ranked.diff() != 0
        hits = truth[order].cumsum(0)
        others = torch.arange(1, len(hits) + 1, device=hits.device) - hits
        return cls(ranked[last], hits[last].double(), others[last].double())

    def roc(self) -> tuple[Tensor, Tensor]:
        """The shares of the others and of the class that have each threshold, from (0, 0) to (1, 1)."""
        shares = [F.pad(ratio(counts, counts[-1]), (1, 0)) for counts in (self.others, self.hits)]
        return shares[0], shares[1]

    def recall_and_precision(self) -> tuple[Tensor, Tensor]:
        """At each threshold, from a recall of 0 to 1; NaN where no sample is of the class."""
        precision = self.hits / (self.hits + self.others)
        return F.pad(self.hits / self.hits[-1], (1, 0)), F.pad(precision, (1, 0), value=1.0)

    def auc(self) -> Tensor:
        """The area under `roc`."""
        others, hits = self.roc()
        return torch.trapezoid(hits, others)

    def average_precision(self) -> Tensor:
        """The mean precision over the recall."""
        recall, precision = self.recall_and_precision()
        return (recall.diff() * precision[1:]).sum()


def rankings(scores: Tensor, targets: Tensor) -> list[Ranking]:
    """One of each class."""
    return [Ranking.of(own, targets == number) for number, own in enumerate(scores.T)]


def best_threshold(scores: Tensor, targets: Tensor, how: How) -> float:
    """The threshold on the positive class's score whose F-beta is the largest on `scores`."""
    assert how.positive is not None
    found = Ranking.of(scores[:, how.positive], targets == how.positive)
    square = how.beta**2
    scaled = (1 + square) * found.hits / (square * found.hits[-1] + found.hits + found.others)
    return float(found.thresholds.flip(0)[int(scaled.flip(0).argmax())])  # of equal ones the lowest


def is_positive(scores: Tensor, how: How) -> Tensor:
    """Whether each sample [N] is predicted to be of the positive class."""
    assert how.positive is not None
    if how.threshold is None or how.threshold == "best":
        return scores.argmax(1).eq(how.positive)
    return scores[:, how.positive].ge(how.threshold)


def _own(metric: Metric, scores: Tensor, targets: Tensor) -> Tensor:
    assert metric.own is not None
    try:
        return torch.as_tensor(metric.own(scores, targets)).detach().reshape(()).to(scores.device)
    except (MemoryError, torch.OutOfMemoryError):
        raise  # no fault of the setting
    except Exception as error:  # whatever code that is not ours raises
        raise ConfigError(
            f"objective: {metric.name} of scores {list(scores.shape)} and targets {list(targets.shape)} must "
            f"return one number: {type(error).__name__}: {error}"
        ) from error


def _classification(name: str, scores: Tensor, targets: Tensor, how: How) -> Tensor:
    if name in POSITIVE:
        return _of_one_class(name, scores, targets, how)
    if name == "log_loss":
        return F.nll_loss(scores.double().clamp(1e-15, 1).log(), targets)
    if name == "accuracy":
        return (scores.argmax(1) == targets).double().mean()  # exact, so that a target of 0.95 can be met
    if name == "top_k":
        first = scores.topk(min(how.top_k, scores.shape[1]), 1).indices
        return (first == targets[:, None]).any(1).double().mean()
    if name == "calibration_error":
        return _calibration_error(scores, targets)
    if name == "auc":
        return torch.stack([one.auc() for one in rankings(scores, targets)]).nanmean()
    if name == "average_precision":
        return torch.stack([one.average_precision() for one in rankings(scores, targets)]).nanmean()
    matrix = confusion(scores, targets)
    truth, guesses = matrix.sum(1), matrix.sum(0)
    if name == "mcc":
        total, square = matrix.sum(), matrix.sum().square()
        spread = (square - truth.square().sum()) * (square - guesses.square().sum())
        return ratio(matrix.trace() * total - truth @ guesses, spread.sqrt())
    kind, _, average = name.removeprefix("balanced_").partition("_")
    if average == "micro":
        return matrix.trace() / matrix.sum()
    each = of_each_class(matrix)["recall" if kind == "accuracy" else kind]
    weights = truth if average == "weighted" else (truth + guesses > 0).double()
    return (each * weights).sum() / weights.sum()


def _of_one_class(name: str, scores: Tensor, targets: Tensor, how: How) -> Tensor:
    assert how.positive is not None
    truth = targets == how.positive
    if name == "average_precision_positive":
        return Ranking.of(scores[:, how.positive], truth).average_precision()
    guess = is_positive(scores, how)
    right, positives, guesses = (part.sum().double() for part in (guess & truth, truth, guess))
    if name == "fbeta_positive":
        square = how.beta**2
        return ratio((1 + square) * right, square * positives + guesses)
    return ratio(right, guesses if name == "precision_positive" else positives)


def _calibration_error(scores: Tensor, targets: Tensor, bins: int = 15) -> Tensor:
    confidence, guess = scores.double().max(1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.bincount(place, (guess == targets).double() - confidence, minlength=bins)
    return gaps.abs().sum() / len(targets)


def _regression(name: str, scores: Tensor, targets: Tensor, how: How) -> Tensor:
    error, truth = scores.double() - targets.double(), targets.double()
    if name == "mae":
        return error.abs().mean()
    if name == "r2":
        left, whole = error.square().sum(), (truth - truth.mean()).square().sum()
        return 1 - torch.where(whole == 0, (left > 0).double(), left / whole)
    squares = error.square().mean()
    return squares if name == "mse" else squares.sqrt()


class Hits:
    """How many samples are predicted rightly while they are trained on; of a mixture, by its shares.

    Batches are looked at many at once: a look at each would be a tenth of a small model's epoch.
    """

    HELD = 1 << 20  # scores

    def __init__(self, labels: Callable[[Tensor], Tensor]) -> None:
        self._labels = labels  # scores [B, K] -> predicted classes [B]
        self._held: list[tuple[Tensor, ...]] = []
        self._scores = 0
        self._samples = 0
        self._right: Tensor | None = None

    def add(self, outputs: Tensor, targets: Tensor, mixture: tuple[Tensor, Tensor] | None = None) -> None:
        """Count a batch: scores [B, K], classes [B]; of a mixture also the others and the shares [B]."""
        self._held.append((outputs, targets, *(mixture or ())))
        self._scores += outputs.numel()
        if self._scores > self.HELD:
            self._look()

    def share(self, ranks: Ranks = ALONE) -> float:
        """The share of the samples counted, between 0 and 1, those of all ranks."""
        self._look()
        right = 0.0 if self._right is None else self._right.item()
        total = ranks.total(torch.tensor([right, self._samples], dtype=torch.float64))
        return (total[0] / total[1].clamp(min=1)).item()

    def _look(self) -> None:
        if not self._held:
            return
        outputs, targets, *mixture = (torch.cat(column) for column in zip(*self._held, strict=True))
        predicted = self._labels(outputs)
        right = (predicted == targets).double()
        if mixture:
            others, shares = mixture
            right = torch.lerp((predicted == others).double(), right, shares.double())
        self._right = right.sum() if self._right is None else self._right + right.sum()
        self._samples += len(targets)
        self._held.clear()
        self._scores = 0
