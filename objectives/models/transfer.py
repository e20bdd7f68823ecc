"""Networks that were trained before: torchvision's, or any of ours, from a file of weights; with a new head.

The head is the last linear layer; all else is the backbone, which may stay frozen, or learn more slowly.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from objectives.config import TrainingConfig
from objectives.errors import ModelError
from objectives.imports import locate

if TYPE_CHECKING:
    from objectives.setup import Setup

_SEVERAL_OUTPUTS = ("googlenet", "inception_v3")  # while they train


def names() -> list[str]:
    """torchvision's classifiers that can be given a new head."""
    from torchvision import models

    return [name for name in models.list_models(module=models) if name not in _SEVERAL_OUTPUTS]


def backbone(config: TrainingConfig, sample_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Build torchvision's `config.model` with `outputs` outputs; grey images go in as three equal channels.

    Raises:
        ModelError: the data are no images, it has no linear head, or its weights are not to be had.
    """
    from torchvision import models

    if len(sample_shape) != 3 or sample_shape[0] not in (1, 3):
        raise ModelError(
            f"{config.model} needs images of 1 or 3 channels; {config.dataset} has {list(sample_shape)}"
        )
    try:
        network: nn.Module = models.get_model(
            config.model, weights="DEFAULT" if config.pretrained == "hub" else None
        )
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"pretrained: the weights of {config.model} are not in {torch.hub.get_dir()!r} and could not be "
            f"downloaded ({error}). With no network name a file: pretrained: {config.model}.pth"
        ) from error
    name = head_of(network)
    old = network.get_submodule(name) if name else None
    if not isinstance(old, nn.Linear):
        raise ModelError(f"{config.model} does not end in a linear layer, which could be replaced")
    network.set_submodule(name, nn.Linear(old.in_features, outputs))
    if sample_shape[0] == 1:
        network.register_forward_pre_hook(_coloured)
    return network


def _coloured(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].expand(-1, 3, -1, -1),)


def head_of(model: nn.Module) -> str:
    """The name of the last linear layer; "" where there is none."""
    return next(
        (name for name, own in reversed(list(model.named_modules())) if isinstance(own, nn.Linear)), ""
    )


def load_weights(model: nn.Module, file: str) -> None:
    """Put the weights of a state dict's `file` into all of `model` but its head.

    Raises:
        ModelError: the file is missing, holds no weights, or those of another model.
    """
    path = locate(file)
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"pretrained: there is no file {str(path)!r}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(
            f"pretrained: {str(path)!r} holds no weights: {str(error).splitlines()[0]}"
        ) from error
    head = f"{head_of(model)}."
    wanted = {name: value for name, value in model.state_dict().items() if not name.startswith(head)}
    found = state if isinstance(state, dict) else {}
    other = [name for name, value in wanted.items() if getattr(found.get(name), "shape", None) != value.shape]
    if other or not wanted:
        raise ModelError(
            f"pretrained: {str(path)!r} is of another model: {len(other)} of {len(wanted)} weights are "
            f"missing or of another shape, as {other[0] if other else 'all'}"
        )
    model.load_state_dict({name: found[name] for name in wanted}, strict=False)


def trained_before(model: nn.Module) -> list[nn.Parameter]:
    """The backbone's parameters."""
    head = f"{head_of(model)}."
    return [own for name, own in model.named_parameters() if own.requires_grad and not name.startswith(head)]


def hold(setup: Setup, epoch: int) -> None:
    """Freeze the backbone in `epoch` (from 1), or let it go; a frozen batch norm stays in evaluation."""
    frozen = setup.config.frozen_epochs
    if not frozen:
        return
    held = frozen == "all" or epoch <= frozen
    for parameter in setup.backbone:
        parameter.requires_grad_(not held)
    if held:
        for module in setup.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
