"""Optimisers, with weight decay that can spare biases and normalisation."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from objectives.config import TrainingConfig


def build(config: TrainingConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimiser that `config` describes for the parameters of `model`."""
    kind, options = _kind(config)
    if config.fused and "fused" in inspect.signature(kind).parameters and _can_fuse(model, config):
        options["fused"] = True
    groups = parameter_groups(model, config.weight_decay, config.decay_all)
    optimizer: torch.optim.Optimizer = kind(groups, lr=config.lr, **options)
    return optimizer


def parameter_groups(model: nn.Module, weight_decay: float, decay_all: bool) -> list[dict[str, Any]]:
    """Group the parameters: those of two or more dimensions decay; the others only where `decay_all`."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if decay_all or weight_decay == 0:
        return [{"params": trained, "weight_decay": weight_decay}]
    return [
        {"params": list(weights(model)), "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]


def weights(model: nn.Module) -> Iterable[nn.Parameter]:
    """The trained parameters that are neither biases nor of a normalisation."""
    return (parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim >= 2)


def _kind(config: TrainingConfig) -> tuple[Any, dict[str, Any]]:
    optim = torch.optim
    name = config.optimizer
    options: dict[str, Any] = {}
    if name in ("momentum", "nesterov"):
        options = {"momentum": config.momentum, "nesterov": name == "nesterov" and config.momentum > 0}
    elif name in ("adam", "adamw"):
        options = {"betas": (config.beta1, config.beta2)}
    elif name == "rmsprop":
        options = {"alpha": config.rho}
        if "momentum" in config.model_fields_set:
            options["momentum"] = config.momentum
    elif name == "adadelta":
        options = {"rho": config.rho}
    if config.eps is not None and name not in ("sgd", "momentum", "nesterov"):
        options["eps"] = config.eps
    kinds = {
        "sgd": optim.SGD,
        "momentum": optim.SGD,
        "nesterov": optim.SGD,
        "adagrad": optim.Adagrad,
        "rmsprop": optim.RMSprop,
        "adadelta": optim.Adadelta,
        "adam": optim.Adam,
        "adamw": optim.AdamW,
    }
    return kinds[name], options


def _can_fuse(model: nn.Module, config: TrainingConfig) -> bool:
    """Fused kernels take floating-point parameters on a CPU or CUDA device; older Adagrad a CPU only."""
    devices = ("cpu",) if config.optimizer == "adagrad" else ("cpu", "cuda")
    return all(
        parameter.device.type in devices and parameter.dtype.is_floating_point
        for parameter in model.parameters()
    )
