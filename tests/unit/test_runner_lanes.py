"""How many trials a runner takes at once: told from what its objective exports, and points of the space."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hpo.errors import HpoError
from hpo.runner.lanes import places


def session(lanes: int, points: list[dict[str, Any]], key: Any = lambda config: config["hidden"]) -> Any:
    """A runner's, of an objective with this `lane_key`; None: it exports none."""
    objective = SimpleNamespace(many=key and (lambda lanes: None), lane_key=key)
    return SimpleNamespace(
        served=SimpleNamespace(lanes=lanes, points=points, objective="mine.py"), objective=objective
    )


def alike(count: int) -> list[dict[str, Any]]:
    """Points of which so many share a key, in turn."""
    return [{"hidden": number % count} for number in range(32)]


@pytest.mark.parametrize(
    ("lanes", "points", "found"),
    [
        (64, alike(1), 64),
        (64, alike(16), 64),  # four of each, in the mean
        (16, alike(16), 1),
        (64, [{"hidden": None}] * 32, 1),  # none of them can be
        (1, [], 1),
        (5, [], 5),  # asked for, and not looked at
    ],
)
def test_lanes_are_used_where_enough_trials_can_be_trained_together(
    lanes: int, points: list[dict[str, Any]], found: int
) -> None:
    count, note = places(session(lanes, points))
    assert count == found
    assert (note is None) == (not points)


def test_an_objective_without_lanes_trains_one_by_one_or_is_refused_where_a_number_is_asked_for() -> None:
    assert places(session(64, alike(1), None))[0] == 1
    with pytest.raises(HpoError, match="exports objective_many"):
        places(session(8, [], None))


def test_a_setting_whose_key_cannot_be_told_is_trained_by_itself() -> None:
    def key(config: dict[str, Any]) -> Any:
        raise ValueError("no such model")

    assert places(session(64, alike(1), key))[0] == 1
