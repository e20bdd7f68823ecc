"""scikit-learn's digits in two halves: 0 to 4, and 5 to 9 under the labels 0 to 4."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset


def low() -> TensorDataset:
    """The digits 0 to 4, [N, 1, 8, 8] bytes."""
    return _between(0)


def high() -> TensorDataset:
    """The digits 5 to 9."""
    return _between(5)


def _between(first: int) -> TensorDataset:
    raw = load_digits()
    chosen = (raw.target >= first) & (raw.target < first + 5)
    images = torch.from_numpy(raw.images[chosen]).to(torch.uint8)[:, None]
    return TensorDataset(images, torch.from_numpy(raw.target[chosen]) - first)
