"""Learning curves of all trials, and every metric of one trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hpo.report.records.scores import best_trial, shown_note, step_name, thin, value_axis
from hpo.search.history import Direction, StudyHistory, TrialRecord, TrialStateName

MAX_CURVES = 300
MAX_CURVE_POINTS = 200
MAX_METRICS = 12


@dataclass(frozen=True)
class Curve:
    """What one trial reported, finite values only. ``broken``: it also reported NaN or infinity."""

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


@dataclass(frozen=True)
class MetricCurve:
    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


def learning_curves(history: StudyHistory) -> LearningCurves | None:
    """Reported values per step; None where nothing finite was reported.

    At most ``MAX_CURVES`` trials (the best and the running ones always) with ``MAX_CURVE_POINTS`` steps each.
    """
    winner = best_trial(history) if len(history.directions) == 1 else None
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
    shown = thin(curves, MAX_CURVES, lambda c: c.best or (c.state == "running" and running <= MAX_CURVES))
    note = shown_note(len(shown), len(curves), "curves")
    return LearningCurves(shown, step_name(history), value_axis(history), history.directions[0], note)


def metric_curves(trial: TrialRecord) -> tuple[MetricCurve, ...]:
    """Every named metric of a trial over its steps, by name: finite values, the first ``MAX_METRICS``."""
    curves = []
    for name in sorted(trial.metrics):
        steps, values = _finite(trial.metrics[name])
        if steps:
            curves.append(MetricCurve(name, steps, values))
    return tuple(curves[:MAX_METRICS])


def _finite(series: Mapping[int, float]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    points = [(step, float(series[step])) for step in sorted(series) if math.isfinite(series[step])]
    shown = thin(points, MAX_CURVE_POINTS)
    return tuple(step for step, _ in shown), tuple(value for _, value in shown)
