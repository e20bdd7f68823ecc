"""How large a model is, and a look at what it makes of an input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def count_parameters(model: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def answer(model: nn.Module, inputs: Tensor) -> Any:
    """What `model` makes of `inputs` in evaluation; its mode stays."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(inputs)
    finally:
        model.train(training)


def count_flops(
    model: nn.Module, sample_shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> int:
    """Floating-point operations of one sample's forward pass: a multiplication and an addition are two.

    Counts matrix products and convolutions, as torch.utils.flop_counter does.
    """
    from torch.utils.flop_counter import FlopCounterMode  # and Triton

    counter = FlopCounterMode(display=False)
    with counter:
        answer(model, torch.zeros(1, *sample_shape, dtype=dtype, device=device))
    return int(counter.get_total_flops())


def count_layer_flops(model: nn.Module, sample_shape: tuple[int, ...], device: torch.device) -> int:
    """The same of its convolutional and linear layers alone; needs none of the imports of `count_flops`."""
    counts: list[int] = []

    def count(layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        counts.append(2 * output.numel() * layer.get_parameter("weight")[0].numel())

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    answer(model, torch.zeros(1, *sample_shape, device=device))
    for hook in hooks:
        hook.remove()
    return sum(counts)
