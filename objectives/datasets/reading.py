"""Samples read one by one: what random numbers they draw, and whether they draw any."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from objectives import seeds
from objectives.datasets.records import LazySamples, Samples
from objectives.errors import DataError

AGAIN = 10_000  # samples, at most, that are read a second time

SeededBatch = tuple[int, list[int]]  # a seed, and which samples


class SeededReads(Dataset[Any]):
    """`samples` for a DataLoader, a batch at a time: what they draw comes from the seed that names the batch.

    So it depends neither on the number of loader processes nor on what was read before, and a resumed run
    draws as an unbroken one. State that a data set keeps for itself is out of reach.
    """

    def __init__(self, samples: LazySamples) -> None:
        self._dataset = samples.dataset
        self._indices = samples.indices

    def __getitems__(self, batch: SeededBatch) -> list[Any]:
        seed, positions = batch
        chosen = positions if self._indices is None else self._indices[positions].tolist()
        with seeds.aside(seed):
            return [self._dataset[index] for index in chosen]


@dataclass(frozen=True)
class Randomness:
    """How samples differ when they are read again."""

    own_state: bool  # even after the global generators were seeded alike


def read(samples: LazySamples) -> tuple[Samples, Randomness | None]:
    """Read every sample; also say whether reading them again gives other values.

    Samples that are not `fixed` are read by one thread (a data set need not be safe for several) and then
    again, at most `AGAIN` of them, after other seeds. They are random where a value differs, or where they
    drew from a global generator without seeding it themselves: a rare coin may well fall alike twice.

    Raises:
        DataError: a sample cannot be read, or differs in shape from the first.
    """
    indices = range(len(samples)) if samples.indices is None else samples.indices.tolist()

    def one(index: int) -> Tensor:
        tensor: Tensor = samples.dataset[index][0]
        if tuple(tensor.shape) != samples.sample_shape:
            raise DataError(
                f"sample {index} has the shape {list(tensor.shape)}, the first {list(samples.sample_shape)}; "
                "all must be alike (for a folder of images set image_size)"
            )
        return tensor

    if samples.fixed:
        with ThreadPoolExecutor(max_workers=4) as pool:
            return Samples(torch.stack(list(pool.map(one, indices))), samples.targets), None

    with seeds.aside(1):
        before = seeds.states()
        inputs = torch.stack([one(index) for index in indices])
        after = seeds.states()
    with seeds.aside(2):
        for position in torch.linspace(0, len(indices) - 1, min(len(indices), AGAIN)).long().tolist():
            if not _alike(inputs[position], one(indices[position])):
                return Samples(inputs, samples.targets), Randomness(_has_state(samples, indices[position]))
        # A data set that seeds a generator itself, by index say, leaves it in one state (b == c).
        drawn = any(a != b != c for a, b, c in zip(before, after, seeds.states(), strict=True))
    return Samples(inputs, samples.targets), Randomness(own_state=False) if drawn else None


def _has_state(samples: LazySamples, index: int) -> bool:
    values = []
    for _ in range(2):
        with seeds.aside(3):
            values.append(samples.dataset[index][0])
    return not _alike(*values)


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two readings are equal; NaN, which is refused later, equals itself."""
    return torch.equal(one, other) or torch.equal(one.nan_to_num(), other.nan_to_num())
