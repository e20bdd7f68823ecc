"""Which value of one parameter sets good runs apart from the others (TPE: Bergstra et al. 2011, section 4).

A density each, of the values that good runs have and of those that others have; values are drawn from the
first, and the one where it exceeds the second most is taken. A density is a mixture: a kernel at each value,
as wide as the way to its farther neighbour, and one over the whole range. Kernels are logistic, cut off at
the ends: close to normal, and all they need is a tanh. Where values are many, the old count less. A choice is
drawn from the first density as it is: the best ratio would be the same choice nearly every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from hpo.search.draws import from_unit, to_unit

_DRAWN = 24  # values among which the best is taken
_NEWEST = 25  # values that count in full
_SCALE = np.sqrt(3) / np.pi  # of a logistic kernel whose standard deviation is 1


def sets_apart(
    rng: np.random.Generator, held: BaseDistribution, good: Sequence[Any], others: Sequence[Any]
) -> Any:
    """A value of this parameter; `good` and `others` are values that runs have, the oldest first."""
    if isinstance(held, CategoricalDistribution):
        shares = _shares([held.choices.index(one) for one in good], len(held.choices))
        return held.choices[rng.choice(len(shares), p=shares)]
    mixtures = [_Mixture(to_unit(held, some)) for some in (good, others)]
    points = mixtures[0].draw(rng)
    return from_unit(
        held, float(points[np.argmax(mixtures[0].density(points) / mixtures[1].density(points))])
    )


class _Mixture:
    """A density on [0, 1)."""

    def __init__(self, values: np.ndarray) -> None:
        self._centres = np.append(values, 0.5)
        order = np.argsort(self._centres, kind="stable")
        between = np.diff(self._centres[order], prepend=0.0, append=1.0)
        widths = np.empty(len(order))
        widths[order] = np.maximum(between[:-1], between[1:])
        widths = np.clip(widths, 1 / min(100, len(order) + 1), 1)
        widths[-1] = 1.0
        self._widths = 2 * _SCALE * widths
        self._weights = _weights(len(values))
        self._low, high = (np.tanh((end - self._centres) / self._widths) for end in (0, 1))
        self._inside = high - self._low

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Values of this density."""
        of = rng.choice(len(self._centres), _DRAWN, p=self._weights)
        heights = self._low[of] + rng.random(_DRAWN) * self._inside[of]
        drawn: np.ndarray = np.clip(
            self._centres[of] + self._widths[of] * np.arctanh(heights), 0, np.nextafter(1, 0)
        )
        return drawn

    def density(self, points: np.ndarray) -> np.ndarray:
        """At these points."""
        heights = np.tanh((points[:, None] - self._centres) / self._widths)
        found: np.ndarray = (1 - heights**2) @ (self._weights / (self._widths * self._inside))
        return found


def _shares(indices: Sequence[int], count: int) -> np.ndarray:
    """How likely each choice is: that of a value mostly, of the one over the whole range all alike."""
    weights = _weights(len(indices))
    spread = 1 / len(weights)  # of a kernel, over all choices
    at = np.bincount(np.asarray(indices, int), weights[:-1], count)
    shares: np.ndarray = (at + weights[:-1].sum() * spread) / (1 + count * spread) + weights[-1] / count
    return shares


def _weights(values: int) -> np.ndarray:
    """Of the kernels of so many values, and of the one over the whole range."""
    old = max(0, values - _NEWEST)
    weights: np.ndarray = np.append(np.linspace(1 / max(1, values), 1, old), np.ones(values - old + 1))
    weights /= weights.sum()
    return weights
