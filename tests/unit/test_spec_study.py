"""What a study file may say, and the sentence for what it may not."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hpo.errors import SpecError, UserError
from hpo.spec import (
    StudySpec,
    config_value,
    load_spec,
    parse_spec,
    resolve,
    spec_differences,
    validate_study_name,
)

FULL = """\
study: digits-mlp
objective: objectives.classifier
direction: maximize
sampler: {name: tpe, seed: 0}
pruner: {name: asha, min_epochs: 1, max_epochs: 20, reduction_factor: 3}
budget: {trials: 60, seconds: 3600, target: 0.985}
retry: {lost: 3, failed: 0}
enqueue: [{lr: 0.01, hidden: 64, optimizer: adam}]
threads: 1
space:
  lr:        {type: float, low: 1.0e-4, high: 0.3, log: true}
  hidden:    {type: int, low: 16, high: 256, log: true}
  optimizer: {type: categorical, choices: [sgd, momentum, adam, adamw]}
  momentum:  {type: float, low: 0.0, high: 0.99, when: {optimizer: [momentum]}}
fixed: {dataset: digits, epochs: 20, batch_size: 64}
"""

BASE: dict[str, Any] = {
    "study": "s",
    "objective": "m",
    "direction": "minimize",
    "budget": {"trials": 5},
    "space": {"x": {"type": "float", "low": 0, "high": 1}},
}


def study(**changes: Any) -> StudySpec:
    return parse_spec(BASE | changes)


def complaint(**changes: Any) -> str:
    with pytest.raises(SpecError) as caught:
        study(**changes)
    return str(caught.value)


def space(**parameters: Any) -> dict[str, Any]:
    return {"space": parameters}


def in_full(line: str, *overrides: str) -> str:
    """The complaint about the full file with `line` put in place of the line with the same key."""
    key = line.split(":")[0]
    lines = [line if old.split(":")[0] == key else old for old in FULL.splitlines()]
    with pytest.raises(SpecError) as caught:
        parse_spec("\n".join(lines), "digits.yaml", overrides)
    return str(caught.value)


# The whole file


def test_the_documented_study_file_is_accepted() -> None:
    spec = parse_spec(FULL)
    assert spec.directions == ("maximize",)
    assert spec.sampler.name == "tpe"
    assert spec.sampler.seed == 0
    assert spec.budget.target == 0.985
    assert list(spec.space) == ["lr", "hidden", "optimizer", "momentum"]
    assert spec.enqueue == ({"lr": 0.01, "hidden": 64, "optimizer": "adam"},)
    assert spec.fixed["batch_size"] == 64
    assert spec.tickets == 60


def test_the_smallest_study_file_has_documented_defaults() -> None:
    spec = parse_spec("study: s\nobjective: m\ndirection: minimize\nbudget: {seconds: 1}")
    assert (spec.sampler.name, spec.sampler.seed, spec.pruner.name) == ("tpe", 0, "none")
    assert (spec.retry.lost, spec.retry.failed, spec.threads) == (3, 0, 1)
    assert spec.space == {}
    assert spec.fixed == {}
    assert spec.tickets is None


def test_a_stored_spec_reads_back_as_the_same_spec() -> None:
    spec = parse_spec(FULL)
    stored = json.loads(json.dumps(spec.model_dump(mode="json")))
    assert StudySpec.model_validate(stored) == spec
    assert StudySpec.model_validate(stored).digest == spec.digest


def test_a_spec_cannot_be_changed() -> None:
    spec = study()
    with pytest.raises(ValidationError):
        spec.study = "other"  # type: ignore[misc]


def test_every_problem_is_told_at_once_with_its_line() -> None:
    text = FULL.replace("trials: 60", "trials: 0").replace("threads: 1", "threads: many")
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "digits.yaml")
    assert str(caught.value).splitlines() == [
        "digits.yaml, line 6: budget.trials must be at least 1, got 0",
        "digits.yaml, line 9: threads must be a whole number, got 'many'",
    ]


def test_at_most_ten_problems_are_told() -> None:
    lines = complaint(fixed=1, **{f"key{i}": 1 for i in range(30)}).splitlines()
    assert len(lines) == 11
    assert lines[-1].startswith("... and ")


def test_a_wrong_study_file_is_the_users_mistake() -> None:
    assert issubclass(SpecError, UserError)
    assert SpecError.exit_code == 2


@pytest.mark.parametrize("text", ["[1, 2]", "hello", "3", "null"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"spec.*: must be a mapping with at least study, objective"):
        parse_spec(text)


@pytest.mark.parametrize("key", ["study", "objective"])
def test_required_fields_are_named(key: str) -> None:
    data = {name: value for name, value in BASE.items() if name != key}
    with pytest.raises(SpecError, match=f"spec: {key} is required"):
        parse_spec(data)


# Names


@pytest.mark.parametrize("name", ["digits-mlp", "a", "A 1", "x_2", "v1.2+b", "größe", "数字", "x" * 66])
def test_a_study_can_have_this_name(name: str) -> None:
    assert study(study=name).study == name
    assert validate_study_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "must not be empty"),
        (" ", "must start with a letter or digit"),
        ("..", "must start with a letter or digit"),
        (".hidden", "must start with a letter or digit"),
        ("../../etc/passwd", "must start with a letter or digit"),
        ("a/b", "hold only letters, digits, spaces"),
        ("a\\b", "hold only letters"),
        ("'; DROP TABLE studies; --", "must start with a letter or digit"),
        ("x'; DROP TABLE studies; --", "hold only letters"),
        ("a\0b", "cannot be printed"),
        ("a\nb", "cannot be printed"),
        ("a\u202eb", "cannot be printed"),
        ("<script>", "must start with"),
        ("ends.", "not end in a dot"),
        ("ends ", "not end in a dot or space"),
        ("x" * 600, "has 600 characters"),
        ("字" * 90, "200 bytes"),
        (5, "must be text, got 5; put it in quotes"),
        (None, "must be text, got null"),
        (True, "must be text, got true"),
    ],
)
def test_a_study_cannot_have_this_name(name: Any, why: str) -> None:
    message = complaint(study=name)
    assert message.startswith("spec: study ")
    assert why in message
    assert len(message) < 400
    assert "\0" not in message
    with pytest.raises(SpecError, match="the study's name "):
        validate_study_name(name)


def test_names_are_composed_so_that_equal_looking_ones_are_equal() -> None:
    assert study(study="gro\u0308ße").study == "größe"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "a parameter needs a name that is not empty"),
        ("x" * 101, "has 101 characters; at most 100"),
        ("a\nb", "cannot be printed"),
        (1, "the name 1 must be text"),
        (True, "the name true must be text"),
    ],
)
def test_a_parameter_cannot_have_this_name(name: Any, why: str) -> None:
    assert why in complaint(space={name: {"type": "int", "low": 0, "high": 1}})


# Objective


@pytest.mark.parametrize(
    ("text", "module", "file", "name"),
    [
        ("objectives.classifier", "objectives.classifier", None, "objective"),
        ("m:train", "m", None, "train"),
        ("m:Trainer.run", "m", None, "Trainer.run"),
        ("train.py", None, "train.py", "objective"),
        ("path/to/file.py:run", None, "path/to/file.py", "run"),
        ("../x y/file.py:run", None, "../x y/file.py", "run"),
        ("C:\\code\\file.py", None, "C:\\code\\file.py", "objective"),
        ("C:\\code\\file.py:run", None, "C:\\code\\file.py", "run"),
    ],
)
def test_an_objective_is_a_module_or_a_file(
    text: str, module: str | None, file: str | None, name: str
) -> None:
    path = study(objective=text).objective_path
    assert (path.module, path.file, path.callable) == (module, file, name)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must name a callable"),
        (None, "must name a callable"),
        ("a/b", "a file's name ends in .py"),
        ("a-b", "is neither a module nor a .py file"),
        ("m:", "no valid callable after the colon"),
        ("m:1x", "no valid callable"),
        ("m:f()", "no valid callable"),
        ("m\0:f", "must be printable"),
        ("x" * 2000, "at most 1000 characters"),
        (3, "must name a callable"),
    ],
)
def test_anything_else_is_no_objective(text: Any, why: str) -> None:
    assert why in complaint(objective=text)


# Directions


def test_several_directions_keep_their_order() -> None:
    data = {key: value for key, value in BASE.items() if key != "direction"}
    spec = parse_spec(data | {"directions": ["maximize", "minimize"]})
    assert spec.directions == ("maximize", "minimize")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"directions": ["minimize"]}, "direction cannot stand beside `directions`"),
        (
            {"direction": "minimise"},
            "direction must be minimize or maximize, got 'minimise'; did you mean 'minimize'?",
        ),
        ({"direction": ["minimize"]}, "direction must be minimize or maximize, got ['minimize']"),
        ({"direction": None}, "direction must be minimize or maximize, got null"),
    ],
)
def test_a_direction_is_one_of_two_words(changes: dict[str, Any], message: str) -> None:
    assert message in complaint(**changes)


def test_a_misspelt_direction_is_told_beside_the_missing_one() -> None:
    data = {key: value for key, value in BASE.items() if key != "direction"} | {"directon": "minimize"}
    with pytest.raises(SpecError) as caught:
        parse_spec(data)
    assert "spec: direction is required: minimize or maximize" in str(caught.value)
    assert "spec: directon is unknown; did you mean 'direction'?" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "direction is required"),
        ({"directions": []}, "directions must hold at least one"),
        ({"directions": ["minimize", "up"]}, "directions.1 must be minimize or maximize, got 'up'"),
        ({"directions": ["minimize"] * 2, "pruner": "median"}, "pruner cannot prune with several directions"),
        ({"directions": ["minimize"] * 2, "budget": {"target": 1}}, "budget.target needs a single direction"),
        ({"directions": ["minimize"] * 2, "sampler": "cmaes"}, "sampler.name cmaes needs a single direction"),
    ],
)
def test_several_directions_exclude_what_needs_one(changes: dict[str, Any], message: str) -> None:
    data = {key: value for key, value in BASE.items() if key != "direction"}
    with pytest.raises(SpecError) as caught:
        parse_spec(data | changes)
    assert message in str(caught.value)


# Parameters


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (
            {"type": "float", "low": 1, "high": 1},
            "low must be below high (1), got 1; a constant belongs under `fixed`",
        ),
        ({"type": "float", "low": 2, "high": 1}, "space.p.low must be below high (1), got 2"),
        ({"type": "int", "low": 2, "high": 1}, "space.p.low must be below high (1), got 2"),
        (
            {"type": "float", "low": 0, "high": 1, "log": True},
            "space.p.low must be above 0 on a log scale, got 0",
        ),
        (
            {"type": "int", "low": 0, "high": 9, "log": True},
            "space.p.low must be at least 1 on a log scale, got 0",
        ),
        ({"type": "float", "low": -1, "high": 1, "log": True}, "low must be above 0 on a log scale, got -1"),
        ({"type": "float", "low": 0, "high": float("inf")}, "space.p.high must be a finite number, got inf"),
        ({"type": "float", "low": float("nan"), "high": 1}, "space.p.low must be a finite number, got nan"),
        ({"type": "float", "low": 0, "high": 10**400}, "space.p.high must be a finite number"),
        ({"type": "float", "low": "0.1", "high": 1}, "space.p.low must be a number, got '0.1'"),
        ({"type": "float", "low": False, "high": 1}, "space.p.low must be a number, got false"),
        ({"type": "int", "low": 0.5, "high": 1}, "space.p.low must be a whole number, got 0.5"),
        ({"type": "int", "low": 0, "high": 2**60}, "must lie between -2**53 and 2**53"),
        ({"type": "int", "low": 0}, "space.p.high is required"),
        ({"type": "float", "low": 0, "high": 1, "log": 1}, "space.p.log must be true or false, got 1"),
        (
            {"type": "float", "low": 0, "high": 1, "log": "yes"},
            "space.p.log must be true or false, got 'yes'",
        ),
        ({"type": "float", "low": 0, "high": 1, "step": 0}, "space.p.step must be above 0, got 0"),
        ({"type": "float", "low": 0, "high": 1, "step": -0.1}, "space.p.step must be above 0, got -0.1"),
        ({"type": "float", "low": 0, "high": 1, "step": 2}, "space.p.step must not be larger than the range"),
        ({"type": "int", "low": 0, "high": 4, "step": 5}, "space.p.step must not be larger than the range"),
        (
            {"type": "float", "low": 1, "high": 9, "step": 1, "log": True},
            "step cannot be combined with a log scale",
        ),
        (
            {"type": "int", "low": 1, "high": 9, "step": 2, "log": True},
            "step cannot be combined with a log scale",
        ),
        ({"type": "float", "low": 0, "high": 1, "points": 1}, "space.p.points must be at least 2, got 1"),
        ({"type": "float", "low": 0, "high": 1, "points": []}, "space.p.points must hold at least one value"),
        (
            {"type": "float", "low": 0, "high": 1, "points": [0.5, 2]},
            "space.p.points.1 must lie between low (0) and high",
        ),
        (
            {"type": "float", "low": 0, "high": 1, "points": [0.5, 0.5]},
            "space.p.points.1 repeats the value 0.5",
        ),
        (
            {"type": "float", "low": 0, "high": 1, "points": [0.5, "a"]},
            "space.p.points.1 must be a number, got 'a'",
        ),
        (
            {"type": "float", "low": 0, "high": 1, "points": "3"},
            "space.p.points must be a whole number, got '3'",
        ),
        (
            {"type": "int", "low": 0, "high": 9, "step": 3, "points": [0, 4]},
            "points.1 must be 0 plus a multiple of the step 3",
        ),
        ({"type": "float", "low": 0, "high": 1, "choices": [1]}, "space.p.choices is unknown"),
        ({"type": "float", "lo": 0, "high": 1}, "space.p.lo is unknown; did you mean 'low'?"),
        ({"type": "categorical"}, "space.p.choices is required"),
        ({"type": "categorical", "choices": []}, "space.p.choices must hold at least one choice"),
        ({"type": "categorical", "choices": {}}, "space.p.choices must hold at least one choice"),
        (
            {"type": "categorical", "choices": "abc"},
            "space.p.choices must be a list, or a mapping from labels",
        ),
        (
            {"type": "categorical", "choices": None},
            "space.p.choices must be a list, or a mapping from labels",
        ),
        ({"type": "categorical", "choices": ["a", "b", "a"]}, "space.p.choices.2 repeats the choice 'a'"),
        ({"type": "categorical", "choices": [1, 1.0]}, "repeats the choice 1.0 (1 and 1.0 are equal)"),
        ({"type": "categorical", "choices": [True, 1]}, "repeats the choice 1 (true and 1 are equal)"),
        ({"type": "categorical", "choices": [float("nan")]}, "choices.0 must be a finite number, got nan"),
        ({"type": "categorical", "choices": [[64, 32]]}, "needs a label, because it is not a single value"),
        (
            {"type": "categorical", "choices": ["x" * 201]},
            "choices.0 is a text of 201 characters; at most 200",
        ),
        (
            {"type": "categorical", "choices": {"a": float("inf")}},
            "choices.0 must be a finite number, got inf",
        ),
        (
            {"type": "flaot", "low": 0, "high": 1},
            "space.p.type must be one of float, int, categorical, got 'flaot'; did",
        ),
        ({"low": 0, "high": 1}, "space.p.type is required: one of float, int, categorical"),
        (3, "space.p must be a mapping"),
        (None, "space.p must be a mapping"),
    ],
)
def test_a_wrong_parameter_gets_a_sentence(parameter: Any, message: str) -> None:
    assert message in complaint(**space(p=parameter))


def test_a_space_is_a_mapping() -> None:
    assert "space must be a mapping from names to parameters, got ['x']" in complaint(space=["x"])


def test_choices_may_be_of_any_single_type() -> None:
    spec = study(**space(p={"type": "categorical", "choices": ["a", 2, 0.5, True, None]}))
    parameter = spec.space["p"]
    assert parameter.type == "categorical"
    assert parameter.labels == ("a", 2, 0.5, True, None)
    assert spec.model_dump(mode="json")["space"]["p"]["choices"] == ["a", 2, 0.5, True, None]


@pytest.mark.parametrize(
    "choices",
    [
        {"small": [64, 32], "large": {"widths": [256], "dropout": 0.5}},
        [
            {"label": "small", "value": [64, 32]},
            {"label": "large", "value": {"widths": [256], "dropout": 0.5}},
        ],
    ],
)
def test_a_labelled_choice_shows_its_label_and_hands_over_its_value(choices: Any) -> None:
    spec = study(**space(net={"type": "categorical", "choices": choices}))
    parameter = spec.space["net"]
    assert parameter.type == "categorical"
    assert parameter.labels == ("small", "large")
    assert config_value(spec, "net", "small") == [64, 32]
    assert config_value(spec, "net", "large") == {"widths": [256], "dropout": 0.5}
    stored = StudySpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json"))))
    assert stored == spec


def test_resolve_joins_fixed_values_and_parameters() -> None:
    spec = study(
        fixed={"epochs": 3, "sizes": [1, 2]},
        **space(n={"type": "categorical", "choices": {"a": [1], "b": [2]}}),
    )
    config = resolve(spec, {"n": "b", "made_up_by_the_objective": 7})
    assert config == {"epochs": 3, "sizes": [1, 2], "n": [2], "made_up_by_the_objective": 7}


def test_one_trial_cannot_change_the_values_of_the_next() -> None:
    spec = study(fixed={"sizes": [1, 2]}, **space(n={"type": "categorical", "choices": {"a": [1], "b": [2]}}))
    config = resolve(spec, {"n": "a"})
    config["sizes"].append(3)
    config["n"].append(3)
    assert resolve(spec, {"n": "a"}) == {"sizes": [1, 2], "n": [1]}


# Conditions


def tree(**when: Any) -> dict[str, Any]:
    return space(
        opt={"type": "categorical", "choices": ["sgd", "adam"]},
        layers={"type": "int", "low": 1, "high": 5, "step": 2},
        rate={"type": "float", "low": 0, "high": 1},
        child={"type": "float", "low": 0, "high": 1, "when": when},
    )


def test_a_condition_may_name_one_value_or_several() -> None:
    spec = study(**tree(opt="sgd", layers=[1, 3]))
    assert spec.space["child"].when == {"opt": ("sgd",), "layers": (1, 3)}


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ({"opt": ["rmsprop"]}, "space.child.when.opt cannot be 'rmsprop'; its choices are 'sgd', 'adam'"),
        ({"opt": ["adm"]}, "did you mean 'adam'?"),
        ({"otp": ["adam"]}, "names the parameter 'otp', which the space does not have; did you mean 'opt'?"),
        ({"layers": [2]}, "cannot be 2; it is a whole number from 1 to 5 in steps of 2"),
        ({"layers": [True]}, "cannot be true"),
        ({"layers": ["1"]}, "cannot be '1'"),
        ({"rate": [0.5]}, "is a float parameter; a condition needs a categorical or int one"),
        ({"child": [0.5]}, "space.child.when.child"),
        ({}, "space.child.when must name parameters and the values they need"),
        ({"opt": []}, "space.child.when.opt must name at least one value"),
        ({"opt": [["sgd"]]}, "must be text, a number, true, false or null"),
    ],
)
def test_a_condition_names_what_exists(when: Any, message: str) -> None:
    assert message in complaint(**tree(**when))


def test_a_condition_that_is_no_mapping_is_refused() -> None:
    message = complaint(**space(x={"type": "int", "low": 0, "high": 1, "when": "opt"}))
    assert "space.x.when must name parameters and the values they need" in message


def test_conditions_must_not_form_a_circle() -> None:
    def choice(**when: Any) -> dict[str, Any]:
        return {"type": "categorical", "choices": ["u", "v"], "when": when}

    message = complaint(**space(a=choice(b="u"), b=choice(c="u"), c=choice(a="u")))
    assert "conditions must not form a circle" in message
    assert all(f"{name} needs" in message for name in "abc")
    assert "circle" in complaint(**space(a=choice(a="u")))


def test_a_condition_that_can_never_be_met_is_refused() -> None:
    message = complaint(
        **space(
            a={"type": "categorical", "choices": ["u", "v"]},
            b={"type": "categorical", "choices": [1, 2], "when": {"a": "u"}},
            c={"type": "int", "low": 0, "high": 1, "when": {"a": "v", "b": 1}},
        )
    )
    assert "space.c.when can never be met: c needs a to have two different values at once" in message


# Samplers, pruners, budget


@pytest.mark.parametrize("name", ["random", "tpe", "gp", "cmaes", "qmc", "nsga2"])
def test_a_bare_sampler_name_takes_its_defaults(name: str) -> None:
    spec = study(sampler=name)
    assert spec.sampler.name == name
    assert spec == study(sampler={"name": name})


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (
            "tep",
            "name must be one of grid, random, tpe, gp, cmaes, qmc, nsga2, got 'tep'; did you mean 'tpe'?",
        ),
        ({"seed": 3}, "sampler.name is required: one of grid, random"),
        (
            {"name": "random", "n_startup_trials": 3},
            "sampler.n_startup_trials is unknown (allowed: seed, name)",
        ),
        ({"name": "tpe", "n_startup": 3}, "sampler.n_startup is unknown; did you mean 'n_startup_trials'?"),
        ({"name": "tpe", "seed": -1}, "sampler.seed must be at least 0, got -1"),
        ({"name": "tpe", "seed": None}, "sampler.seed must be a whole number, got null"),
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
        ({"seconds": "1h"}, "budget.seconds must be a number, got '1h'"),
        ({"target": float("nan")}, "budget.target must be a finite number"),
        ({"trails": 3}, "budget.trails is unknown; did you mean 'trials'?"),
        ({}, "budget needs trials, seconds or target: tpe would never end"),
        (5, "budget must be a mapping, got 5"),
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
        ({"report_timeout": "no"}, "report_timeout must be a number, got 'no'"),
        ({"notes": 3}, "notes must be text, got 3"),
        ({"fixed": {"x": 1}}, "fixed.x stands under `space` too"),
        ({"fixed": {"a": {"b": float("nan")}}}, "fixed.a.b must be a finite number, got nan"),
        ({"fixed": {"a": {1: 2}}}, "fixed.a has the key 1; keys must be text"),
        ({"fixed": [1]}, "fixed must be a mapping from names to fixed values"),
        ({"objctive": "m"}, "objctive is unknown; did you mean 'objective'?"),
        ({"max_trials": 3}, "max_trials is unknown (allowed: study, objective, direction, sampler"),
        ({"sampler": "qmc", "space": {}}, "space is required: the qmc sampler must know every parameter"),
    ],
)
def test_other_mistakes_get_a_sentence(changes: dict[str, Any], message: str) -> None:
    assert message in complaint(**changes)


# Grids


def test_a_grid_needs_no_budget() -> None:
    spec = study(sampler="grid", budget={}, **space(x={"type": "int", "low": 1, "high": 4}))
    assert spec.tickets == 4


def test_a_grid_stops_at_the_budget() -> None:
    spec = study(sampler="grid", budget={"trials": 3}, **space(x={"type": "int", "low": 1, "high": 4}))
    assert spec.tickets == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (space(x={"type": "float", "low": 0, "high": 1}), "space.x is continuous; a grid needs `step`"),
        (space(), "space is required: the grid sampler must know every parameter"),
        (
            space(**{f"p{i}": {"type": "int", "low": 1, "high": 10} for i in range(7)}),
            "space makes a grid of 10,000,000 cells; at most 1,000,000",
        ),
        (
            space(x={"type": "int", "low": 1, "high": 10**8}),
            "space.x has 100,000,000 values; a grid allows at most",
        ),
        (
            {"enqueue": [{"x": 1}], **space(x={"type": "int", "low": 1, "high": 4})},
            "enqueue has no meaning for a grid",
        ),
    ],
)
def test_a_grid_that_cannot_be_visited_is_refused(changes: dict[str, Any], message: str) -> None:
    assert message in complaint(sampler="grid", budget={}, **changes)


# Enqueued points


@pytest.mark.parametrize(
    ("enqueue", "message"),
    [
        ([{"y": 1}], "enqueue.0.y is not a parameter of the space (parameters: x)"),
        ([{"x": 0.5}, {"x": 2}], "enqueue.1.x must lie between 0.0 and 1.0, got 2"),
        ([{"x": "a"}], "enqueue.0.x must be a number, got 'a'"),
        ([{}], "enqueue.0 must give at least one parameter a value"),
        ([3], "enqueue.0"),
        ({"x": 1}, "enqueue must be a list of points"),
        ([{"x": 0.5}] * 6, "enqueue has 6 points, but budget.trials is 5"),
    ],
)
def test_a_wrong_enqueued_point_gets_a_sentence(enqueue: Any, message: str) -> None:
    assert message in complaint(enqueue=enqueue)


def test_enqueued_values_take_their_parameters_type() -> None:
    spec = study(enqueue=[{"x": 1}])
    assert spec.enqueue == ({"x": 1.0},)
    assert type(spec.enqueue[0]["x"]) is float


def test_without_a_space_any_single_value_may_be_enqueued() -> None:
    assert study(space={}, enqueue=[{"anything": 1}]).enqueue == ({"anything": 1},)
    assert "enqueue.0.a must be text, a number" in complaint(space={}, enqueue=[{"a": [1]}])


# Overrides


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("budget.trials=7", lambda spec: spec.budget.trials == 7),
        ("space.lr.low=1e-3", lambda spec: spec.space["lr"].low == 1e-3),
        ("sampler=random", lambda spec: spec.sampler.name == "random"),
        ("sampler.seed=3", lambda spec: (spec.sampler.name, spec.sampler.seed) == ("tpe", 3)),
        ("fixed.new.deep=[1, 2]", lambda spec: spec.fixed["new"] == {"deep": [1, 2]}),
        ("enqueue.0.lr=0.2", lambda spec: spec.enqueue[0]["lr"] == 0.2),
        ("notes=a = b", lambda spec: spec.notes == "a = b"),
        ("budget.target=", lambda spec: spec.budget.target is None),
        ("direction=minimize", lambda spec: spec.directions == ("minimize",)),
        (
            "space.optimizer.choices=[sgd, momentum, adam]",
            lambda spec: len(spec.space["optimizer"].choices) == 3,
        ),
    ],
)
def test_any_field_can_be_overridden(override: str, field: Any) -> None:
    assert field(parse_spec(FULL, overrides=[override]))


def test_overrides_apply_in_turn_and_leave_the_file_alone() -> None:
    spec = parse_spec(FULL, overrides=["sampler=random", "sampler.seed=9", "sampler.seed=10"])
    assert (spec.sampler.name, spec.sampler.seed) == ("random", 10)


def test_one_kind_of_direction_replaces_the_other() -> None:
    overrides = ["pruner=none", "budget.target=null", "directions=[maximize, minimize]"]
    assert parse_spec(FULL, overrides=overrides).directions == ("maximize", "minimize")


def test_a_name_with_dots_is_found_by_its_longest_form() -> None:
    data = BASE | {"fixed": {"a.b": {"c": 1}, "a": {"b": 2}}}
    assert parse_spec(data, overrides=["fixed.a.b.c=5"]).fixed == {"a.b": {"c": 5}, "a": {"b": 2}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.trials", "--set budget.trials: must be PATH=VALUE, such as budget.trials=20"),
        ("=3", "--set =3: must be PATH=VALUE"),
        ("budget..trials=3", "the path has an empty part"),
        ("budget.trials=[1", "--set budget.trials=[1: is not valid YAML"),
        ("budget.trials=0", "--set budget.trials=0: budget.trials must be at least 1, got 0"),
        ("budget.trails=3", "--set budget.trails=3: budget.trails is unknown; did you mean 'trials'?"),
        ("budgt.trials=3", "--set budgt.trials=3: budgt is unknown; did you mean 'budget'?"),
        ("study.name=x", "--set study.name=x: study is 'digits-mlp', which has no part 'name'"),
        ("enqueue.x.lr=1", "enqueue is a list; name an item by its index (0), not 'x'"),
        ("enqueue.4.lr=1", "enqueue has 1 items, counted from 0; there is no 4"),
        ("space.lr.low=0", "--set space.lr.low=0: space.lr.low must be above 0 on a log scale, got 0"),
        ("space.new.low=0", "--set space.new.low=0: space.new.type is required"),
        (
            "sampler={name: tpe, sed: 1}",
            "--set sampler={name: tpe, sed: 1}: sampler.sed is unknown; did you mean 'seed'?",
        ),
    ],
)
def test_a_wrong_override_says_which_one(override: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(FULL, "digits.yaml", [override])
    assert message in str(caught.value)


def test_problems_elsewhere_keep_their_line_beside_overrides() -> None:
    message = in_full("threads: 0", "budget.trials=0")
    assert "digits.yaml, line 9: threads must be at least 1, got 0" in message
    assert "--set budget.trials=0: budget.trials must be at least 1, got 0" in message


# Anything at all

_leaf = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["tpe", "asha", "grid", "float", "categorical", "minimize", "adam", "lr", "optimizer"])
)
_anything = st.recursive(
    _leaf,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "type", "low", "high", "log", "step", "points", "choices", "when", "lr"])
            | st.text(max_size=3)
            | st.integers(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path in a nested value."""
    found = [path] if path else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        found += places(item, (*path, key))
    return found


DATA: dict[str, Any] = yaml.safe_load(FULL)


@given(st.lists(st.tuples(st.sampled_from(places(DATA)), _anything), min_size=1, max_size=2))
@settings(max_examples=400, deadline=None)
def test_any_value_anywhere_is_accepted_or_told_in_sentences(
    changes: list[tuple[tuple[Any, ...], Any]],
) -> None:
    data = copy.deepcopy(DATA)
    for path, value in changes:
        put(data, path, value)
    try:
        spec = parse_spec(data, "digits.yaml")
    except SpecError as error:
        wrong = [line for line in str(error).split("\n") if not is_a_sentence(line)]
        if wrong:
            raise AssertionError(wrong) from error
    else:
        stored = json.loads(json.dumps(spec.model_dump(mode="json")))
        assert StudySpec.model_validate(stored) == spec
        assert StudySpec.model_validate(stored).digest == spec.digest


def is_a_sentence(line: str) -> bool:
    """Whether a line of an error says where, can be printed safely and is not endless."""
    return line.startswith(("digits.yaml: ", "... and ")) and line.isprintable() and len(line) < 1000


def put(holder: Any, path: tuple[Any, ...], value: Any) -> None:
    """Replace the part at `path`, where it is still there."""
    for part in path[:-1]:
        try:
            holder = holder[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(holder, dict) or (isinstance(holder, list) and path[-1] in range(len(holder))):
        holder[path[-1]] = value


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_accepted_or_told_in_sentences(content: bytes) -> None:
    with pytest.raises(SpecError):
        parse_spec(content)


@given(
    st.text(max_size=40), st.sampled_from(["", "budget.trials=", "space.lr.", "sampler=", "enqueue.0.", "="])
)
@settings(max_examples=200, deadline=None)
def test_any_override_is_accepted_or_told_in_sentences(text: str, start: str) -> None:
    with contextlib.suppress(SpecError):
        parse_spec(FULL, overrides=[start + text])


def test_a_long_chain_of_conditions_is_checked_quickly() -> None:
    names = [f"p{i}" for i in range(400)]
    chain = {
        name: {"type": "categorical", "choices": ["u", "v"]}
        | ({"when": dict.fromkeys(names[max(0, i - 2) : i], "u")} if i else {})
        for i, name in enumerate(names)
    }
    start = time.process_time()
    assert "p399" in study(space=chain, enqueue=[{"p399": "u"}]).enqueue[0]
    assert "exists only when" in complaint(space=chain, enqueue=[{"p0": "v", "p399": "u"}])
    assert time.process_time() - start < 5


def test_more_than_500_parameters_are_refused() -> None:
    assert "space has 501 parameters; at most 500" in complaint(
        space={f"p{i}": {"type": "int", "low": 0, "high": 1} for i in range(501)}
    )


def test_a_spec_travels_to_another_process() -> None:
    spec = parse_spec(FULL)
    assert pickle.loads(pickle.dumps(spec)) == spec


# Lines


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "  lr: {type: float, low: 0, high: 1, log: true}",
            "line 11: space.lr.low must be above 0 on a log scale, got 0",
        ),
        (
            "  momentum: {type: int, low: 1, high: 2, when: {optimiser: sgd}}",
            "line 14: space.momentum.when.optimiser",
        ),
        ("pruner: {name: asha}", "digits.yaml, line 5: pruner.max_epochs is required"),
        ("enqueue: [{lr: 7}]", "digits.yaml, line 8: enqueue.0.lr must lie between 0.0001 and 0.3, got 7"),
        ("direction: up", "digits.yaml, line 3: direction must be minimize or maximize, got 'up'"),
        ("fixed: {lr: 3}", "digits.yaml, line 15: fixed.lr stands under `space` too"),
    ],
)
def test_a_problem_names_its_line(line: str, message: str) -> None:
    assert message in in_full(line)


# Identity


@pytest.mark.parametrize(
    "override",
    [
        "budget.trials=7",
        "budget.seconds=5",
        "budget.target=null",
        "retry.lost=0",
        "notes=hello",
        "sampler.seed=0",
    ],
)
def test_budget_retry_and_notes_leave_the_study_the_same(override: str) -> None:
    here, stored = parse_spec(FULL, overrides=[override]), parse_spec(FULL)
    assert here.digest == stored.digest
    assert spec_differences(here, stored) == []


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("sampler.seed=1", "sampler.seed: 1 here, 0 in the stored study"),
        ("threads=2", "threads: 2 here, 1 in the stored study"),
        ("space.lr.low=0.001", "space.lr.low: 0.001 here, 0.0001 in the stored study"),
        ("fixed.epochs=5", "fixed.epochs: 5 here, 20 in the stored study"),
        ("fixed.extra=5", "fixed.extra: 5 here, absent in the stored study"),
        ("direction=minimize", "directions: ['minimize'] here, ['maximize'] in the stored study"),
        ("enqueue=[]", "enqueue: [] here, [{lr: 0.01, hidden: 64, optimizer: 'adam'}] in the stored study"),
        ("objective=mine", "objective: 'mine' here, 'objectives.classifier' in the stored study"),
    ],
)
def test_everything_else_makes_another_study_and_is_told(override: str, difference: str) -> None:
    here, stored = parse_spec(FULL, overrides=[override]), parse_spec(FULL)
    assert here.digest != stored.digest
    assert spec_differences(here, stored) == [difference]


def test_the_order_of_a_file_does_not_make_another_study() -> None:
    lines = FULL.splitlines()
    moved = [*lines[3:9], *lines[:3], *lines[9:]]
    assert parse_spec("\n".join(moved)).digest == parse_spec(FULL).digest


def test_a_digest_stays_the_same_from_release_to_release() -> None:
    assert parse_spec(FULL).digest == DIGEST


DIGEST = "2b454e055e9781c8180e533d753efb2e6916829358e534b848c98d5f6afe2e79"


def test_a_study_file_is_read_from_disk(tmp_path: Any) -> None:
    file = tmp_path / "digits.yaml"
    file.write_text(FULL)
    assert load_spec(file) == parse_spec(FULL)
    file.write_text(FULL.replace("0.3, log", "0.3, lgo"))
    with pytest.raises(
        SpecError, match=r"^digits.yaml, line 11: space.lr.lgo is unknown; did you mean 'log'"
    ):
        load_spec(file)
