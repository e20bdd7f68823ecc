"""Linear models and multilayer perceptrons.

Dimensions: B batch, D input features, H hidden units, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from objectives.config import Activation
from objectives.models.layers import ACTIVATIONS


def linear(features: int, outputs: int) -> nn.Sequential:
    """One affine map [B, ...] -> [B, O]: linear regression, or softmax regression under cross-entropy."""
    return nn.Sequential(nn.Flatten(), nn.Linear(features, outputs))


def mlp(
    features: int,
    outputs: int,
    widths: Sequence[int],
    activation: Activation = "relu",
    dropout: float = 0.0,
    batch_norm: bool = False,
) -> nn.Sequential:
    """Hidden layers of `widths`, each affine, batch norm, activation, dropout; then a map to [B, O]."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width in widths:
        layers.append(nn.Linear(features, width))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(ACTIVATIONS[activation]())
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        features = width
    return nn.Sequential(*layers, nn.Linear(features, outputs))
