"""Random numbers of a study: each one a pure function of (study seed, ticket index, purpose).

SHA-256 of the three gives the bits, so no number depends on how many runners there are, on who
claims first, on a resume in the middle, or on a library's generator.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)


def bits(seed: int, ticket: int, purpose: str, count: int) -> int:
    """An integer of `count` random bits (at most 256)."""
    key = json.dumps(["hpo", seed, ticket, purpose]).encode()
    return int.from_bytes(hashlib.sha256(key).digest(), "big") >> (256 - count)


def unit(seed: int, ticket: int, name: str) -> float:
    """A uniform number in [0, 1) for the parameter `name` of a ticket, with 53 random bits."""
    return float(bits(seed, ticket, f"parameter {name}", 53)) * 2.0**-53


def training_seed(study_seed: int, ticket: int) -> int:
    """The seed an objective trains with: 0 <= seed < 2**63, different for every ticket."""
    return bits(study_seed, ticket, "training", 63)


def repeat_seed(study_seed: int, group: int) -> int:
    """The seed of the `group`-th time that settings are trained again; the same for every setting."""
    return bits(study_seed, group, "repeat", 63)


def in_sample(study_seed: int, ticket: int) -> float:
    """Where in [0, 1) a ticket stands in the order in which those that are pruned are run to their end."""
    return float(bits(study_seed, ticket, "regret", 53)) * 2.0**-53


def sampler_seed(study_seed: int, ticket: int) -> int:
    """The seed of the Optuna sampler that chooses this ticket's point: 0 <= seed < 2**32."""
    return bits(study_seed, ticket, "sampler", 32)


def from_unit(distribution: BaseDistribution, share: float) -> Any:
    """The value at `share` (in [0, 1)) of a distribution, each value as likely as Optuna makes it.

    The mapping is Optuna's: uniform for floats, in the logarithm with `log`; every step equally
    likely; an integer on a log scale takes the logarithm of half a unit on either side of it.
    """
    match distribution:
        case CategoricalDistribution():
            return distribution.choices[int(share * len(distribution.choices))]
        case IntDistribution(log=True):
            low, high = math.log(distribution.low - 0.5), math.log(distribution.high + 0.5)
            value = round(math.exp(low + share * (high - low)))
            return min(max(value, distribution.low), distribution.high)
        case IntDistribution():
            count = (distribution.high - distribution.low) // distribution.step + 1
            return distribution.low + int(share * count) * distribution.step
        case FloatDistribution(log=True):
            low, high = math.log(distribution.low), math.log(distribution.high)
            return _clipped(distribution, math.exp(low + share * (high - low)))
        case FloatDistribution(step=None):
            return _clipped(distribution, distribution.low + share * (distribution.high - distribution.low))
        case FloatDistribution():
            step = float(distribution.step or 1)
            count = round((distribution.high - distribution.low) / step) + 1
            return stepped(distribution, int(share * count))
    raise TypeError(f"unknown distribution: {distribution}")


def to_unit(distribution: BaseDistribution, values: Sequence[float]) -> np.ndarray:
    """Shares in [0, 1] from which `from_unit` makes these numbers, the middle one where many do."""
    found = np.asarray(values, dtype=float)
    match distribution:
        case IntDistribution():
            half = distribution.step / 2
        case FloatDistribution(step=float(step)):
            half = step / 2
        case _:
            half = 0.0
    low, high = distribution.low - half, distribution.high + half  # type: ignore[attr-defined]
    if distribution.log:  # type: ignore[attr-defined]
        low, high, found = math.log(low), math.log(high), np.log(found)
    shares: np.ndarray = (found - low) / (high - low)
    return shares


def stepped(distribution: FloatDistribution, index: int) -> float:
    """The value `index` steps above the low, as a person would write it: 0.3, not 0.30000000000000004."""
    low, step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
    return _clipped(distribution, float(low + index * step))


def _clipped(distribution: FloatDistribution, value: float) -> float:
    return min(max(value, distribution.low), distribution.high)
