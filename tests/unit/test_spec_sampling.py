"""Sampler, pruner and budget of a study file."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.study_files import complaint, study


@pytest.mark.parametrize("name", ["random", "tpe", "rungs", "gp", "cmaes", "qmc", "nsga2", "nsga3"])
def test_a_bare_sampler_name_takes_its_defaults(name: str) -> None:
    spec = study(sampler=name)
    assert spec.sampler.name == name
    assert spec == study(sampler={"name": name})


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (
            "tep",
            "must be one of grid, random, tpe, rungs, gp, cmaes, qmc, nsga2, nsga3, custom, auto, got 'tep';",
        ),
        ({"seed": 3}, "sampler.name is required: one of grid, random"),
        (
            {"name": "random", "n_startup_trials": 3},
            "sampler.n_startup_trials is unknown (allowed: seed, name)",
        ),
        ({"name": "tpe", "n_startup": 3}, "sampler.n_startup is unknown; did you mean 'n_startup_trials'?"),
        ({"name": "tpe", "seed": -1}, "sampler.seed must be at least 0, got -1"),
        ({"name": "tpe", "seed": None}, "sampler.seed must be a whole number, got null"),
        ({"name": "rungs", "warm": -1}, "sampler.warm must be at least 0, got -1"),
        ("rung", "got 'rung'; did you mean 'rungs'?"),
        ({"name": "tpe", "group": True, "multivariate": False}, "sampler.group needs `multivariate`"),
        (
            {"name": "cmaes", "lr_adapt": True, "with_margin": True},
            "sampler.lr_adapt cannot be combined with with_margin",
        ),
        ({"name": "nsga2", "population_size": 1}, "sampler.population_size must be at least 2, got 1"),
        (
            {"name": "nsga2", "population_size": 2, "crossover": "undx"},
            "population_size must be at least 3 for undx",
        ),
        ({"name": "nsga2", "crossover": "undxx"}, "sampler.crossover must be 'uniform', 'blxalpha'"),
        ({"name": "nsga2", "mutation_prob": 1.5}, "sampler.mutation_prob must be at most 1, got 1.5"),
        (3, "sampler must be a mapping"),
        (None, "sampler must be a mapping"),
    ],
)
def test_a_wrong_sampler_gets_a_sentence(sampler: Any, message: str) -> None:
    assert message in complaint(sampler=sampler)


@pytest.mark.parametrize(
    ("pruner", "message"),
    [
        ("medain", "got 'medain'; did you mean 'median'?"),
        ("asha", "pruner.max_epochs is required"),
        ("hyperband", "pruner.max_epochs is required"),
        ({"name": "asha", "max_epochs": "auto"}, "pruner.max_epochs must be a whole number, got 'auto'"),
        (
            {"name": "asha", "max_epochs": 3, "min_epochs": 3},
            "pruner.min_epochs must be below max_epochs (3), got 3",
        ),
        (
            {"name": "asha", "max_epochs": 9, "reduction_factor": 1},
            "pruner.reduction_factor must be at least 2",
        ),
        ({"name": "median", "n_warmup_steps": -1}, "pruner.n_warmup_steps must be at least 0, got -1"),
        ({"name": "percentile"}, "pruner.percentile is required"),
        ({"name": "percentile", "percentile": 101}, "pruner.percentile must be at most 100, got 101"),
        ({"name": "threshold"}, "pruner needs `lower`, `upper` or both"),
        ({"name": "threshold", "lower": 2, "upper": 1}, "pruner.lower must be below upper (1.0), got 2.0"),
        ({"name": "patient"}, "pruner.patience is required"),
        ({"name": "patient", "patience": 1, "wrapped": "none"}, "pruner.wrapped.name must be one of median"),
        (
            {"name": "patient", "patience": 1, "wrapped": {"name": "patient"}},
            "pruner.wrapped must not be another patient",
        ),
        (
            {"name": "patient", "patience": 1, "wrapped": {"name": "asha"}},
            "pruner.wrapped.max_epochs is required",
        ),
        (
            {"name": "asha", "max_epochs": 9, "mode": "promote", "bootstrap_count": 2},
            "pruner.bootstrap_count has no meaning with `mode: promote`",
        ),
        (
            {
                "name": "patient",
                "patience": 1,
                "wrapped": {"name": "asha", "max_epochs": 9, "mode": "promote"},
            },
            "pruner.wrapped.mode cannot be promote here",
        ),
        (
            {"name": "patient", "patience": 1, "wrapped": "medan"},
            "pruner.wrapped.name must be one of median",
        ),
    ],
)
def test_a_wrong_pruner_gets_a_sentence(pruner: Any, message: str) -> None:
    assert message in complaint(pruner=pruner)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"trials": 0}, "budget.trials must be at least 1, got 0"),
        ({"trials": -3}, "budget.trials must be at least 1, got -3"),
        ({"trials": 10**9}, "budget.trials must be at most 1,000,000"),
        ({"trials": 2.5}, "budget.trials must be a whole number, got 2.5"),
        ({"seconds": 0}, "budget.seconds must be above 0, got 0"),
        ({"seconds": -1}, "budget.seconds must be above 0, got -1"),
        ({"seconds": "1h"}, "budget.seconds must be a number of seconds, like 3600, got '1h'"),
        ({"target": float("nan")}, "budget.target must be a finite number"),
        ({"trails": 3}, "budget.trails is unknown; did you mean 'trials'?"),
        ({}, "budget needs trials, seconds, epochs, target or patience: tpe would never end"),
        ({"epochs": 100}, "budget.epochs must be told how many a trial has: set fixed.epochs, or max_epochs"),
        (5, "budget must be a mapping like {trials: 60}, got 5"),
    ],
)
def test_a_wrong_budget_gets_a_sentence(budget: Any, message: str) -> None:
    assert message in complaint(budget=budget)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retry": {"lost": -1}}, "retry.lost must be at least 0, got -1"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"trial_timeout": 0}, "trial_timeout must be above 0, got 0"),
        ({"report_timeout": "no"}, "report_timeout must be a number of seconds, like 3600, got 'no'"),
        ({"notes": 3}, "notes must be text, got 3"),
        ({"fixed": {"x": 1}}, "fixed.x stands under `space` too"),
        ({"fixed": {"a": {"b": float("nan")}}}, "fixed.a.b must be a finite number, got nan"),
        ({"fixed": {"a": {1: 2}}}, "fixed.a has the key 1; keys must be text"),
        ({"fixed": [1]}, "fixed must be a mapping from names to fixed values"),
        ({"objctive": "m"}, "objctive is unknown; did you mean 'objective'?"),
        ({"max_trials": 3}, "max_trials is unknown (allowed: study, objective, command, direction, sampler"),
        ({"confirm": {"in_budget": True}}, "confirm.in_budget needs a budget of epochs: set budget.epochs"),
        (
            {"confirm": {"top": 3, "in_budget": True}, "budget": {"epochs": 92}, "fixed": {"epochs": 3}},
            "budget.epochs must be at least the 93 of one trial and of the confirmation, got 92",
        ),
        ({"sampler": "qmc", "space": {}}, "space is required: the qmc sampler must know every parameter"),
    ],
)
def test_other_mistakes_get_a_sentence(changes: dict[str, Any], message: str) -> None:
    assert message in complaint(**changes)
