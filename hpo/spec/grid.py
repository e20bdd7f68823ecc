"""The cells of a grid: the distinct active combinations of all parameters' grid values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from hpo.spec.conditions import Space, is_active, order
from hpo.spec.parameters import (
    AnyParameter,
    CategoricalParameter,
    FloatParameter,
    last_value,
    step_count,
    step_value,
)
from hpo.spec.problems import problem

MAX_CELLS = 1_000_000
MAX_VALUES = 1_000_000  # of one parameter
MAX_DISTINCT = 1_000  # settings of a space in which none is tried twice; of more, two are seldom alike


def grid_size(parameter: AnyParameter) -> int:
    """How many values a grid has along this parameter.

    Raises:
        PydanticCustomError: for a float without `step` or `points`, or too many values.
    """
    if isinstance(parameter, CategoricalParameter):
        return len(parameter.choices)
    if isinstance(parameter.points, tuple):
        return len(parameter.points)
    if parameter.points is None:
        if parameter.step is None:
            raise problem(
                "is continuous; a grid needs `step` (distance between values) or `points` (how many"
                " values, or a list of them)"
            )
        count = step_count(parameter)
    else:
        count = parameter.points
    if count > MAX_VALUES:
        raise problem(f"has {count:,} values; a grid allows at most {MAX_VALUES:,}: use `points`")
    return len(grid_values(parameter)) if parameter.points is not None else count


def grid_values(parameter: AnyParameter) -> list[Any]:
    """The values (labels of a categorical) that a grid visits, in order, without repetition."""
    if isinstance(parameter, CategoricalParameter):
        return list(parameter.labels)
    if isinstance(parameter.points, tuple):
        return list(parameter.points)
    if parameter.points is None:
        return [step_value(parameter, index) for index in range(step_count(parameter))]
    low, high = parameter.low, last_value(parameter)
    values = [
        _between(low, high, index / (parameter.points - 1), parameter.log)
        for index in range(parameter.points)
    ]
    if isinstance(parameter, FloatParameter) and parameter.step is None:
        return values
    steps = [round((value - low) / float(parameter.step or 1)) for value in values]
    return [step_value(parameter, index) for index in dict.fromkeys(steps)]


def cells(space: Space) -> Iterator[dict[str, Any]]:
    """Every distinct active combination, the last parameter fastest; parents before children."""
    names = order(space)
    values = {name: grid_values(space[name]) for name in names}

    def extend(index: int, cell: dict[str, Any]) -> Iterator[dict[str, Any]]:
        while index < len(names) and not is_active(space[names[index]], cell):
            index += 1
        if index == len(names):
            yield cell
            return
        name = names[index]
        for value in values[name]:
            yield from extend(index + 1, {**cell, name: value})

    return extend(0, {})


def count_cells(space: Space) -> int:
    """How many cells the grid has, without building them.

    Only parameters that others depend on are enumerated; the rest multiply.
    """
    sizes = {name: grid_size(parameter) for name, parameter in space.items()}
    parents = {parent for parameter in space.values() for parent in parameter.when or {}}
    free = [name for name in space if name not in parents]
    decisive = {name: space[name] for name in space if name in parents}
    if math.prod(sizes[name] for name in decisive) > MAX_CELLS:
        return math.prod(sizes.values())  # an upper bound; far too many either way
    total = 0
    for cell in cells(decisive):
        total += math.prod(sizes[name] for name in free if is_active(space[name], cell))
    return total


def distinct(space: Space) -> list[dict[str, Any]] | None:
    """Every setting that a sampler can choose, parents before children; None: more than can be told apart."""
    plain: dict[str, AnyParameter] = {}
    for name, parameter in space.items():
        if isinstance(parameter, CategoricalParameter):
            plain[name] = parameter
        elif parameter.step is None or step_count(parameter) > MAX_DISTINCT:
            return None
        else:
            plain[name] = parameter.model_copy(update={"points": None})
    few = bool(space) and count_cells(plain) <= MAX_DISTINCT
    return list(cells(plain)) if few else None


def _between(low: float, high: float, share: float, log: bool) -> float:
    if share in (0.0, 1.0):
        return high if share else low
    if log:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)
