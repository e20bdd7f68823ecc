"""Optimisers equal PyTorch's, and weight decay goes where it should."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from objectives.config import TrainingConfig
from objectives.optimizers import build, parameter_groups
from tests.objectives.helpers import classify

REFERENCES: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.8}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "adagrad": (torch.optim.Adagrad, {}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.95, "momentum": 0.8}),
    "adadelta": (torch.optim.Adadelta, {"rho": 0.95}),
    "adam": (torch.optim.Adam, {"betas": (0.8, 0.99)}),
    "adamw": (torch.optim.AdamW, {"betas": (0.8, 0.99)}),
}
SETTINGS = {"lr": 0.02, "momentum": 0.8, "rho": 0.95, "beta1": 0.8, "beta2": 0.99, "weight_decay": 0.1}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


def plain_network() -> nn.Sequential:
    """Without batch norm: there the bias before it has no gradient but rounding, which Adam would magnify."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 5) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        optimizer.zero_grad()
        torch.autograd.backward(model(torch.randn(8, 4, generator=generator)).square().mean())
        optimizer.step()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", REFERENCES)
def test_every_optimizer_steps_as_pytorchs(name: str, fused: bool) -> None:
    ours, reference = plain_network(), plain_network()
    kind, options = REFERENCES[name]
    steps(ours, build(TrainingConfig.read({**SETTINGS, "optimizer": name, "fused": fused}), ours))
    steps(reference, kind(reference.parameters(), lr=0.02, weight_decay=0.1, **options))  # type: ignore[call-arg]
    for one, other in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_biases_and_norms_are_spared_from_decay_when_asked() -> None:
    decayed, spared = parameter_groups(network(), 0.1, decay_all=False)
    assert [parameter.ndim for parameter in decayed["params"]] == [2, 2]
    assert [parameter.ndim for parameter in spared["params"]] == [1, 1, 1, 1]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    (everything,) = parameter_groups(network(), 0.1, decay_all=True)
    assert len(everything["params"]) == 6


def test_frozen_parameters_are_left_alone() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(model, 0.1, decay_all=False)) == 5


def test_eps_reaches_the_adaptive_optimizers() -> None:
    model = network()
    assert build(TrainingConfig.read({"optimizer": "adam", "eps": 1e-3}), model).defaults["eps"] == 1e-3


@pytest.mark.parametrize("name", REFERENCES)
def test_every_optimizer_learns_real_digits(name: str) -> None:
    rates = {"sgd": 0.3, "momentum": 0.1, "nesterov": 0.1, "adagrad": 0.1, "adadelta": 3.0}
    value, _ = classify(optimizer=name, lr=rates.get(name, 0.01), epochs=6, train_limit=600)
    assert value > 0.8
