"""Batches: taken by index from samples that lie in device memory.

A tutorial's DataLoader collates every batch from single samples in Python; taking rows of a tensor by index
does the same work in one call.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from objectives import seeds
from objectives.datasets.records import Samples

Batch = tuple[Tensor, Tensor]  # inputs [B, ...], targets [B], both on the device


class MemoryBatches:
    """Batches of samples in device memory.

    Args:
        samples: inputs [N, ...] and targets [N].
        batch_size: samples per batch, at least 1; the last batch may be smaller.
        seed: of the order in which training batches are drawn.
        join_last: add a last batch of one sample to the one before it (batch norm needs two).
    """

    def __init__(self, samples: Samples, batch_size: int, seed: int = 0, join_last: bool = False) -> None:
        self._samples = samples
        self._seed = seed
        count = len(samples)
        self._starts = list(range(0, count, batch_size))
        if join_last and count % batch_size == 1 and len(self._starts) > 1:
            self._starts.pop()
        self._ends = [*self._starts[1:], count]

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._starts)

    @property
    def samples(self) -> int:
        """Samples per epoch."""
        return len(self._samples)

    def groups(self, accumulate: int) -> list[tuple[float, bool]]:
        """For each batch: its share of its group of `accumulate` batches, and whether it is the last.

        Weighting gradients by these shares makes a group's step that of one large batch.
        """
        sizes = [end - start for start, end in zip(self._starts, self._ends, strict=True)]
        result = []
        for first in range(0, len(sizes), accumulate):
            group = sizes[first : first + accumulate]
            result += [(size / sum(group), i == len(group) - 1) for i, size in enumerate(group)]
        return result

    def shuffled(self, epoch: int) -> Iterator[Batch]:
        """Yield every sample once, in an order that depends on the seed and `epoch` alone."""
        inputs, targets = self._samples.inputs, self._samples.targets
        generator = seeds.generator(seeds.derive(self._seed, "order", epoch))
        order = torch.randperm(len(targets), generator=generator).to(inputs.device)
        for start, end in zip(self._starts, self._ends, strict=True):
            chosen = order[start:end]
            yield inputs.index_select(0, chosen), targets.index_select(0, chosen)

    def in_order(self) -> Iterator[Batch]:
        """Yield every sample once, in the order of the data."""
        inputs, targets = self._samples.inputs, self._samples.targets
        for start, end in zip(self._starts, self._ends, strict=True):
            yield inputs[start:end], targets[start:end]
