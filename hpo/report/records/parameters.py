"""Parameters as axes, and which of them decided whether a trial ended among the best."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.report import text
from hpo.report.records.scores import Score, scores, thin
from storage.history.records import Direction, StudyHistory, TrialRecord

MIN_TRIALS = 8
MAX_TRIALS = 2000
TOP_SHARE = 0.1
MIN_TOP_TRIALS = 15  # fewer, and chance decides what the best have in common


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


@dataclass(frozen=True)
class Importance:
    name: str
    share: float  # of all parameters' importance, 0 to 1
    active: int  # trials that used the parameter


@dataclass(frozen=True)
class Importances:
    """Most important first; empty, with the reason in `note`, where they cannot be told."""

    entries: tuple[Importance, ...]
    trials: int  # trials it was measured on
    objective: int
    note: str


def importances(history: StudyHistory, objective: int = 0) -> Importances:
    """PED-ANOVA importances (Watanabe et al., IJCAI 2023; its conditional form, KDD 2026), as shares of 1.

    Measures how differently a parameter is distributed among the best tenth of the trials (at least fifteen,
    at most half) and among all. Trials are ordered as Optuna's TPE does: complete ones by value, then pruned
    ones, the further they came the better. It fits no random model, so the same history gives the same
    numbers. At most `MAX_TRIALS` trials, evenly spaced in that order.
    """
    found = scores(history, objective)
    wanted = {axis.name: axis for axis in axes(history) if not axis.single}
    if not wanted:
        return Importances((), 0, objective, "No parameter was varied.")
    if len(found) < MIN_TRIALS:
        note = f"Needs at least {MIN_TRIALS} trials with a value; there are {len(found)}."
        return Importances((), len(found), objective, note)
    if len({score.value for score in found}) == 1:
        return Importances((), len(found), objective, "Every trial has the same value.")
    used = thin(_ordered(found, history.directions[objective]), MAX_TRIALS)
    # With one tenth a small study would be judged by one or two trials.
    top = min(0.5, max(TOP_SHARE, MIN_TOP_TRIALS / len(used)))
    shares = _evaluate(used, wanted, top)
    entries = [Importance(name, share, wanted[name].active) for name, share in shares.items()]
    entries.sort(key=lambda entry: (-entry.share, entry.name))
    note = f"Over {len(used):,} trials; {round(top * len(used)):,} of them count as the best."
    if any(score.pruned for score in used):
        note += " Pruned trials rank below complete ones, by how far they came."
    return Importances(tuple(entries), len(used), objective, note)


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


def _evaluate(used: tuple[Score, ...], wanted: dict[str, Axis], top: float) -> dict[str, float]:
    """Shares by name, from a study rebuilt in memory with the trials' places as values.

    All zero where the best are like the rest.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator  # brings scikit-learn: two seconds
    from optuna.trial import create_trial

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="minimize")
        for place, score in enumerate(used):
            params, distributions = _rebuilt(score, wanted)
            study.add_trial(create_trial(params=params, distributions=distributions, value=float(place)))
        names = sorted({name for trial in study.get_trials(deepcopy=False) for name in trial.params})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = PedAnovaImportanceEvaluator(target_quantile=top).evaluate(study, names)
    finally:
        optuna.logging.set_verbosity(verbosity)
    total = sum(raw.values())
    return {name: float(share) / total if total > 0 else 0.0 for name, share in raw.items()}


def _rebuilt(score: Score, wanted: dict[str, Axis]) -> tuple[dict[str, object], dict[str, BaseDistribution]]:
    """The trial's parameters on the axes' ranges, so that a range is one regime however it was suggested."""
    params: dict[str, object] = {}
    distributions: dict[str, BaseDistribution] = {}
    for name, axis in wanted.items():
        position = axis.position(score.trial.params[name]) if name in score.trial.params else None
        if position is None:
            continue
        if axis.kind == "categorical":
            distributions[name] = CategoricalDistribution(axis.choices)
            params[name] = axis.choices[int(position)]
        elif axis.kind == "int":
            distributions[name] = IntDistribution(int(axis.low), int(axis.high), log=axis.log)
            params[name] = int(position)
        else:
            distributions[name] = FloatDistribution(axis.low, axis.high, log=axis.log)
            params[name] = position
    return params, distributions


def most_important(history: StudyHistory, objective: int = 0) -> tuple[str, ...]:
    """Names, most important first; in the study file's order where importances cannot be told."""
    entries = importances(history, objective).entries
    if entries:
        return tuple(entry.name for entry in entries)
    return tuple(axis.name for axis in axes(history) if not axis.single)
