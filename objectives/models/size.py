"""How large a model is."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_flops(
    model: nn.Module,
    sample_shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Floating-point operations of one sample's forward pass: a multiplication and an addition are two.

    Counts matrix products and convolutions, as torch.utils.flop_counter does.
    """
    training = model.training
    model.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(torch.zeros(1, *sample_shape, dtype=dtype, device=device))
    model.train(training)
    return int(counter.get_total_flops())
