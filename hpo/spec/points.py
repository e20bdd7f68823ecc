"""Points of a search space: checked, completed to what an objective receives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpo.spec.conditions import Space, is_active, order
from hpo.spec.fields import check_json, check_name, check_scalar, number, whole
from hpo.spec.parameters import (
    AnyParameter,
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    last_value,
    step_value,
)
from hpo.spec.problems import listed, nearest, problem, shown, within


def check_value(parameter: AnyParameter, value: Any) -> Any:
    """`value` as the parameter holds it (64 becomes 64.0 for a float).

    Raises:
        PydanticCustomError: saying what is allowed.
    """
    match parameter:
        case CategoricalParameter():
            for label in parameter.labels:
                if type(label) is type(value) and label == value:
                    return label
            if value is None or isinstance(value, str | int | float | bool):
                for label in parameter.labels:
                    if not isinstance(value, bool) and not isinstance(label, bool) and label == value:
                        return label
            raise problem(
                f"must be one of {listed(map(shown, parameter.labels))}, got {shown(value)}"
                f"{nearest(value, parameter.labels)}"
            )
        case IntParameter():
            return _in_range(parameter, whole(value))
        case FloatParameter():
            return _in_range(parameter, number(value))


def _in_range(parameter: FloatParameter | IntParameter, value: float) -> float:
    if not parameter.low <= value <= parameter.high:
        raise problem(f"must lie between {parameter.low} and {parameter.high}, got {shown(value)}")
    if parameter.step is None:
        return value
    index = round((value - parameter.low) / parameter.step)
    exact = step_value(parameter, index)
    if exact > last_value(parameter) or abs(exact - value) > 1e-8 * parameter.step:
        raise problem(
            f"must be {parameter.low} plus a multiple of the step {parameter.step}, got {shown(value)}"
        )
    return exact


def check_partial_point(space: Space, point: Any) -> dict[str, Any]:
    """An enqueued point, maybe partial, normalised, with parents first.

    An empty space takes any names with single values: the objective suggests for itself.

    Raises:
        PydanticCustomError: pointing at the name or value that does not fit.
    """
    if not isinstance(point, Mapping):
        raise problem(f"must be a mapping from parameters to values, got {shown(point)}")
    if not point:
        raise problem("must give at least one parameter a value")
    if not space:
        return {check_name(name, "parameter"): check_scalar(value, name) for name, value in point.items()}
    for name in point:
        if name not in space:
            raise problem(
                f"is not a parameter of the space{nearest(name, space)} (parameters: {listed(space)})", name
            )
    held: dict[str, Any] = {}
    possible: set[str] = set()  # what can exist, given the values so far
    for name in order(space):
        parameter = space[name]
        for parent, values in (parameter.when or {}).items():
            if held[parent] in values if parent in held else parent in possible:
                continue
            if name in point:
                raise problem(
                    f"exists only when {parent} is {' or '.join(map(shown, values))}; leave it out", name
                )
            break
        else:
            possible.add(name)
        if name in point:
            with within(name):
                held[name] = check_value(parameter, point[name])
    return held


def missing_names(space: Space, point: Mapping[str, Any]) -> list[str]:
    """Active parameters that `point` leaves open (only those whose parents it decides)."""
    return [name for name in order(space) if name not in point and is_active(space[name], point)]


def config_value(parameter: AnyParameter | None, value: Any) -> Any:
    """What an objective's `config` holds for a parameter's value: a labelled choice's value."""
    if isinstance(parameter, CategoricalParameter):
        for choice in parameter.choices:
            if choice.label == value:
                return check_json(choice.value)  # a copy: no trial can change another's lists
    return value
