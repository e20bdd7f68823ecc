"""A finite space: no setting is trained twice unless somebody asks, and a study ends with its settings."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hpo.search.samplers import suggest
from hpo.search.space import distribution, random_point
from hpo.search.untried import untried
from hpo.spec import StudySpec
from hpo.spec.grid import distinct
from tests.support.sampling import NUMBERS, provisional, spec

FEW: dict[str, Any] = {  # 2 + 3 settings
    "kind": {"type": "categorical", "choices": ["a", "b"]},
    "drop": {"type": "float", "low": 0, "high": 0.5, "step": 0.5, "when": {"kind": ["a"]}},
    "n": {"type": "int", "low": 1, "high": 3, "log": True, "when": {"kind": ["b"]}},
}


def searched(made: StudySpec, count: int) -> list[dict[str, Any]]:
    """The points of so many tickets, each chosen when those before it have run."""
    study, found = optuna.create_study(), []
    for ticket in range(count):
        asked = made.enqueue[ticket] if ticket < len(made.enqueue) else {}
        point = suggest(made, study, provisional(ticket), ticket, asked)
        held = {name: distribution(made.space[name]) for name in point}
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=float(len(str(point))),
                params=point,
                distributions=held,
                intermediate_values={1: float(ticket)},
            )
        )
        found.append(point)
    return found


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "rungs"])
def test_every_setting_comes_once_and_then_the_study_has_no_more_trials(sampler: str) -> None:
    made = spec(sampler, FEW)
    assert made.tickets == 5
    found = searched(made, 5)
    assert sorted(map(str, found)) == sorted(map(str, distinct(made.space) or ()))
    assert searched(made, 7)[5] in found, "who asks for more has some again"


def test_what_is_enqueued_is_taken_as_it_is_and_not_drawn_again() -> None:
    twice = {"kind": "b", "n": 2}
    made = spec("random", FEW, enqueue=[twice, twice])
    assert made.tickets == 6
    found = searched(made, 6)
    assert found[:2] == [twice, twice]
    assert len({str(point) for point in found}) == 5


def test_a_random_point_depends_on_lower_tickets_alone() -> None:
    """Whatever others have trained: the number of runners changes nothing."""
    made = spec("random", FEW)
    before = searched(made, 5)
    assert [suggest(made, optuna.create_study(), provisional(), one, {}) for one in range(5)] == before
    assert before[0] == random_point(made, 0, 0)


def test_a_space_without_end_is_left_alone() -> None:
    made = spec("random", NUMBERS)
    assert made.tickets == 1000
    assert distinct(made.space) is None
    assert suggest(made, optuna.create_study(), provisional(), 7, {}) == random_point(made, 0, 7)
    wide = {"n": {"type": "int", "low": 1, "high": 2000}}
    assert distinct(spec("random", wide).space) is None


@pytest.mark.parametrize("space", [NUMBERS, {"n": {"type": "int", "low": 1, "high": 2000}}])
def test_what_a_sampler_says_again_in_a_large_space_gives_way_to_a_random_point(space: Any) -> None:
    made = spec("tpe", space)
    first, second = random_point(made, 0, 0), random_point(made, 0, 1)
    assert untried(made, second, 2, [first]) == second
    assert untried(made, first, 2, [second, first]) == random_point(made, 0, 2)


def test_of_the_settings_that_are_left_each_is_as_likely() -> None:
    point = {"kind": "a", "drop": 0.0}
    found = [str(untried(spec({"name": "tpe", "seed": seed}, FEW), point, 3, [point])) for seed in range(400)]
    assert sorted(set(found)) == sorted(
        str(one) for one in distinct(spec("tpe", FEW).space) or () if one != point
    )
    assert all(60 < found.count(setting) < 140 for setting in set(found)), "of 400, for four settings"
