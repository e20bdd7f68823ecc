"""Which parameters exist where: the `when` conditions of a search space, checked and applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from hpo.spec.parameters import AnyParameter, CategoricalParameter, FloatParameter, last_value
from hpo.spec.problems import listed, nearest, problem, shown, within

Space = Mapping[str, AnyParameter]


def check_conditions(space: Space) -> None:
    """Every `when` names parameters and values that exist, without a circle, and can come true.

    Raises:
        PydanticCustomError: pointing at the condition that is wrong.
    """
    for name, parameter in space.items():
        for parent, values in (parameter.when or {}).items():
            with within(name, "when", parent):
                _check_condition(space, name, parent, values)
    try:
        order(space)
    except CycleError as error:
        circle = error.args[1]
        raise problem(
            f"conditions must not form a circle: {' needs '.join(reversed(circle))}", circle[0], "when"
        ) from None
    for name in space:
        for parent, possible in _demands(space, name).items():
            if not possible:
                clash = f"{name} needs {parent} to have two different values at once"
                raise problem(f"can never be met: {clash}", name, "when")


def order(space: Space) -> list[str]:
    """All names, parents before their children, otherwise in the file's order.

    Raises:
        graphlib.CycleError: when conditions form a circle.
    """
    sorter = TopologicalSorter({name: list(p.when or {}) for name, p in space.items()})
    sorter.prepare()
    place = {name: index for index, name in enumerate(space)}
    names: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=place.__getitem__)
        first = ready.pop(0)
        names.append(first)
        sorter.done(first)
    return names


def is_active(parameter: AnyParameter, assignment: Mapping[str, Any]) -> bool:
    """Whether a parameter exists where its parents have the values of `assignment`.

    A parent that is missing from `assignment` counts as inactive.
    """
    return all(
        parent in assignment and assignment[parent] in values
        for parent, values in (parameter.when or {}).items()
    )


def active(space: Space, assignment: Mapping[str, Any]) -> list[str]:
    """Names that exist under `assignment`, parents first.

    `assignment` maps names to values (labels of categorical parameters); names it lacks count
    as undecided, so only children of what it holds are found active.
    """
    names: list[str] = []
    held: dict[str, Any] = {}
    for name in order(space):
        if is_active(space[name], held):
            names.append(name)
            if name in assignment:
                held[name] = assignment[name]
    return names


def _check_condition(space: Space, name: str, parent: str, values: Sequence[Any]) -> None:
    if parent not in space:
        others = [other for other in space if other != name]
        near = nearest(parent, others)
        raise problem(f"names the parameter {shown(parent)}, which the space does not have{near}")
    owner = space[parent]
    if isinstance(owner, FloatParameter):
        raise problem("is a float parameter; a condition needs a categorical or int one")
    for value in values:
        if isinstance(owner, CategoricalParameter):
            if value not in owner.labels:
                raise problem(
                    f"cannot be {shown(value)}; its choices are {listed(map(shown, owner.labels))}"
                    f"{nearest(value, owner.labels)}"
                )
        elif (
            isinstance(value, bool)
            or not isinstance(value, int)
            or not owner.low <= value <= last_value(owner)
            or (value - owner.low) % owner.step
        ):
            steps = "" if owner.step == 1 else f" in steps of {owner.step}"
            whole = f"a whole number from {owner.low} to {owner.high}{steps}"
            raise problem(f"cannot be {shown(value)}; it is {whole}")


def _demands(space: Space, name: str) -> dict[str, list[Any]]:
    """What `name` needs of every ancestor: the values that satisfy all conditions on the way up."""
    demands: dict[str, list[Any]] = {}
    waiting = [name]
    seen = {name}
    while waiting:
        for parent, values in (space[waiting.pop()].when or {}).items():
            held = demands.get(parent)
            demands[parent] = [value for value in values if held is None or value in held]
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return demands
