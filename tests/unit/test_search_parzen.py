"""Densities of one parameter's values, of which the sampler `rungs` draws."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from scipy import integrate, stats

from hpo.search.parzen import _Mixture, sets_apart

CENTRES = [[], [0.3], [0.0, 1.0], [0.2, 0.21, 0.22, 0.9], list(np.linspace(0.4, 0.5, 40))]


@pytest.mark.parametrize("values", CENTRES)
def test_a_density_covers_the_range_once_and_is_what_its_values_are_drawn_from(values: list[float]) -> None:
    mixture = _Mixture(np.array(values))
    points = np.linspace(0, 1, 20_001)
    below = integrate.cumulative_trapezoid(mixture.density(points), points, initial=0.0)
    assert below[-1] == pytest.approx(1, abs=1e-3)
    rng = np.random.default_rng(0)
    drawn = np.concatenate([mixture.draw(rng) for _ in range(100)])
    assert stats.kstest(drawn, lambda x: np.interp(x, points, below)).pvalue > 0.01


def test_a_kernel_is_a_logistic_as_wide_as_the_way_to_the_farther_neighbour_cut_off_at_the_ends() -> None:
    points = np.linspace(0, 1, 11)
    kernels = []
    for centre, width in ((0.4, 0.4), (0.5, 1.0)):  # of the value, and the one over the whole range
        whole = stats.logistic(centre, width * np.sqrt(3) / np.pi)
        kernels.append(whole.pdf(points) / (whole.cdf(1) - whole.cdf(0)))
    assert _Mixture(np.array([0.4])).density(points) == pytest.approx(np.mean(kernels, axis=0))


def test_of_many_values_the_oldest_count_least_and_the_newest_25_alike() -> None:
    """The old ones are near 0, the new ones near 1; half of the 50 are old."""
    mixture = _Mixture(np.array([0.1] * 25 + [0.9] * 25))
    low, high = mixture.density(np.array([0.1, 0.9]))
    assert 1.6 < high / low < 2.1, "the old count half on average, and one kernel is everywhere"


def test_a_value_is_drawn_where_the_good_are_and_the_others_are_not() -> None:
    rng = np.random.default_rng(0)
    held = FloatDistribution(1e-4, 1, log=True)
    good = [1e-2, 1.5e-2, 0.7e-2, 0.5] * 2
    others = [0.4, 0.6, 0.55, 1e-4, 0.3, 0.7] * 5
    found = [sets_apart(rng, held, good, others) for _ in range(50)]
    assert all(1e-4 <= value <= 1 for value in found)
    assert sum(3e-3 < value < 5e-2 for value in found) > 40, "not at 0.5, where others are, too"


def test_a_choice_is_drawn_as_often_as_the_good_have_it_and_never_one_alone() -> None:
    rng = np.random.default_rng(0)
    held = CategoricalDistribution(("sgd", None, 3))
    found = [sets_apart(rng, held, [None] * 8 + ["sgd"] * 2, ["sgd"] * 9 + [3] * 9) for _ in range(400)]
    assert found.count(None) > found.count("sgd") > found.count(3) > 5
    assert sets_apart(rng, held, [], []) in held.choices
