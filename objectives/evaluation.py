"""One data set's evaluation as a JSON document: metrics, confusion matrix, curves."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from objectives import metrics
from objectives.datasets.records import Task

CURVE_POINTS = 101
SCATTER_POINTS = 1000
_HOW = metrics.How()


def document(
    split: str,
    task: Task,
    scores: Tensor,
    targets: Tensor,
    loss: float,
    classes: tuple[str, ...] = (),
    how: metrics.How = _HOW,
) -> dict[str, Any]:
    """Return the evaluation of `scores` against `targets` (see metrics.py for their shapes).

    Args:
        split: "validation" or "test".
        loss: mean training loss on the same data.
        classes: names of the K classes.
        how: what the metrics are measured by; its threshold is already a number, or None.
    """
    scores, targets = scores.detach().cpu(), targets.detach().cpu()
    names = [
        name
        for name, metric in metrics.METRICS.items()
        if metric.task == task and (how.positive is not None or name not in metrics.POSITIVE)
    ]
    names += [metric.name for metric in how.own]
    parts, means = ({}, {}) if task == "regression" else _classes(scores, targets, classes)
    found = metrics.compute((name for name in names if name not in means), scores, targets, how) | means
    values = {"loss": loss, **{name: found[name] for name in names}}
    result: dict[str, Any] = {
        "split": split,
        "task": task,
        "samples": len(targets),
        "metrics": {name: value if math.isfinite(value) else None for name, value in values.items()},
    }
    if task == "regression":
        return result | _residuals(scores, targets)
    if how.positive is not None:
        result["positive"] = {"class": classes[how.positive], "threshold": how.threshold, "beta": how.beta}
    return result | parts


def _residuals(scores: Tensor, targets: Tensor) -> dict[str, Any]:
    keep = torch.linspace(0, len(targets) - 1, min(len(targets), SCATTER_POINTS)).round().long()
    residuals = scores.double() - targets.double()
    return {
        "predicted": scores[keep].tolist(),
        "actual": targets[keep].tolist(),
        "residual_std": float(residuals.std(correction=0)),
    }


def _classes(
    scores: Tensor, targets: Tensor, classes: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, float]]:
    """What is said of each class, and the metrics that are means over it: half the time goes into curves."""
    matrix, curves = metrics.confusion(scores, targets), metrics.rankings(scores, targets)
    found = {name: values.tolist() for name, values in metrics.of_each_class(matrix).items()}
    found["support"] = matrix.sum(1).long().tolist()
    area = torch.stack([one.auc() for one in curves])
    precise = torch.stack([one.average_precision() for one in curves])
    means = {"auc": area.nanmean().item(), "average_precision": precise.nanmean().item()}
    found |= {"auc": area.tolist(), "average_precision": precise.tolist()}

    def of_class(i: int, *names: str) -> dict[str, Any]:
        return {"class": classes[i], **{name: found[name][i] for name in names}}

    roc, pr = [], []
    for i, one in enumerate(curves):
        roc.append(of_class(i, "auc") | _curve(**dict(zip(("fpr", "tpr"), one.roc(), strict=True))))
        axes = dict(zip(("recall", "precision"), one.recall_and_precision(), strict=True))
        pr.append(of_class(i, "average_precision") | _curve(**axes))
    return {
        "classes": list(classes),
        "confusion_matrix": matrix.long().tolist(),
        "per_class": [of_class(i, "precision", "recall", "f1", "support") for i in range(len(classes))],
        "roc": roc,
        "pr": pr,
    }, means


def _curve(**axes: Tensor) -> dict[str, list[float]]:
    """Thin a curve to `CURVE_POINTS`, evenly spaced along its length (city-block), both ends kept."""
    (x_name, x), (y_name, y) = axes.items()
    if len(x) > CURVE_POINTS:
        along = torch.cat([x.new_zeros(1), (x.diff().abs() + y.diff().abs()).cumsum(0)])
        wanted = torch.linspace(0, float(along[-1]), CURVE_POINTS, dtype=x.dtype)
        keep = torch.searchsorted(along, wanted).clamp_max(len(x) - 1)
        keep[0], keep[-1] = 0, len(x) - 1
        keep = torch.unique(keep)
        x, y = x[keep], y[keep]
    return {x_name: x.tolist(), y_name: y.tolist()}
