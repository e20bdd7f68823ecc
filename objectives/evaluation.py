"""One data set's evaluation as a JSON document: metrics, confusion matrix, curves."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    import torchmetrics.functional.classification as tm

    count = scores.shape[1]
    each: dict[str, Any] = {"average": "none", "validate_args": False}
    functions: dict[str, Callable[..., Any]] = {
        "precision": tm.multiclass_precision,
        "recall": tm.multiclass_recall,
        "f1": tm.multiclass_f1_score,
    }
    found = {name: one(scores, targets, count, **each).tolist() for name, one in functions.items()}
    found["support"] = torch.bincount(targets, minlength=count).tolist()

    def of_class(i: int, *names: str) -> dict[str, Any]:
        return {"class": classes[i], **{name: found[name][i] for name in names}}

    roc: Any = tm.multiclass_roc(scores, targets, count, validate_args=False)
    pr: Any = tm.multiclass_precision_recall_curve(scores, targets, count, validate_args=False)
    area = torch.stack([torch.trapezoid(y, x) for x, y in zip(roc[0], roc[1], strict=True)])
    precise = torch.stack([-(y.diff() * x[:-1]).sum() for x, y in zip(pr[0], pr[1], strict=True)])
    means = {"auc": area.nanmean().item(), "average_precision": precise.nanmean().item()}
    found |= {"auc": area.tolist(), "average_precision": precise.tolist()}
    return {
        "classes": list(classes),
        "confusion_matrix": tm.multiclass_confusion_matrix(
            scores, targets, count, validate_args=False
        ).tolist(),
        "per_class": [of_class(i, "precision", "recall", "f1", "support") for i in range(len(classes))],
        "roc": [of_class(i, "auc") | _curve(fpr=roc[0][i], tpr=roc[1][i]) for i in range(len(classes))],
        "pr": [
            of_class(i, "average_precision") | _curve(recall=pr[1][i], precision=pr[0][i])
            for i in range(len(classes))
        ],
    }, means


def _curve(**axes: Tensor) -> dict[str, list[float]]:
    """Thin a curve to `CURVE_POINTS`, evenly spaced along its length (city-block), both ends kept."""
    (x_name, x), (y_name, y) = axes.items()
    if len(x) > CURVE_POINTS:
        along = torch.cat([torch.zeros(1), (x.diff().abs() + y.diff().abs()).cumsum(0)])
        wanted = torch.linspace(0, float(along[-1]), CURVE_POINTS)
        keep = torch.searchsorted(along, wanted).clamp_max(len(x) - 1)
        keep[0], keep[-1] = 0, len(x) - 1
        keep = torch.unique(keep)
        x, y = x[keep], y[keep]
    return {x_name: x.tolist(), y_name: y.tolist()}
