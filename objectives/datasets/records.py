"""What a data set is to the rest of the library.

Dimensions: N samples, C channels, H x W pixels, D features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from objectives.datasets.prepare import Scaling
from objectives.errors import DataError
from objectives.seeds import digest

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Samples:
    """Samples in memory: [N, C, H, W] (uint8 images) or [N, D] (float32), and `targets` [N].

    Images stay the bytes that they are, a quarter of the memory, and are scaled on their way into a batch.
    """

    stored: Tensor
    targets: Tensor
    scaling: Scaling | None = None  # still to be applied to what is stored
    padded: bool = False  # texts: each batch is cut behind its longest

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor) -> Samples:
        """The samples at `indices` [M], copied."""
        return replace(self, stored=self.stored[indices], targets=self.targets[indices])

    @property
    def inputs(self) -> Tensor:
        """All inputs [N, ...], scaled where that is still to be done."""
        return self.stored if self.scaling is None else self.scaling.apply(self.stored)

    @property
    def dtype(self) -> torch.dtype:
        """Of what is stored."""
        return self.stored.dtype

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.stored.shape[1:])


@dataclass(frozen=True)
class LazySamples:
    """Samples that stay where they are: a map-style `Dataset` of (input, target), read by a DataLoader."""

    dataset: Any
    targets: Tensor  # [N], read once so that splits can be stratified
    sample_shape: tuple[int, ...]
    indices: Tensor | None = None  # which samples of `dataset`; None means all
    dtype: torch.dtype = torch.uint8  # of an input
    fixed: bool = False  # reading gives the same values every time, by several threads too

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor) -> LazySamples:
        """The samples at `indices` [M]."""
        chosen = indices if self.indices is None else self.indices[indices]
        return replace(self, targets=self.targets[indices], indices=chosen)


AnySamples = Samples | LazySamples


@dataclass(frozen=True)
class Table:
    """What the numbers of a table or of texts stand for.

    `columns` are named, `values` of each the categories by number, () where it holds numbers. `words` of
    texts by number, `tokens` what they are. `groups` [N] says which rows stay together, `order` [N] which
    come first.
    """

    columns: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()
    words: tuple[str, ...] = ()
    tokens: str = "words"
    groups: Tensor | None = None
    order: Tensor | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set as loaded, before it is split.

    `test` is the set's own test set where it has one, `validation` likewise.
    `classes` names the classes in the order of their labels; empty for regression. `notes` are sentences
    for the log of each trial. `table` describes a table or texts, where a missing value is NaN.
    """

    name: str
    task: Task
    train: AnySamples
    test: AnySamples | None = None
    validation: AnySamples | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    table: Table | None = None

    @cached_property
    def digest(self) -> str:
        """Of all samples in memory and of all targets; of what stays on disk, of its targets alone."""
        parts = [part for part in (self.train, self.validation, self.test) if part is not None]
        stored = [part.stored for part in parts if isinstance(part, Samples)]
        return digest([*stored, *(part.targets for part in parts)])


def check(data: DataSet) -> DataSet:
    """Return `data` if it can be trained on.

    Raises:
        DataError: an empty set, shapes that differ, labels outside the classes, NaN or infinite values.
    """
    for part, samples in (("training", data.train), ("validation", data.validation), ("test", data.test)):
        if samples is None:
            continue
        where = f"{data.name}: the {part} data"
        if len(samples) == 0:
            raise DataError(f"{where} is empty")
        if samples.sample_shape != data.train.sample_shape:
            raise DataError(
                f"{where} has inputs of shape {list(samples.sample_shape)}, "
                f"the training data {list(data.train.sample_shape)}"
            )
        _check_targets(where, samples.targets, data)
        if isinstance(samples, Samples):
            _check_inputs(where, samples, may_miss=data.table is not None)
    return data


def _check_targets(where: str, targets: Tensor, data: DataSet) -> None:
    if targets.ndim != 1:
        raise DataError(
            f"{where} has targets of shape {list(targets.shape)}; one number per sample is needed"
        )
    if data.task == "classification":
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= len(data.classes):
            wrong = low if low < 0 else high
            raise DataError(
                f"{where} has the label {wrong}, but {len(data.classes)} classes have the labels "
                f"0 to {len(data.classes) - 1}"
            )
    elif not bool(torch.isfinite(targets).all()):
        raise DataError(f"{where} has a target that is NaN or infinite")


def _check_inputs(where: str, samples: Samples, may_miss: bool) -> None:
    inputs = samples.inputs
    if len(inputs) != len(samples.targets):
        raise DataError(f"{where} has {len(inputs)} inputs but {len(samples.targets)} targets")
    if inputs.ndim not in (2, 4):
        raise DataError(
            f"{where} has inputs of shape {list(inputs.shape[1:])}; "
            "a sample is [features] or an image [channels, height, width]"
        )
    wrong = ~(torch.isfinite(inputs) | inputs.isnan() & may_miss) if inputs.is_floating_point() else None
    if wrong is not None and bool(wrong.any()):
        bad = torch.nonzero(wrong.reshape(len(inputs), -1))[0].tolist()
        raise DataError(f"{where} has a value that is NaN or infinite: sample {bad[0]}, feature {bad[1]}")
