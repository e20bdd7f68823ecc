"""Study files and trials for tests of samplers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.search.samplers import needs_stored_trial, suggest
from hpo.search.space import distribution, random_point
from hpo.spec import StudySpec, parse_spec

SPACE: dict[str, Any] = {
    "lr": {"type": "float", "low": 1e-4, "high": 0.3, "log": True},
    "hidden": {"type": "int", "low": 16, "high": 256, "log": True},
    "layers": {"type": "int", "low": 1, "high": 3},
    "drop": {"type": "float", "low": 0, "high": 0.5, "step": 0.1},
    "opt": {"type": "categorical", "choices": ["sgd", "adam"]},
    "only": {"type": "categorical", "choices": ["one"]},
    "momentum": {"type": "float", "low": 0, "high": 0.99, "when": {"opt": ["sgd"]}},
    "width": {"type": "categorical", "choices": {"s": [8], "l": [64, 64]}, "when": {"layers": [2, 3]}},
}
NUMBERS: dict[str, Any] = {
    "x": {"type": "float", "low": -5, "high": 5},
    "y": {"type": "float", "low": -5, "high": 5},
    "n": {"type": "int", "low": 1, "high": 100, "log": True},
}


def spec(sampler: Any, space: dict[str, Any] | None = None, **more: Any) -> StudySpec:
    """A study of `SPACE`, minimized, unless `more` says otherwise."""
    base = {"study": "s", "objective": "m", "budget": {"trials": 1000}, "sampler": sampler}
    direction = {} if "directions" in more else {"direction": "minimize"}
    return parse_spec(base | direction | {"space": SPACE if space is None else space} | more)


def provisional(number: int = 0) -> FrozenTrial:
    """A trial that asks for its parameters before any storage holds it."""
    return FrozenTrial(
        number=number,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=None,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=-1,
    )


def loss(point: dict[str, Any]) -> float:
    """What is minimized over `SPACE`."""
    return (
        (math.log10(point["lr"]) + 2) ** 2
        + abs(point["hidden"] - 64) / 64
        + (0.0 if point["opt"] == "sgd" else 0.5)
        + abs(point.get("momentum", 0.5) - 0.9)
    )


def run(
    made: StudySpec, study: optuna.Study, trials: int, value: Callable[[dict[str, Any]], Any] = loss
) -> list[dict[str, Any]]:
    """Trials one after another, as a runner makes them: stored first where the sampler needs that."""
    points = []
    for ticket in range(trials):
        trial = provisional(ticket)
        if needs_stored_trial(made):
            trial = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
        point = suggest(made, study, trial, ticket, {})
        points.append(point)
        dists = {name: distribution(made.space[name]) for name in point}
        values = value(point)
        values = [values] if isinstance(values, float) else list(values)
        if trial._trial_id < 0:
            study.add_trial(create_trial(params=point, distributions=dists, values=values))
            continue
        for name, dist in dists.items():
            internal = dist.to_internal_repr(point[name])
            study._storage.set_trial_param(trial._trial_id, name, internal, dist)
        study._storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, values)
    return points


def history(study: optuna.Study, made: StudySpec, count: int, offset: int = 5000) -> None:
    """Complete trials at random points."""
    for ticket in range(offset, offset + count):
        point = random_point(made, 0, ticket)
        dists = {name: distribution(made.space[name]) for name in point}
        study.add_trial(create_trial(params=point, distributions=dists, value=loss(point)))


def sphere(point: dict[str, Any]) -> float:
    """Zero where x is 1, y is -2 and n is 10."""
    return float((point["x"] - 1) ** 2 + (point["y"] + 2) ** 2 + math.log(point["n"] / 10) ** 2)
