"""Which parameters decided whether a trial ended among the best."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.report.records.axes import Axis, axes
from hpo.report.records.scores import Score, scores, thin
from hpo.search.history import Direction, StudyHistory

MIN_TRIALS = 8
MAX_TRIALS = 2000
TOP_SHARE = 0.1
MIN_TOP_TRIALS = 15  # fewer, and chance decides what the best have in common


@dataclass(frozen=True)
class Importance:
    name: str
    share: float  # of all parameters' importance, 0 to 1
    active: int  # trials that used the parameter


@dataclass(frozen=True)
class Importances:
    """Most important first; empty, with the reason in ``note``, where they cannot be told."""

    entries: tuple[Importance, ...]
    trials: int  # trials it was measured on
    objective: int
    note: str


def importances(history: StudyHistory, objective: int = 0) -> Importances:
    """PED-ANOVA importances (Watanabe et al., IJCAI 2023; its conditional form, KDD 2026), as shares of 1.

    Measures how differently a parameter is distributed among the best tenth of the trials (at least fifteen,
    at most half) and among all. Trials are ordered as Optuna's TPE does: complete ones by value, then pruned
    ones, the further they came the better. It fits no random model, so the same history gives the same
    numbers. At most ``MAX_TRIALS`` trials, evenly spaced in that order.
    """
    found = scores(history, objective)
    wanted = {axis.name: axis for axis in axes(history) if not axis.single}
    if not wanted:
        return Importances((), len(found), objective, "No parameter was varied.")
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
