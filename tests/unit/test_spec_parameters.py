"""Parameters, conditions, grids and enqueued points of a study file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hpo.spec import (
    StudySpec,
    resolve,
)
from tests.support.study_files import complaint, space, study

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
        (3, "space.p must be a mapping like {type: float, low: 0.001, high: 0.1}, got 3"),
        ({"type": "int", "low:1": None, "high": 2}, "space.p.low:1 lacks the space after its colon"),
        (
            {"type": "float", "low": 0, 3: None, "high": 2},
            "space.p.3 is no text; keys are text, and a number has a",
        ),
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
    assert resolve(spec, {"net": "small"})["net"] == [64, 32]
    assert resolve(spec, {"net": "large"})["net"] == {"widths": [256], "dropout": 0.5}
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
