"""Preparation: what is learnt of the inputs, from the training data alone.

Images are scaled per channel, tables per feature. Regression targets are standardised too, and the model's
outputs are scaled back before anything is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from objectives.config import Preparation


@dataclass(frozen=True)
class Scaling:
    """x -> (x - shift) / scale, element by element."""

    shift: Tensor  # [1, C, 1, 1] or [1, D]; [1] for targets
    scale: Tensor

    def apply(self, inputs: Tensor) -> Tensor:
        """Return `inputs` [N, ...] scaled, as float32 on their own device."""
        return inputs.to(torch.float32, copy=True).sub_(self.shift).div_(self.scale)

    def undo(self, values: Tensor) -> Tensor:
        """Return scaled `values` in their original units."""
        return values * self.scale + self.shift

    def to(self, device: torch.device) -> Self:
        """The same with its tensors on `device`."""

        def sent(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(sent, value))
            return value.to(device) if isinstance(value, Tensor | Scaling) else value

        return replace(self, **{field.name: sent(getattr(self, field.name)) for field in fields(self)})

    @property
    def device(self) -> torch.device:
        """Where it is applied."""
        return self.shift.device


@dataclass(frozen=True)
class Whole(Scaling):
    """Whole numbers stay what they are; those of words become numbers of the vocabulary `words`."""

    words: tuple[str, ...] = ()  # by number; 0 is behind the end, 1 any other word
    lookup: Tensor | None = None  # from the numbers of all words

    def apply(self, inputs: Tensor) -> Tensor:
        """Return `inputs` [N, ...] as int64."""
        return inputs.long() if self.lookup is None else self.lookup[inputs.long()]


@dataclass(frozen=True)
class Columns(Scaling):
    """Columns of a table [N, D]: numbers scaled, what is missing filled; categories as 0 and 1, or numbered.

    Behind the scaled numbers come those of `gaps`, 1 where the number is missing; then the categories: with
    `embed` one number each, 0 for any that the training data lack, else one column for each that they have.
    """

    numbers: Tensor  # [n] of D
    fill: Tensor  # [n], the mean
    gaps: Tensor  # of n, those that miss values in the training data
    categories: tuple[int, ...]  # of D
    lookups: tuple[Tensor, ...]  # of each: from its number in the table, plus one, to 0 or 1 to S
    sizes: tuple[int, ...]  # of each: S + 1
    embed: bool

    def apply(self, inputs: Tensor) -> Tensor:
        """Return `inputs` [N, D], NaN where a value is missing, as float32."""
        numbers = inputs.float()[:, self.numbers]
        missing = numbers.isnan()
        parts = [(torch.where(missing, self.fill, numbers) - self.shift) / self.scale]
        parts.append(missing[:, self.gaps].float())
        for column, lookup, size in zip(self.categories, self.lookups, self.sizes, strict=True):
            named = lookup[(inputs[:, column].float().nan_to_num(-1.0) + 1).long()][:, None]
            if self.embed:
                parts.append(named.float())
            else:
                parts.append((named == torch.arange(1, size, device=named.device)).float())
        return torch.cat(parts, 1)


def learn_columns(inputs: Tensor, values: Sequence[Sequence[str]], kind: Preparation, embed: bool) -> Columns:
    """Learn from training `inputs` [N, D] whose columns have these `values` (see records.Table)."""
    numbers = torch.tensor([i for i, own in enumerate(values) if not own], dtype=torch.long)
    there = inputs[:, numbers]
    fill = there.nanmean(0).nan_to_num()
    scaling = learn(torch.where(there.isnan(), fill, there), kind)
    categories = tuple(i for i, own in enumerate(values) if own)
    lookups, sizes = [], []
    for column in categories:
        seen = torch.unique(inputs[:, column][~inputs[:, column].isnan()]).long()
        lookup = torch.zeros(len(values[column]) + 1, dtype=torch.long)
        lookup[seen + 1] = torch.arange(1, len(seen) + 1)
        lookups.append(lookup)
        sizes.append(len(seen) + 1)
    gaps = torch.nonzero(there.isnan().any(0))[:, 0]
    return Columns(
        scaling.shift, scaling.scale, numbers, fill, gaps, categories, tuple(lookups), tuple(sizes), embed
    )


def learn_words(inputs: Tensor, words: Sequence[str], most: int, min_count: int) -> Whole:
    """Learn the vocabulary of training `inputs` [N, T], numbers of `words`: the most frequent come first."""
    counts = torch.bincount(inputs.flatten(), minlength=len(words))
    counts[:2] = 0
    ranked = counts.argsort(descending=True, stable=True)
    known = ranked[counts[ranked] >= min_count][:most]
    lookup = torch.ones(len(words), dtype=torch.long)
    lookup[0] = 0
    lookup[known] = torch.arange(2, len(known) + 2)
    return unscaled(("", "<unknown>", *(words[i] for i in known.tolist())), lookup)


def unscaled(words: tuple[str, ...] = (), lookup: Tensor | None = None) -> Whole:
    """Whole numbers, that nothing scales."""
    return Whole(torch.zeros(1), torch.ones(1), words, lookup)


class Moments:
    """Mean, deviation and range of inputs seen in chunks, per channel or feature, in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._seen: tuple[Tensor, Tensor, Tensor, Tensor] | None = None  # sum, squares, lowest, highest

    def add(self, inputs: Tensor) -> None:
        """Take in `inputs` [N, C, H, W] or [N, D]."""
        values = inputs.double()
        axes = [0, 2, 3] if values.ndim == 4 else [0]
        total = values.sum(axes, keepdim=True)
        squares = values.square().sum(axes, keepdim=True)
        low, high = values.amin(axes, keepdim=True), values.amax(axes, keepdim=True)
        self._count += values.numel() // total.numel()
        if self._seen is not None:
            before = self._seen
            total, squares = before[0] + total, before[1] + squares
            low, high = torch.minimum(before[2], low), torch.maximum(before[3], high)
        self._seen = total, squares, low, high

    def scaling(self, kind: Preparation) -> Scaling:
        """Return the scaling of `kind`.

        standardize: mean 0, deviation 1 over the training data. minmax: the training data in [0, 1].
        none: the values as they are (bytes as 0 to 255).
        A channel or feature without variation is only shifted.
        """
        assert self._seen is not None
        total, squares, low, high = self._seen
        mean = total / self._count
        if kind == "none":
            shift, scale = torch.zeros_like(mean), torch.ones_like(mean)
        elif kind == "minmax":
            shift, scale = low, high - low
        else:
            shift, scale = mean, (squares / self._count - mean.square()).clamp_min(0).sqrt()
        scale = torch.where(scale < 1e-12, torch.ones_like(scale), scale)
        return Scaling(shift.float(), scale.float())


def learn(inputs: Tensor, kind: Preparation, chunk: int = 4096) -> Scaling:
    """Learn a scaling from training `inputs` [N, ...], a chunk at a time."""
    moments = Moments()
    for start in range(0, len(inputs), chunk):
        moments.add(inputs[start : start + chunk])
    return moments.scaling(kind)


def learn_targets(targets: Tensor) -> Scaling:
    """Learn the scaling of a regression's training `targets` [N] to mean 0 and deviation 1."""
    scaling = learn(targets[:, None], "standardize")
    return Scaling(scaling.shift[0], scaling.scale[0])
