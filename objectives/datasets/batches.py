"""Batches: taken by index from samples in device memory, or read through a DataLoader.

A tutorial's DataLoader collates every batch from single samples in Python; taking rows of a tensor by index
does the same work in one call. Samples that do not fit in memory still come through a DataLoader.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from objectives import seeds
from objectives.datasets.prepare import Scaling
from objectives.datasets.reading import SeededBatch, SeededReads
from objectives.datasets.records import LazySamples, Samples

if TYPE_CHECKING:
    from objectives.ranks import Ranks

Batch = tuple[Tensor, Tensor]  # inputs [B, ...] and targets [B], scaled, on the device


@dataclass(frozen=True)
class Drawing:
    """How batches are drawn.

    Attributes:
        batch_size: samples per batch, at least 1; the last batch may be smaller.
        seed: of the order in which training batches are drawn.
        join_last: add a last batch of one sample to the one before it (batch norm needs two).
        shares: of each class [K], by which an epoch's samples are drawn with replacement; None: each once.
        channels_last: images come in this memory layout.
    """

    batch_size: int
    seed: int = 0
    join_last: bool = False
    shares: Tensor | None = None
    channels_last: bool = False


class Batches:
    """Batches of a set of samples with these `targets` [N], in the order of the data."""

    def __init__(self, targets: Tensor, how: Drawing) -> None:
        count = len(targets)
        starts = list(range(0, count, how.batch_size))
        if how.join_last and count % how.batch_size == 1 and len(starts) > 1:
            starts.pop()
        self.samples = count
        self.bounds = list(zip(starts, [*starts[1:], count], strict=True))
        self.own = self.bounds  # the part of each that this process trains on
        self._counts = [True] * len(self.bounds)
        self._seed = how.seed
        self._labels = targets
        self._drawn_by = None if how.shares is None else how.shares.double()[targets.cpu()]

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.bounds)

    def order(self, epoch: int) -> Tensor:
        """The order [N] of the samples in `epoch`: it depends on the seed and the epoch alone."""
        generator = seeds.generator(seeds.derive(self._seed, "order", epoch))
        if self._drawn_by is not None:
            return torch.multinomial(self._drawn_by, self.samples, replacement=True, generator=generator)
        return torch.randperm(self.samples, generator=generator)

    def weights(
        self, epoch: int, of_class: Tensor | None, bounds: Sequence[tuple[int, int]] | None = None
    ) -> list[float]:
        """What each batch of `epoch`, or what is within `bounds`, counts in a mean: its samples, or their
        weights by class ([K])."""
        bounds = self.bounds if bounds is None else bounds
        if of_class is None:
            return [float(end - start) for start, end in bounds]
        each = of_class.cpu().double()[self._labels.cpu()[self.order(epoch)]]
        return [float(each[start:end].sum()) for start, end in bounds]

    def share(self, ranks: Ranks) -> None:
        """Train on this rank's part of every batch; one too small to be split counts on the first alone."""
        splits = [end - start >= 2 * ranks.size for start, end in self.bounds]
        pieces = [ranks.piece(end - start) for start, end in self.bounds]
        self.own = [
            (bounds[0] + piece.start, bounds[0] + piece.stop) if split else bounds
            for bounds, piece, split in zip(self.bounds, pieces, splits, strict=True)
        ]
        self._counts = [split or ranks.rank == 0 for split in splits]

    def own_weights(self, epoch: int, of_class: Tensor | None) -> list[float]:
        """As `weights`, of this process's part."""
        own = self.weights(epoch, of_class, self.own)
        return [weight if counts else 0.0 for weight, counts in zip(own, self._counts, strict=True)]

    def shuffled(self, epoch: int) -> Iterator[Batch]:
        """Yield the samples in the order of `epoch`."""
        raise NotImplementedError

    def in_order(self) -> Iterator[Batch]:
        """Yield every sample once, in the order of the data."""
        raise NotImplementedError


def group_shares(weights: Sequence[float], accumulate: int) -> list[tuple[float, bool]]:
    """For each batch: its share of its group of `accumulate` batches, and whether it is the last.

    Weighting gradients by these shares makes a group's step that of one large batch.
    """
    result = []
    for first in range(0, len(weights), accumulate):
        group = weights[first : first + accumulate]
        result += [(weight / (sum(group) or 1.0), i == len(group) - 1) for i, weight in enumerate(group)]
    return result


class MemoryBatches(Batches):
    """Batches of samples that lie in device memory, scaled or to be scaled on the way."""

    def __init__(self, samples: Samples, how: Drawing) -> None:
        super().__init__(samples.targets, how)
        self._inputs, self._targets, self._scaling = samples.stored, samples.targets, samples.scaling
        self._padded = samples.padded
        self._channels_last = how.channels_last and samples.stored.ndim == 4
        if self._channels_last:
            self._inputs = self._inputs.permute(0, 2, 3, 1).contiguous()

    def shuffled(self, epoch: int) -> Iterator[Batch]:
        order = self.order(epoch).to(self._inputs.device)
        for start, end in self.own:
            chosen = order[start:end]
            yield self._ready(self._inputs.index_select(0, chosen)), self._targets.index_select(0, chosen)

    def in_order(self) -> Iterator[Batch]:
        for start, end in self.bounds:
            yield self._ready(self._inputs[start:end]), self._targets[start:end]

    def _ready(self, inputs: Tensor) -> Tensor:
        inputs = inputs.permute(0, 3, 1, 2) if self._channels_last else inputs
        if self._padded:
            return inputs[:, : max(int((inputs != 0).any(0).sum()), 1)]
        return inputs if self._scaling is None else self._scaling.apply(inputs)


class LoaderBatches(Batches):
    """Batches read by worker processes, pinned, and scaled on the device."""

    def __init__(
        self,
        samples: LazySamples,
        how: Drawing,
        scaling: Scaling,
        target_scaling: Scaling | None,
        workers: int,
    ) -> None:
        super().__init__(samples.targets, how)
        self._reads = SeededReads(samples)
        self._target_type = samples.targets.dtype
        self._scaling = scaling
        self._target_scaling = target_scaling
        self._device = scaling.device
        self._format = torch.channels_last if how.channels_last and len(samples.sample_shape) == 3 else None
        # A daemonic process may not have children of its own.
        self._workers = 0 if multiprocessing.current_process().daemon else workers
        self._order: list[SeededBatch] = []
        self._loader: DataLoader[Any] | None = None

    def shuffled(self, epoch: int) -> Iterator[Batch]:
        return self._read(self.order(epoch).tolist(), self.own, seeds.derive(self._seed, "read", epoch))

    def in_order(self) -> Iterator[Batch]:
        return self._read(list(range(self.samples)), self.bounds, seeds.derive(self._seed, "read in order"))

    def _read(self, order: list[int], bounds: Sequence[tuple[int, int]], seed: int) -> Iterator[Batch]:
        self._order[:] = [
            (seeds.derive(seed, number), order[start:end]) for number, (start, end) in enumerate(bounds)
        ]
        if self._loader is None:
            self._loader = DataLoader(
                self._reads,
                batch_sampler=self._order,  # type: ignore[arg-type]  # the seeds go along to the processes
                num_workers=self._workers,
                pin_memory=self._device.type == "cuda",
                persistent_workers=self._workers > 0,
                generator=torch.Generator(),  # so that the loop's random state is left alone
            )
        for inputs, targets in self._loader:
            there = self._scaling.apply(inputs.to(self._device, non_blocking=True))
            if self._format is not None:
                there = there.contiguous(memory_format=self._format)
            truth = targets.to(self._device, self._target_type, non_blocking=True)
            if self._target_scaling is not None:
                truth = self._target_scaling.apply(truth)
            yield there, truth
