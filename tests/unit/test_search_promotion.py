"""Which parked run goes on: the best of a rung's best third, the highest rung first."""

import math
from collections.abc import Collection, Sequence

import numpy as np
import pytest

from hpo.search.promotion import Ladder, Standing, by_fronts
from storage.queue.rungs import Rung

LADDER = Ladder.of(1, 27, 3)


def standing(*rungs: Sequence[float], maximize: bool = True) -> Standing:
    """Runs that came to rungs with these values: 0, 1, ... to the first, 100, 101, ... to the second."""
    found = Standing([LADDER], 3, ["maximize" if maximize else "minimize"])
    for rung, values in enumerate(rungs):
        found.learn(came(100 * rung + i, rung, value) for i, value in enumerate(values))
    return found


def goes(found: Standing, parked: Collection[int], room: float = math.inf) -> tuple[int, int, int] | None:
    """Which one goes on, to which epoch, after how many."""
    return found.promotion(lambda asked: [one for one in asked if one in parked], room)


def came(run: int, rung: int, value: float | None) -> Rung:
    return Rung(run, rung, 0, LADDER.epochs[rung], value)


@pytest.mark.parametrize(
    ("asked", "epochs"),
    [
        ((1, 20, 3), (1, 3, 9, 20)),
        ((3, 20, 3), (3, 9, 20)),
        ((1, 27, 3), (1, 3, 9, 27)),
        ((2, 3, 4), (2, 3)),
        ((1, 27, 3, 3), (27,)),
    ],
)
def test_rungs_lie_a_factor_apart_below_the_last_epoch(asked, epochs):
    assert Ladder.of(*asked).epochs == epochs


def test_nothing_is_promoted_before_a_rung_has_seen_as_many_as_the_factor():
    assert goes(standing([0.5, 0.9]), [0, 1]) is None
    assert goes(standing([0.5, 0.9, 0.7]), [0, 1, 2]) == (1, 3, 2), "to epoch 3, after two more"


def test_the_best_third_counts_those_that_have_left_the_rung():
    """Of six, two go on; who has gone on, or died, took its place."""
    found = standing([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert goes(found, [1, 2, 3, 4, 5]) == (1, 3, 2)
    assert goes(found, [2, 3, 4, 5]) is None


def test_the_highest_rung_comes_first_and_what_does_not_fit_is_left_out():
    rungs = [0.9, 0.8, 0.7], [0.1, 0.3, 0.2]
    parked = [0, 1, 2, 100, 101, 102]
    assert goes(standing(*rungs), parked) == (101, 9, 6)
    assert goes(standing(*rungs, maximize=False), parked) == (100, 9, 6)
    assert goes(standing(*rungs), parked, room=5) == (0, 3, 2)
    assert goes(standing(*rungs), parked, room=1) is None


def test_of_equal_runs_the_earlier_is_the_better():
    """A plateau lets no more than a third pass."""
    found, parked = standing([0.1] * 9), set(range(9))
    for expected in range(3):
        assert goes(found, parked) == (expected, 3, 2)
        parked.remove(expected)
    assert goes(found, parked) is None


@pytest.mark.parametrize("worst", [math.nan, -math.inf])
def test_a_run_that_diverged_is_counted_as_the_worst(worst):
    assert goes(standing([worst, 0.2, worst]), [1]) == (1, 3, 2)
    assert goes(standing([worst, worst, worst]), [0, 1, 2]) is None


def test_a_run_that_was_taken_over_from_before_a_rung_has_not_come_to_it():
    found = standing([0.1, 0.2, 0.3, 0.4])
    found.learn([came(3, 0, None)])
    assert goes(found, [0, 1, 2, 3]) == (2, 3, 2)
    found.learn([came(3, 0, 0.25), came(2, 0, 0.05), came(2, 0, 0.05)])
    assert goes(found, [0, 1, 2, 3]) == (3, 3, 2), "with another value than before"


def test_in_the_end_a_third_of_a_third_has_gone_on():
    """27 runs in whatever order: 9 come to the second rung, 3 to the third, the best of all among them."""
    scores = np.random.default_rng(0).permutation(27).astype(float)
    found, parked, came_to = standing(list(scores)), set(range(27)), [27, 0, 0, 0]
    done = []
    while (promoted := goes(found, parked)) is not None:
        run, epoch, _ = promoted
        rung = LADDER.epochs.index(epoch)
        came_to[rung] += 1
        if rung < 3:
            found.learn([came(run, rung, scores[run])])
        else:
            parked.remove(run)
            done.append(run)
    assert came_to == [27, 9, 3, 1]
    assert done == [int(np.argmax(scores))]


def test_several_directions_are_ranked_by_fronts_and_by_the_room_in_them():
    """As counting who beats whom says; equals stand together, and who has a NaN or infinity is the last."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.random((36, 2)), rng.integers(0, 2, (4, 2)) / 2 + 0.3])
    fronts, room = by_fronts(points.tolist())
    for place, point in enumerate(points):
        beaten_by = [
            other for other, its in enumerate(points) if (its <= point).all() and (its < point).any()
        ]
        assert fronts[place] == max((fronts[other] + 1 for other in beaten_by), default=0)
    ends = {
        min(range(40), key=lambda n: (*points[n], n)),
        min(range(40), key=lambda n: (*points[n][::-1], n)),
    }
    assert all(room[end] == -math.inf for end in ends)


def test_of_several_directions_the_front_goes_on():
    found = Standing([LADDER], 3, ["maximize", "minimize"])
    values = [(0.9, 9.0), (0.5, 5.0), (0.4, 6.0), (0.1, 1.0), (0.3, math.nan), (0.2, 7.0)]
    found.learn(Rung(run, 0, 0, 1, *(value, (cost,))) for run, (value, cost) in enumerate(values))
    assert goes(found, range(6)) == (0, 3, 2)
    assert goes(found, [1, 2, 3, 4, 5]) == (3, 3, 2), (
        "of three on the front two go on, and these are its ends"
    )
    assert goes(found, [1, 2, 4, 5]) is None
    found.learn([Rung(0, 0, 0, 1, None), Rung(6, 0, 0, 1, 0.95, (0.5,))])
    assert goes(found, [1, 6]) == (6, 3, 2)
    assert found.goes_on(Rung(6, 0, 0, 1, 0.95), 0)
    assert not found.goes_on(Rung(6, 0, 0, 1, 0.95), 6), "so many others must have come before"
    assert not found.goes_on(Rung(5, 0, 0, 1, 0.2), 0)
