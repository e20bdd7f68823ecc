"""Parameters as axes, and which of them decided how trials rank."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hpo import text
from hpo.report.records import surrogate
from hpo.report.records.scores import Score, once, scores, thin
from storage.history.records import Direction, StudyHistory, TrialRecord

MIN_TRIALS = 8
NOISE = "not distinguishable from noise"


@dataclass(frozen=True)
class Axis:
    """One parameter. Numeric axes run from `low` to `high`; categorical ones over positions 0, 1, ..."""

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
        """The inverse of `unit`: the axis position of a place between 0 and 1."""
        if self.kind == "categorical":
            return unit * (len(self.choices) - 1)
        low, high = self._scaled(self.low), self._scaled(self.high)
        scaled = low + unit * (high - low)
        return math.exp(scaled) if self.log else scaled

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else value


@once
def axes(history: StudyHistory) -> tuple[Axis, ...]:
    """Every parameter any trial used, in order of first use.

    A range that changed between trials (an objective may suggest as it likes) becomes the widest; a parameter
    that was numeric in one trial and categorical in another becomes categorical.
    """
    alike: dict[tuple[str, ...], list[TrialRecord]] = {}  # trials by the names of their parameters
    for trial in history.trials:
        alike.setdefault(tuple(trial.params), []).append(trial)
    values: dict[str, list[Any]] = {}
    for names, trials in alike.items():
        columns = zip(*(trial.params.values() for trial in trials), strict=True)
        for name, column in zip(names, columns, strict=True):
            values.setdefault(name, []).extend(column)
    found: dict[str, list[BaseDistribution]] = {}
    for held in {id(trial.distributions): trial.distributions for trial in history.trials}.values():
        for name, distribution in held.items():
            found.setdefault(name, []).append(distribution)
    order = dict.fromkeys((*(history.spec.get("space") or ()), *values))
    return tuple(_axis(name, values[name], found.get(name, [])) for name in order if name in values)


def _axis(name: str, values: Sequence[Any], distributions: Iterable[BaseDistribution]) -> Axis:
    found = list(dict.fromkeys(distributions))
    numeric = [d for d in found if isinstance(d, FloatDistribution | IntDistribution)]
    types = set(map(type, values))
    if len(numeric) == len(found) and all(issubclass(t, int | float) and t is not bool for t in types):
        bounds = [*filter(math.isfinite, values), *(end for d in numeric for end in (d.low, d.high))]
        whole = all(issubclass(t, int) for t in types)
        low, high = float(min(bounds, default=0.0)), float(max(bounds, default=0.0))
        log = bool(numeric) and all(d.log for d in numeric) and low > 0
        return Axis(name, "int" if whole else "float", low, high, log, active=len(values))
    labels: dict[str, None] = {}
    for distribution in found:
        if isinstance(distribution, CategoricalDistribution):
            labels.update(dict.fromkeys(text.value(choice) for choice in distribution.choices))
    labels.update(dict.fromkeys(text.value(v) for v in values))
    return Axis(name, "categorical", choices=tuple(labels), active=len(values))


@dataclass(frozen=True)
class Importance:
    """One parameter; shares are of all parameters' importance, 0 to 1."""

    name: str
    share: float
    low: float  # ends of the 90 % interval
    high: float
    active: int  # trials that used the parameter

    @property
    def noise(self) -> bool:
        """Whether it cannot be told from a parameter without effect."""
        return self.low <= 0

    @property
    def said(self) -> str:
        """The share and its interval as a person reads them."""
        if self.noise:
            return NOISE
        share = f"{100 * self.share:.0f}" if self.share >= 0.01 else "under 1"
        return f"{share} % ({100 * self.low:.0f} to {100 * self.high:.0f})"


@dataclass(frozen=True)
class Importances:
    """Most important first; empty, with the reason in `note`, where they cannot be told."""

    entries: tuple[Importance, ...]
    trials: int  # trials it was measured on
    objective: int
    note: str


@once
def importances(history: StudyHistory, objective: int = 0) -> Importances:
    """What each parameter explains of how trials rank, as shares of 1 with intervals (`surrogate.explained`).

    Trials are ordered as Optuna's TPE does: complete ones by value, then pruned ones, the further they came
    the better; ranks, so that a few values far off count no more than others. The same history gives the same
    numbers. At most `surrogate.MAX_TRIALS` trials, evenly spaced in that order.

    What a sampler has gathered in one corner tells less: weak parameters look like noise there, where a
    judgement of one parameter at a time, as PED-ANOVA's, takes noise that moved along for an effect.
    """
    found = scores(history, objective)
    wanted = [axis for axis in axes(history) if not axis.single]
    if not wanted:
        return Importances((), 0, objective, "No parameter was varied.")
    if len(found) < MIN_TRIALS:
        note = f"Needs at least {MIN_TRIALS} trials with a value; there are {len(found)}."
        return Importances((), len(found), objective, note)
    if len({score.value for score in found}) == 1:
        return Importances((), len(found), objective, "Every trial has the same value.")
    used = thin(_ordered(found, history.directions[objective]), surrogate.MAX_TRIALS)
    places = tuple(placed(axis, (score.trial.params for score in used)) for axis in wanted)
    kinds = tuple(axis.kind == "categorical" for axis in wanted)
    measured = surrogate.explained(places, kinds, tuple(float(place) for place in range(len(used))))
    entries = [
        Importance(axis.name, *shares, axis.active)
        for axis, shares in zip(wanted, measured.shares, strict=True)
    ]
    entries.sort(key=lambda entry: (entry.noise, -entry.share, entry.name))
    of = f"{len(used):,} of {len(found):,}" if len(used) < len(found) else f"{len(used):,}"
    note = f"Over {of} trials; together parameters explain {100 * measured.all:.0f} % of how they rank."
    if any(score.pruned for score in used):
        note += " Pruned trials rank below complete ones, by how far they came."
    return Importances(tuple(entries), len(used), objective, note)


def placed(axis: Axis, points: Iterable[Mapping[str, Any]]) -> tuple[float, ...]:
    """Each point's place between 0 and 1; the middle where it does not use the parameter, which is then known
    by what it depends on."""
    places = (axis.unit(point[axis.name]) if axis.name in point else None for point in points)
    return tuple(0.5 if place is None else place for place in places)


def _ordered(found: tuple[Score, ...], direction: Direction) -> list[Score]:
    """Best first, as TPE sorts them: complete by value, then pruned by last step and value there."""
    sign = -1.0 if direction == "maximize" else 1.0
    return sorted(
        found,
        key=lambda score: (
            score.pruned,
            -max(score.trial.reports, default=0) if score.pruned else 0,
            sign * score.value,
            score.number,
        ),
    )


def most_important(history: StudyHistory, objective: int = 0) -> tuple[str, ...]:
    """Names, most important first; in the study file's order where importances cannot be told."""
    entries = importances(history, objective).entries
    if entries:
        return tuple(entry.name for entry in entries)
    return tuple(axis.name for axis in axes(history) if not axis.single)
