"""What training showed: learning curves of all trials, and the metrics and evaluation of one.

An objective's `evaluate` may be anybody's code, so what does not have the expected form is left out rather
than trusted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from hpo.report.records.scores import (
    best_numbers,
    sample,
    shown_note,
    step_name,
    thin,
    value_axis,
    value_name,
)
from storage.history.records import Direction, StudyHistory, TrialRecord, TrialStateName

MAX_CURVES = 300
FEW_CURVES = 6
MAX_CURVE_POINTS = 200
MAX_METRICS = 12
MAX_CLASSES = 40  # of the confusion matrix
MAX_RATE_CURVES = 10  # one a class
MAX_SCATTER = 1000
MAX_RANKED = 50  # steps
MIN_RANKED = 8  # trials that reported at a step, before their ranks there are compared


@dataclass(frozen=True)
class Curve:
    """What one trial reported, finite values only. `broken`: it also reported NaN or infinity."""

    number: int
    state: TrialStateName
    steps: tuple[int, ...]
    values: tuple[float, ...]
    best: bool = False
    broken: bool = False


@dataclass(frozen=True)
class LearningCurves:
    curves: tuple[Curve, ...]
    step_name: str
    axis: str
    direction: Direction
    note: str

    @property
    def few(self) -> bool:
        """Whether each has a look of its own, and all of it is seen: somebody compares them."""
        return len(self.curves) <= FEW_CURVES


@dataclass(frozen=True)
class MetricCurve:
    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Metrics:
    """Metrics of one trial that share a picture: one, or several of the same unit."""

    title: str
    step_name: str
    curves: tuple[MetricCurve, ...]


def learning_curves(history: StudyHistory) -> LearningCurves | None:
    """Reported values per step; None where nothing finite was reported.

    At most `MAX_CURVES` trials (the best and the running ones always) with `MAX_CURVE_POINTS` steps each.
    """
    winner = history.best
    curves = []
    for trial in history.trials:
        steps, values = _finite(trial.reports)
        if not steps:
            continue
        broken = any(not math.isfinite(value) for value in trial.reports.values())
        is_best = winner is not None and trial.number == winner.number
        curves.append(Curve(trial.number, trial.state, steps, values, is_best, broken))
    if not curves:
        return None
    running = sum(curve.state == "running" for curve in curves)
    best = best_numbers(history)
    shown = sample(
        curves, MAX_CURVES, lambda c: c.number in best or (c.state == "running" and running <= MAX_CURVES)
    )
    note = shown_note(len(shown), len(curves), "curves")
    return LearningCurves(shown, step_name(history), value_axis(history), history.directions[0], note)


def metric_curves(trial: TrialRecord) -> tuple[MetricCurve, ...]:
    """Every named metric of a trial over its steps, by name: finite values, the first `MAX_METRICS`."""
    curves = []
    for name in sorted(trial.metrics):
        steps, values = _finite(trial.metrics[name])
        if steps and not (len(steps) == 1 and len(trial.reports) > 1):  # a number of the trial is no curve
            curves.append(MetricCurve(name, steps, values))
    return tuple(curves[:MAX_METRICS])


def best_metrics(history: StudyHistory) -> tuple[Metrics, ...]:
    """Every metric of the trial to use, each apart; none with several directions."""
    best = history.chosen
    found = metric_curves(best) if best else ()
    return tuple(Metrics(curve.name, step_name(history), (curve,)) for curve in found)


def metrics_by_unit(history: StudyHistory, trial: TrialRecord) -> tuple[Metrics, ...]:
    """A trial's metrics and its reports; those that differ only by "train_" or "val_" together."""
    if trial.reports and dict(trial.reports) not in [dict(series) for series in trial.metrics.values()]:
        trial = replace(trial, metrics={**trial.metrics, value_name(history): trial.reports})
    groups: dict[str, list[MetricCurve]] = {}
    for curve in metric_curves(trial):
        prefix = next((p for p in ("train_", "val_", "validation_") if curve.name.startswith(p)), "")
        groups.setdefault(curve.name.removeprefix(prefix), []).append(curve)
    return tuple(Metrics(unit, step_name(history), tuple(curves)) for unit, curves in groups.items())


def foresight(history: StudyHistory) -> Metrics | None:
    """Spearman's rank correlation of what complete trials reported at each step with what they came to, of
    all and of the better half: where that is low, a pruner that looks there prunes by luck.
    """
    sign = -1 if history.directions[0] == "maximize" else 1
    done = [t for t in history.trials if t.state == "complete" and t.value is not None]
    done = [trial for trial in done if math.isfinite(trial.value or 0.0)]
    done.sort(key=lambda trial: sign * (trial.value or 0.0))
    values = np.array([trial.value for trial in done])
    steps = thin(sorted({step for trial in done for step in trial.reports}), MAX_RANKED)
    seen = {step: np.array([trial.reports.get(step, math.nan) for trial in done]) for step in steps}
    curves = []
    for name, count in (("all complete trials", len(done)), ("the better half", len(done) // 2)):
        found = {}
        for step in steps:
            known = np.isfinite(seen[step][:count])
            if known.sum() < MIN_RANKED:
                continue
            ranks = np.array([_ranks(seen[step][:count][known]), _ranks(values[:count][known])])
            if ranks.std(axis=1).all():
                found[step] = float(np.corrcoef(ranks)[0, 1])
        if len(found) > 1:
            curves.append(MetricCurve(name, *_finite(found)))
    return Metrics("", step_name(history), tuple(curves)) if curves else None


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ties share the mean of their ranks. As `scipy.stats` has it, which takes half a second to import."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def _finite(series: Mapping[int, float]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    steps = thin([step for step in sorted(series) if math.isfinite(series[step])], MAX_CURVE_POINTS)
    return steps, tuple(float(series[step]) for step in steps)


@dataclass(frozen=True)
class Confusion:
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]  # rows: true class, columns: predicted
    note: str = ""


@dataclass(frozen=True)
class ClassRow:
    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int | None


@dataclass(frozen=True)
class RateCurve:
    """One class's curve; `area` is the area under it (ROC) or its average precision (PR)."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    area: float | None


@dataclass(frozen=True)
class Residuals:
    predicted: tuple[float, ...]
    actual: tuple[float, ...]
    std: float | None


@dataclass(frozen=True)
class Evaluation:
    split: Literal["validation", "test"]
    samples: int | None
    metrics: Mapping[str, float]
    confusion: Confusion | None
    per_class: tuple[ClassRow, ...]
    roc: tuple[RateCurve, ...]
    pr: tuple[RateCurve, ...]
    residuals: Residuals | None


def evaluations(history: StudyHistory) -> tuple[Evaluation | None, Evaluation | None]:
    """What the best trial was evaluated to on the validation and on the test set."""
    return parse_evaluation(history.winner_evaluation), parse_evaluation(history.test_evaluation, "test")


def on_test_set(history: StudyHistory) -> tuple[str, float] | None:
    """The best trial's metric on the test set, and its name: the objective's, or the first."""
    return headline(parse_evaluation(history.test_evaluation, "test"), value_name(history))


def headline(evaluation: Evaluation | None, name: str) -> tuple[str, float] | None:
    """The metric of that name, or the first; None where there is none."""
    if evaluation is None or not evaluation.metrics:
        return None
    chosen = name if name in evaluation.metrics else next(iter(evaluation.metrics))
    return chosen, evaluation.metrics[chosen]


def parse_evaluation(
    raw: Mapping[str, Any] | None, default_split: Literal["validation", "test"] = "validation"
) -> Evaluation | None:
    """The evaluation's readable parts; None where there is nothing."""
    if not isinstance(raw, Mapping):
        return None
    metrics, samples = raw.get("metrics"), raw.get("samples")
    measured = metrics if isinstance(metrics, Mapping) else {}
    return Evaluation(
        "test" if raw.get("split", default_split) == "test" else "validation",
        samples if isinstance(samples, int) else None,
        {str(name): float(value) for name, value in measured.items() if _is_number(value)},
        _confusion(raw.get("classes"), raw.get("confusion_matrix")),
        tuple(_class_row(row) for row in _mappings(raw.get("per_class"))),
        _curves(raw.get("roc"), "fpr", "tpr", "auc"),
        _curves(raw.get("pr"), "recall", "precision", "average_precision"),
        _residuals(raw),
    )


def _confusion(classes: Any, matrix: Any) -> Confusion | None:
    rows = [list(row) for row in matrix if _is_list(row)] if _is_list(matrix) else []
    size = len(rows)
    if size == 0 or any(len(row) != size or not all(_is_number(v) for v in row) for row in rows):
        return None
    named = _is_list(classes) and len(classes) == size
    names = [str(name) for name in classes] if named else [str(index) for index in range(size)]
    chosen, note = list(range(size)), ""
    if size > MAX_CLASSES:
        errors = [sum(rows[i]) + sum(row[i] for row in rows) - 2 * rows[i][i] for i in range(size)]
        chosen = sorted(sorted(range(size), key=lambda i: (-errors[i], i))[:MAX_CLASSES])
        note = f"The {MAX_CLASSES} of {size} classes with the most errors."
    counts = tuple(tuple(int(rows[i][j]) for j in chosen) for i in chosen)
    return Confusion(tuple(names[i] for i in chosen), counts, note)


def _class_row(row: Mapping[str, Any]) -> ClassRow:
    support, name = row.get("support"), str(row.get("class", "?"))
    precision, recall, f1 = (_number(row.get(key)) for key in ("precision", "recall", "f1"))
    return ClassRow(name, precision, recall, f1, int(support) if _is_number(support) else None)


def _curves(raw: Any, x_key: str, y_key: str, area_key: str) -> tuple[RateCurve, ...]:
    """The curves with the smallest areas where there are more than `MAX_RATE_CURVES`, in the given order."""
    curves = []
    for item in _mappings(raw):
        if shown := thin(_pairs(item.get(x_key), item.get(y_key)), 101):
            xs, ys = zip(*shown, strict=True)
            curves.append(RateCurve(str(item.get("class", "?")), xs, ys, _number(item.get(area_key))))
    if len(curves) <= MAX_RATE_CURVES:
        return tuple(curves)
    worst = sorted(curves, key=lambda curve: curve.area if curve.area is not None else 1.0)[:MAX_RATE_CURVES]
    return tuple(curve for curve in curves if curve in worst)


def _residuals(raw: Mapping[str, Any]) -> Residuals | None:
    shown = thin(_pairs(raw.get("predicted"), raw.get("actual")), MAX_SCATTER)
    if not shown:
        return None
    predicted, actual = zip(*shown, strict=True)
    return Residuals(predicted, actual, _number(raw.get("residual_std")))


def _pairs(xs: Any, ys: Any) -> list[tuple[float, float]]:
    """The numbers of two lists side by side, where both have one."""
    if not (_is_list(xs) and _is_list(ys) and len(xs) == len(ys)):
        return []
    return [(float(x), float(y)) for x, y in zip(xs, ys, strict=True) if _is_number(x) and _is_number(y)]


def _number(item: Any) -> float | None:
    return float(item) if _is_number(item) else None


def _is_number(item: Any) -> TypeGuard[int | float]:
    return isinstance(item, (int, float)) and not isinstance(item, bool) and math.isfinite(item)


def _is_list(item: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(item, Sequence) and not isinstance(item, (str, bytes))


def _mappings(raw: Any) -> list[Mapping[str, Any]]:
    return [item for item in raw if isinstance(item, Mapping)] if _is_list(raw) else []
