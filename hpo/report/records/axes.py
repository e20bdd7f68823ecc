"""Parameters as axes: range, scale and where a value lies on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.report import text
from hpo.search.history import StudyHistory, TrialRecord


@dataclass(frozen=True)
class Axis:
    """One parameter. Numeric axes run from ``low`` to ``high``; categorical ones over positions 0, 1, ..."""

    name: str
    kind: Literal["float", "int", "categorical"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[str, ...] = ()  # labels, in the order of the study file
    active: int = 0  # trials that used the parameter

    @property
    def single(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.choices) < 2 if self.kind == "categorical" else self.low >= self.high

    def position(self, value: Any) -> float | None:
        """The value on the axis (a categorical one by its index); None where it has no place."""
        if self.kind == "categorical":
            shown = text.value(value)
            return float(self.choices.index(shown)) if shown in self.choices else None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        return None if self.log and value <= 0 else float(value)

    def unit(self, value: Any) -> float | None:
        """The value's place between 0 (low) and 1 (high), on the axis's own scale."""
        position = self.position(value)
        if position is None:
            return None
        if self.kind == "categorical":
            return 0.5 if len(self.choices) < 2 else position / (len(self.choices) - 1)
        if self.low >= self.high:
            return 0.5
        low, high = self._scaled(self.low), self._scaled(self.high)
        return min(1.0, max(0.0, (self._scaled(position) - low) / (high - low)))

    def at(self, unit: float) -> float:
        """The inverse of ``unit``: the axis position of a place between 0 and 1."""
        if self.kind == "categorical":
            return unit * (len(self.choices) - 1)
        low, high = self._scaled(self.low), self._scaled(self.high)
        scaled = low + unit * (high - low)
        return math.exp(scaled) if self.log else scaled

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else value


def axes(history: StudyHistory) -> tuple[Axis, ...]:
    """Every parameter any trial used, in order of first use.

    A range that changed between trials (an objective may suggest as it likes) becomes the widest; a parameter
    that was numeric in one trial and categorical in another becomes categorical.
    """
    users: dict[str, list[TrialRecord]] = {}
    for trial in history.trials:
        for name in trial.params:
            users.setdefault(name, []).append(trial)
    declared = history.spec.get("space")
    order = list(declared) if isinstance(declared, Mapping) else []
    names = [name for name in order if name in users] + [name for name in users if name not in order]
    return tuple(_axis(name, users[name]) for name in names)


def _axis(name: str, trials: Iterable[TrialRecord]) -> Axis:
    trials = list(trials)
    found = list(dict.fromkeys(t.distributions[name] for t in trials if name in t.distributions))
    numeric = [d for d in found if isinstance(d, FloatDistribution | IntDistribution)]
    values = [trial.params[name] for trial in trials]
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) == len(values) and len(numeric) == len(found):
        bounds = [float(v) for v in numbers if math.isfinite(v)]
        bounds += [float(d.low) for d in numeric] + [float(d.high) for d in numeric]
        whole = all(isinstance(v, int) for v in numbers)
        low, high = min(bounds, default=0.0), max(bounds, default=0.0)
        log = bool(numeric) and all(d.log for d in numeric) and low > 0
        return Axis(name, "int" if whole else "float", low, high, log, active=len(trials))
    labels: dict[str, None] = {}
    for distribution in found:
        if isinstance(distribution, CategoricalDistribution):
            labels.update(dict.fromkeys(text.value(choice) for choice in distribution.choices))
    labels.update(dict.fromkeys(text.value(v) for v in values))
    return Axis(name, "categorical", choices=tuple(labels), active=len(trials))
