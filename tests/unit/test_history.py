"""Which trial is the best, and which stand on the front: decided once, for everybody who asks."""

from __future__ import annotations

import math
import random

import pytest

from storage.history.records import best_of, front_of, front_of_values
from tests.report.histories import study, trial

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(("direction", "best"), [("maximize", 2), ("minimize", 1)])
def test_the_best_is_the_earliest_of_equals(direction: str, best: int) -> None:
    trials = [trial(0, 0.5), trial(1, 0.25), trial(2, 0.75), trial(3, 0.75), trial(4, 0.25)]
    found = best_of(reversed(trials), direction)  # type: ignore[arg-type]
    assert found is not None
    assert found.number == best


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_value_that_is_no_number_is_never_the_best(bad: float) -> None:
    for direction in ("maximize", "minimize"):
        found = best_of([trial(0, bad), trial(1, 0.5)], direction)  # type: ignore[arg-type]
        assert found is not None
        assert found.number == 1
    assert best_of([trial(0, bad)], "maximize") is None
    assert [t.number for t in front_of([trial(0, (bad, 0.0)), trial(1, (1.0, 1.0))], ["minimize"] * 2)] == [1]


def test_only_complete_trials_count() -> None:
    assert best_of([trial(0, None, "failed"), trial(1, None, "pruned", reports={1: 9.0})], "maximize") is None
    assert study(trial(0, None, "diverged")).winners == ()


def test_several_directions_have_a_front_and_no_best() -> None:
    found = study(
        trial(0, (1.0, 2.0)), trial(1, (2.0, 1.0)), trial(2, (2.0, 2.0)), directions=("minimize",) * 2
    )
    assert found.best is None
    assert [winner.number for winner in found.winners] == [0, 1]


@pytest.mark.parametrize("directions", [["minimize", "minimize"], ["maximize", "minimize", "maximize"]])
def test_the_front_is_what_no_other_point_beats(directions: list[str]) -> None:
    """Also among equal points and equal coordinates, of which a coarse grid has many."""
    draw = random.Random(3)
    points = {n: tuple(float(draw.randrange(6)) for _ in directions) for n in range(200)}
    signs = [-1 if direction == "maximize" else 1 for direction in directions]

    def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        losses = [(s * x, s * y) for s, x, y in zip(signs, a, b, strict=True)]
        return a != b and all(x <= y for x, y in losses)

    expected = {n for n, point in points.items() if not any(beats(other, point) for other in points.values())}
    assert front_of_values(points, directions) == expected
