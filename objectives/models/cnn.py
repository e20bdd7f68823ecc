"""A plain convolutional network.

Dimensions: B batch, C channels, H x W pixels, K classes or outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from objectives.config import Activation
from objectives.errors import ModelError
from objectives.models.layers import ACTIVATIONS

Pooling = Literal["max", "avg", "none"]
_RISING = ("relu", "leaky_relu")  # bit for bit
_POOLS: dict[Pooling, type[nn.Module]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


def cnn(
    image: tuple[int, int, int],
    outputs: int,
    channels: Sequence[int],
    hidden: int,
    kernel_size: int = 3,
    activation: Activation = "relu",
    dropout: float = 0.0,
    batch_norm: bool = False,
    pooling: Pooling = "max",
) -> nn.Sequential:
    """Blocks of convolution, batch norm, activation and 2 x 2 pooling, then one hidden layer: [B, K].

    Args:
        image: (C, H, W) of the input.
        outputs: K.
        channels: of each block.
        hidden: units of the layer between the blocks and the output.
        kernel_size: odd, in pixels; convolutions keep H x W.
        dropout: of the hidden layer's input and output.
        pooling: how each block halves the image; "none" keeps its size.

    Raises:
        ModelError: the kernel is larger than the image it would meet, or pooling leaves no pixel.
    """
    inputs, height, width = image
    layers: list[nn.Module] = []
    for number, block in enumerate(channels, start=1):
        if kernel_size > min(height, width):
            raise ModelError(
                f"kernel_size {kernel_size} is larger than the {height} x {width} image that block {number} "
                "sees; use a smaller kernel, fewer blocks, or pooling: none"
            )
        layers.append(nn.Conv2d(inputs, block, kernel_size, padding=kernel_size // 2, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(block))
        shaped: list[nn.Module] = [ACTIVATIONS[activation]()]
        if pooling != "none":
            if min(height, width) < 2:
                raise ModelError(
                    f"block {number} cannot halve a {height} x {width} image; use fewer blocks "
                    f"({len(channels)} asked) or pooling: none"
                )
            # The largest of four is the same before and after what never falls, and four times less work.
            at = 0 if pooling == "max" and activation in _RISING else 1
            shaped.insert(at, _POOLS[pooling](2))
            height, width = height // 2, width // 2
        layers += shaped
        inputs = block
    head: list[nn.Module] = [nn.Flatten(), nn.Linear(inputs * height * width, hidden)]
    head.append(ACTIVATIONS[activation]())
    if dropout > 0:
        head.insert(1, nn.Dropout(dropout))
        head.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, *head, nn.Linear(hidden, outputs))
