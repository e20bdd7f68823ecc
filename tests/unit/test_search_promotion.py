"""Which parked run goes on: the best of a rung's best third, the highest rung first."""

import numpy as np
import pytest

from hpo.search.promotion import Ladder, promotion


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
    assert promotion([([0.5, 0.9], [True, True])], 3, maximize=True) is None
    assert promotion([([0.5, 0.9, 0.7], [True] * 3)], 3, maximize=True) == (0, 1)


def test_the_best_third_counts_those_that_have_left_the_rung():
    """Of six, two go on; who has gone on, or died, took its place."""
    values = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    parked = [False, True, True, True, True, True]
    assert promotion([(values, parked)], 3, maximize=True) == (0, 1)
    assert promotion([(values, [False, False, True, True, True, True])], 3, maximize=True) is None


def test_the_highest_rung_comes_first():
    low = ([0.9, 0.8, 0.7], [True] * 3)
    high = ([0.1, 0.3, 0.2], [True] * 3)
    assert promotion([low, high], 3, maximize=True) == (1, 1)
    assert promotion([low, high], 3, maximize=False) == (1, 0)


def test_of_equal_runs_the_earlier_is_the_better():
    """A plateau lets no more than a third pass."""
    values = np.full(9, 0.1)
    gone = np.zeros(9, dtype=bool)
    for expected in range(3):
        assert promotion([(values, ~gone)], 3, maximize=True) == (0, expected)
        gone[expected] = True
    assert promotion([(values, ~gone)], 3, maximize=True) is None


@pytest.mark.parametrize("worst", [float("nan"), float("-inf")])
def test_a_run_that_diverged_is_counted_as_the_worst(worst):
    assert promotion([([worst, 0.2, worst], [False, True, False])], 3, maximize=True) == (0, 1)
    assert promotion([([worst, worst, worst], [True] * 3)], 3, maximize=True) is None


def test_in_the_end_a_third_of_a_third_has_gone_on():
    """27 runs in whatever order: 9 come to the second rung, 3 to the third, the best of all among them."""
    scores = np.random.default_rng(0).permutation(27).astype(float)
    at = [list(range(27)), [], []]
    parked = [set(at[0]), set(), set()]
    done = []
    while (
        found := promotion(
            [(scores[a], [i in p for i in a]) for a, p in zip(at, parked, strict=True)], 3, maximize=True
        )
    ) is not None:
        rung, position = found
        run = at[rung][position]
        parked[rung].remove(run)
        if rung == 2:
            done.append(run)
        else:
            at[rung + 1].append(run)
            parked[rung + 1].add(run)
    assert [len(rung) for rung in at] == [27, 9, 3]
    assert done == [int(np.argmax(scores))]
