"""What trainings with fresh seeds say of settings: which can no longer win, which is the best, how surely.

Every setting is trained with the same seeds, so two are compared seed by seed. Everything here is larger is
better: whoever minimises hands in values with their signs turned.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from storage.history.records import Estimate

ENOUGH = 4  # common seeds before a setting is dropped
DROPPED_BELOW = 0.1  # probability to be the best
SURE = 0.9  # of intervals
TIED_AT = 0.05  # two-sided level of the paired test that tells two settings apart
_DRAWS = 10_000

Values = Mapping[int, Mapping[tuple[int, int], float]]  # setting -> seed -> value


def losers(values: Values) -> set[int]:
    """Settings that are not worth a further training: each is the best with a small probability alone.

    To drop is to save, not to judge: what was dropped may still be as good as the winner (`tied`).
    """
    ripe = {one: found for one, found in values.items() if len(found) >= ENOUGH}
    leader, chances = winner(ripe, set()), _chances(ripe)
    return {one for one in ripe if one != leader and chances[one] < DROPPED_BELOW}


def winner(values: Values, dropped: set[int]) -> int | None:
    """The setting with the best mean of those that were not dropped, the first of equals."""
    left = {one: _mean(found) for one, found in values.items() if found and one not in dropped}
    return max(left, key=lambda one: (left[one], -one)) if left else None


def tied(values: Values, best: int, out: set[int]) -> set[int]:
    """Settings that a paired t test over their common seeds cannot tell from the best one; none of `out`."""
    return {
        one
        for one, found in values.items()
        if one != best and one not in out and found and _chance(_ahead(values[best], found)) > TIED_AT / 2
    }


def _ahead(mine: Mapping[tuple[int, int], float], theirs: Mapping[tuple[int, int], float]) -> np.ndarray:
    return np.array([mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())])


def _chance(ahead: np.ndarray) -> float:
    """The one-sided p-value of Student's t test that these differences are above zero on average."""
    from scipy import stats

    mean = float(ahead.mean()) if len(ahead) else 0.0
    if len(ahead) < 2:
        return 1.0
    error = float(ahead.std(ddof=1)) / len(ahead) ** 0.5
    if not error:
        return 0.0 if mean > 0 else 1.0
    return float(stats.t.sf(mean / error, len(ahead) - 1))


def estimates(values: Values, out: set[int]) -> dict[int, Estimate]:
    """Each setting's mean, interval and probability to be the best; those without a value are left out.

    `out`: settings that cannot be the best whatever their mean.
    """
    from scipy import stats

    chances = _chances({one: found for one, found in values.items() if found and one not in out})
    answer = {}
    for one, found in values.items():
        if not found:
            continue
        numbers = np.array(list(found.values()))
        mean, half = float(numbers.mean()), None
        if len(numbers) > 1:
            t = float(stats.t.ppf((1 + SURE) / 2, len(numbers) - 1))
            half = t * float(numbers.std(ddof=1)) * (2 / len(numbers)) ** 0.5
        answer[one] = Estimate(
            trainings=len(numbers),
            mean=mean,
            worst=float(numbers.min()),
            low=None if half is None else mean - half,
            high=None if half is None else mean + half,
            probability=chances.get(one, 0.0),
        )
    return answer


def _chances(values: Values) -> dict[int, float]:
    """The probability of each to have the best mean: the share of draws in which it is ahead.

    A draw of a mean is its average plus Student's t of n - 1 degrees times its standard error: its posterior
    with normal values and no prior knowledge. All share the random numbers of a seed, so that settings which
    are lucky with the same seeds are as much alike in the draws. One with a single training does not scatter.
    """
    seeds = {
        seed: place for place, seed in enumerate(sorted({seed for own in values.values() for seed in own}))
    }
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((_DRAWS, len(seeds)))
    scale = {}
    for n in sorted({len(own) for own in values.values()}):
        scale[n] = np.sqrt(1 / rng.chisquare(max(1, n - 1), _DRAWS)) if n > 1 else np.zeros(_DRAWS)
    draws = []
    for own in values.values():
        numbers = np.array(list(own.values()))
        apart = normal[:, [seeds[seed] for seed in own]] @ (numbers - numbers.mean())
        draws.append(numbers.mean() + apart * scale[len(own)] / len(own) ** 0.5)
    if not draws:
        return {}
    ahead = np.stack(draws)
    best = ahead == ahead.max(axis=0)  # equals share
    shares = (best / best.sum(axis=0)).mean(axis=1)
    return {one: float(share) for one, share in zip(values, shares, strict=True)}


def _mean(found: Mapping[tuple[int, int], float]) -> float:
    return sum(found.values()) / len(found)
