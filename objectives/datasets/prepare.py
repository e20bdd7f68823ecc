"""Preparation: inputs scaled by numbers learnt from the training data alone.

Images are scaled per channel, tables per feature. Regression targets are standardised too, and the model's
outputs are scaled back before anything is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

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

    def to(self, device: torch.device) -> Scaling:
        """The same scaling on `device`."""
        return Scaling(self.shift.to(device), self.scale.to(device))


class Moments:
    """Mean, deviation and range of inputs seen in chunks, per channel or feature, in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Tensor | None = None
        self._squares: Tensor | None = None
        self._low: Tensor | None = None
        self._high: Tensor | None = None

    def add(self, inputs: Tensor) -> None:
        """Take in `inputs` [N, C, H, W] or [N, D]."""
        values = inputs.double()
        axes = [0, 2, 3] if values.ndim == 4 else [0]
        total = values.sum(axes, keepdim=True)
        squares = values.square().sum(axes, keepdim=True)
        low, high = values.amin(axes, keepdim=True), values.amax(axes, keepdim=True)
        self._count += values.numel() // total.numel()
        if self._sum is None or self._squares is None or self._low is None or self._high is None:
            self._sum, self._squares, self._low, self._high = total, squares, low, high
            return
        self._sum, self._squares = self._sum + total, self._squares + squares
        self._low, self._high = torch.minimum(self._low, low), torch.maximum(self._high, high)

    def scaling(self, kind: Preparation) -> Scaling:
        """Return the scaling of `kind`.

        standardize: mean 0, deviation 1 over the training data. minmax: the training data in [0, 1].
        none: the values as they are (bytes as 0 to 255).
        A channel or feature without variation is only shifted.
        """
        assert self._sum is not None
        assert self._squares is not None
        assert self._low is not None
        assert self._high is not None
        mean = self._sum / self._count
        if kind == "none":
            shift, scale = torch.zeros_like(mean), torch.ones_like(mean)
        elif kind == "minmax":
            shift, scale = self._low, self._high - self._low
        else:
            shift, scale = mean, (self._squares / self._count - mean.square()).clamp_min(0).sqrt()
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
