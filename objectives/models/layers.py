"""Pieces that models share: activations and initialisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from objectives.config import Activation, Initialisation
from objectives.datasets.prepare import Columns

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


class Embedded(nn.Module):
    """Columns as `Columns` with `embed` leaves them [B, D] -> [B, width]: each category becomes a vector.

    It has at most `most` numbers, and at most half as many as there are categories, rounded up.
    """

    def __init__(self, columns: Columns, most: int) -> None:
        super().__init__()
        self.plain = len(columns.numbers) + len(columns.gaps)
        widths = [min(most, (size + 1) // 2) for size in columns.sizes]
        self.vectors = nn.ModuleList(map(nn.Embedding, columns.sizes, widths))
        self.width = self.plain + sum(widths)

    def forward(self, inputs: Tensor) -> Tensor:
        parts = [own(inputs[:, self.plain + i].long()) for i, own in enumerate(self.vectors)]
        return torch.cat([inputs[:, : self.plain], *parts], 1)


# What nn.init.calculate_gain and kaiming_normal_ know; smooth rectifiers are initialised as relu is.
_KAIMING = {"leaky_relu": "leaky_relu", "tanh": "tanh", "sigmoid": "sigmoid", "identity": "linear"}


def initialise(model: nn.Module, kind: Initialisation, std: float, activation: Activation) -> None:
    """Set every linear and convolution weight of `model`.

    normal: N(0, std^2); biases keep PyTorch's own values. xavier: Glorot and Bengio 2010, uniform. kaiming:
    He et al. 2015, normal, fan in, with the gain of `activation`; under these two biases start at 0.
    default: PyTorch's own values stay, biases too.
    """
    if kind == "default":
        return
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        if kind == "normal":
            nn.init.normal_(module.weight, 0.0, std)
            continue
        if kind == "xavier":
            nn.init.xavier_uniform_(module.weight)
        else:
            slope = 0.01 if activation == "leaky_relu" else 0.0
            gain = _KAIMING.get(activation, "relu")
            nn.init.kaiming_normal_(module.weight, a=slope, nonlinearity=gain)  # type: ignore[arg-type]
        if module.bias is not None:
            nn.init.zeros_(module.bias)
