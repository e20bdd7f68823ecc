"""What trainings with fresh seeds say, where the truth is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from hpo.search import confirming


def drawn(means: Sequence[float], seeds: int, *, shared: float = 0.0, seed: int = 0) -> confirming.Values:
    """Values of settings that have these means and scatter by 1, `shared` of it with each other."""
    rng = np.random.default_rng(seed)
    common, own = rng.standard_normal(seeds), rng.standard_normal((len(means), seeds))
    apart = shared**0.5 * common + (1 - shared) ** 0.5 * own
    return {i: {(n, 0): m + float(apart[i, n]) for n in range(seeds)} for i, m in enumerate(means)}


def test_nothing_is_dropped_before_there_are_four_common_seeds() -> None:
    values = drawn([0.0, -100.0], 3)
    assert confirming.losers(values) == set()
    assert confirming.losers(drawn([0.0, -100.0], 4)) == {1}


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_the_best_of_settings_is_named_or_stated_to_be_tied_in_nine_races_of_ten(shared: float) -> None:
    """It is looked at after each of six rounds, four others half a deviation behind it; most are dropped."""
    right = trained = 0
    for race in range(60):
        values = drawn([0.5, 0.0, 0.0, 0.0, 0.0], 10, shared=shared, seed=race)
        seen: dict[int, dict[tuple[int, int], float]] = {one: {} for one in values}
        dropped: set[int] = set()
        for seed in list(values[0]):
            for one in values.keys() - dropped:
                seen[one][seed] = values[one][seed]
            dropped |= confirming.losers({one: own for one, own in seen.items() if one not in dropped})
        won = confirming.winner(seen, dropped)
        assert won is not None
        right += 0 in {won, *confirming.tied(seen, won, set())}
        trained += sum(map(len, seen.values()))
    assert right >= 54
    assert trained < 0.75 * 60 * 50


def test_settings_that_share_their_luck_are_told_apart_where_others_are_not() -> None:
    """Half a deviation apart: seed by seed that is plain, by the means it is not."""
    alone, together = drawn([0.5, 0.0], 10), drawn([0.5, 0.0], 10, shared=0.99)
    assert confirming.tied(alone, 0, set()) == {1}
    assert confirming.tied(together, 0, set()) == set()
    assert confirming.losers(together) == {1}
    assert confirming.estimates(together, set())[0].probability > 0.999
    assert confirming.estimates(alone, set())[0].probability < 0.99


def test_nine_in_ten_means_over_as_many_other_seeds_lie_in_the_interval() -> None:
    hits = 0
    for n in range(120):
        both = drawn([3.0], 20, seed=n)[0]
        seen = dict(list(both.items())[:10])
        later = np.mean(list(both.values())[10:])
        found = confirming.estimates({0: seen}, set())[0]
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= later <= found.high
    assert 100 <= hits <= 116


def test_probabilities_are_as_often_right_as_they_say() -> None:
    """The truth is drawn, too: of all that is said, with which share is the best of three named?"""
    said, right = 0.0, 0
    rng = np.random.default_rng(1)
    for n in range(100):
        truth = rng.standard_normal(3)
        found = confirming.estimates(drawn(list(truth), 6, seed=1000 + n), set())
        assert sum(one.probability for one in found.values()) == pytest.approx(1)
        first = max(found, key=lambda one: found[one].probability)
        said += found[first].probability
        right += first == int(truth.argmax())
    assert right / 100 == pytest.approx(said / 100, abs=0.1)


def test_equal_settings_are_tied_and_share_the_probability() -> None:
    same = {(n, 0): 0.9 for n in range(5)}
    values = {3: same, 7: dict(same)}
    assert confirming.losers(values) == set()
    assert confirming.winner(values, set()) == 3
    assert confirming.tied(values, 3, set()) == {7}
    found = confirming.estimates(values, set())
    assert (found[3].probability, found[7].probability) == (0.5, 0.5)
    assert (found[3].low, found[3].high) == (pytest.approx(0.9), pytest.approx(0.9))


def test_one_that_is_always_worse_by_the_same_is_beaten_and_dropped() -> None:
    """Their differences do not scatter at all."""
    values = {0: {(n, 0): n + 1.0 for n in range(5)}, 1: {(n, 0): float(n) for n in range(5)}}
    assert confirming.losers(values) == {1}
    assert confirming.tied(values, 0, set()) == set()
    assert confirming.estimates(values, {1})[1].probability == 0.0
    assert confirming.tied(values, 1, {0}) == set()


def test_one_training_says_a_mean_and_no_interval() -> None:
    found = confirming.estimates({0: {(0, 0): 0.5}, 1: {}}, set())
    assert list(found) == [0]
    assert (found[0].mean, found[0].low, found[0].high, found[0].probability) == (0.5, None, None, 1.0)
    assert confirming.winner({1: {}}, set()) is None
    assert confirming.estimates({}, set()) == {}
