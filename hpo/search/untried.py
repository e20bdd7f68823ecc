"""No setting is trained twice unless somebody asks for it.

Where the space is finite, and small, a point that was tried already gives way to one of the settings that
were not, each as likely. Samplers that learn are held against all trials; random and qmc against lower
tickets alone, so that the number of runners changes nothing. Points that a person enqueues are taken as they
are. A study has no more tickets than there are settings (`StudySpec.tickets`), so it ends when all of them
were trained. In any other space what Optuna's samplers and `rungs` say again gives way to a random point.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from hpo.search.draws import unit
from hpo.search.space import random_point
from hpo.spec import StudySpec
from hpo.spec.grid import distinct

Point = dict[str, Any]


def untried(spec: StudySpec, point: Point, ticket: int, tried: Collection[Mapping[str, Any]]) -> Point:
    """The point, or, where it was tried, a setting that was not; the point again where all were."""
    if not point or point not in tried:
        return point
    if (settings := distinct(spec.space)) is None:
        return point if spec.sampler.name == "custom" else random_point(spec, spec.sampler.seed, ticket)
    return _another(spec, settings, point, ticket, set(map(_key, tried)))


def drawn(spec: StudySpec, draw: Callable[[int, Mapping[str, Any]], Point], ticket: int) -> Point:
    """What a ticket draws where lower ones have drawn before it.

    Args:
        spec: its enqueued points are those of the first tickets.
        draw: the point of a ticket, with the values that are fixed, whatever others have.
        ticket: its number.
    """
    settings = distinct(spec.space)
    if settings is None or ticket >= len(settings) + len(spec.enqueue):
        return draw(ticket, {})
    tried: set[tuple[Any, ...]] = set()
    for number in range(ticket):
        fixed = spec.enqueue[number] if number < len(spec.enqueue) else {}
        point = draw(number, fixed)
        tried.add(_key(point if fixed else _another(spec, settings, point, number, tried)))
    return _another(spec, settings, draw(ticket, {}), ticket, tried)


def _another(
    spec: StudySpec, settings: list[Point], point: Point, ticket: int, tried: set[tuple[Any, ...]]
) -> Point:
    if _key(point) not in tried:
        return point
    left = [setting for setting in settings if _key(setting) not in tried]
    return left[int(unit(spec.sampler.seed, ticket, "untried") * len(left))] if left else point


def _key(point: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted(point.items()))
