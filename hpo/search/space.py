"""A spec's search space in Optuna's terms: distributions, grid cells, random and enqueued points."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic_core import PydanticCustomError

from hpo.search.draws import from_unit, unit
from hpo.spec import CategoricalParameter, FloatParameter, IntParameter, StudySpec
from hpo.spec.conditions import is_active, order
from hpo.spec.grid import MAX_CELLS, cells
from hpo.spec.parameters import AnyParameter, last_value
from hpo.spec.points import check_partial_point, missing_names
from hpo.spec.problems import dotted, found, listed, spec_error

Chooser = Callable[[str, BaseDistribution], Any]


def distribution(parameter: AnyParameter) -> BaseDistribution:
    """A parameter as Optuna knows it; a categorical's choices are its labels.

    Where `high` is not a whole number of steps above `low`, the last step below it takes its place.
    """
    match parameter:
        case FloatParameter():
            high = last_value(parameter)
            return FloatDistribution(parameter.low, high, log=parameter.log, step=parameter.step)
        case IntParameter():
            high = int(last_value(parameter))
            return IntDistribution(parameter.low, high, log=parameter.log, step=parameter.step)
        case CategoricalParameter():
            return CategoricalDistribution(parameter.labels)


def grid_points(spec: StudySpec, *, skip: int = 0) -> list[dict[str, Any]]:
    """A grid's cells: distinct active assignments, parents before children, the last name fastest.

    Args:
        spec: Its `budget.trials` cuts the list, counted from the first cell; without it the list
            ends after a million cells.
        skip: Leave out the first `skip` cells, those that a study already has.
    """
    end = MAX_CELLS if spec.budget.trials is None else spec.budget.trials
    return list(itertools.islice(cells(spec.space), skip, max(skip, end)))


def random_point(spec: StudySpec, seed: int, ticket: int) -> dict[str, Any]:
    """One random active assignment, whose numbers depend on (seed, ticket, parameter name) only.

    A parameter's number is the same whether or not another parameter is active.
    """
    return completed(spec, {}, lambda name, held: from_unit(held, unit(seed, ticket, name)))


def completed(spec: StudySpec, fixed: Mapping[str, Any], choose: Chooser) -> dict[str, Any]:
    """All active parameters: the values in `fixed` as they are, the rest from `choose`.

    `choose(name, distribution)` is called for the open active parameters only, parents first.
    Names in `fixed` that turn out inactive, or that the space does not declare, are left out.
    """
    point: dict[str, Any] = {}
    for name in order(spec.space):
        parameter = spec.space[name]
        if is_active(parameter, point):
            point[name] = fixed[name] if name in fixed else choose(name, distribution(parameter))
    return point


def check_point(spec: StudySpec, point: Mapping[str, Any]) -> dict[str, Any]:
    """An enqueued point, maybe partial, with its values as the parameters hold them.

    A grid has no sampler that could complete a point, so there every active parameter is needed.

    Raises:
        SpecError: naming the parameter and what is allowed.
    """
    try:
        checked = check_partial_point(spec.space, point)
    except PydanticCustomError as error:
        place, sentence = found(error)
        raise spec_error(f"{dotted(place) or 'a point'} {sentence}") from None
    clash = [name for name in checked if name in spec.fixed]
    if clash:
        raise spec_error(f"{clash[0]} is a fixed value of the study; a point cannot change it")
    if spec.sampler.name == "grid" and (missing := missing_names(spec.space, checked)):
        raise spec_error(f"a point of a grid must give every parameter a value; missing: {listed(missing)}")
    return checked
