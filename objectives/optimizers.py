"""Optimisers, with weight decay that can spare biases and normalisation; and the same for lanes.

Dimensions: L lanes, n of them in a step, P numbers of a lane (see models/stacked.py).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from objectives.config import TrainingConfig
from objectives.errors import ConfigError
from objectives.imports import is_import_path, load_callable
from objectives.models.transfer import trained_before


def build(config: TrainingConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimiser that `config` describes for the parameters of `model`."""
    kind, options = _kind(config)
    groups = shared(parameter_groups(model, config.weight_decay, config.decay_all), config, model)
    if is_import_path(config.optimizer):
        return _own(kind, config, groups)
    if config.fused and _takes_fused(kind) and _can_fuse(model, config):
        options["fused"] = True
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


def shared(groups: list[dict[str, Any]], config: TrainingConfig, model: nn.Module) -> list[dict[str, Any]]:
    """The `groups`, each as two where the backbone learns otherwise than the head: the head comes first.

    A fused kernel takes a group whose parameters have all been trained as long.
    """
    if config.backbone_lr == 1 and not config.frozen_epochs:
        return groups
    before = set(trained_before(model))
    parts = [
        group | {"params": [own for own in group["params"] if (own in before) is is_before], "share": share}
        for is_before, share in ((False, 1.0), (True, config.backbone_lr))
        for group in groups
    ]
    return [part for part in parts if part["params"]]


def weights(model: nn.Module) -> Iterable[nn.Parameter]:
    """The trained parameters that are neither biases nor of a normalisation."""
    return (parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim >= 2)


def _own(kind: Any, config: TrainingConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Build the user's own optimiser; weight decay, where it is asked for, is handed over by group."""
    if not config.weight_decay:
        groups = [{name: group[name] for name in ("params", "share") if name in group} for group in groups]
    try:
        optimizer = kind(groups, lr=config.lr, **config.optimizer_args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer: {config.optimizer} cannot be made: {error}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(f"optimizer: {config.optimizer} is not a torch.optim.Optimizer")
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(f"optimizer: {config.optimizer} wants a closure, which this loop does not give")
    return optimizer


def _kind(config: TrainingConfig) -> tuple[Any, dict[str, Any]]:
    name = config.optimizer
    options: dict[str, Any] = {}
    if is_import_path(name):
        return load_callable(name, "optimizer"), options
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
    named = {"sgd": "SGD", "momentum": "SGD", "nesterov": "SGD", "rmsprop": "RMSprop", "adamw": "AdamW"}
    return without_compiler(getattr(torch.optim, named.get(name, name.capitalize()))), options


@functools.cache
def without_compiler(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """`kind` without what tells torch's compiler to keep out of it, and imports that for two seconds."""

    def own(name: str) -> Callable[..., Any]:
        inner: Callable[..., Any] = inspect.unwrap(getattr(kind, name))
        return torch.no_grad()(inner) if name == "step" else inner

    names = ("step", "zero_grad", "add_param_group", "state_dict", "load_state_dict")
    return type(kind.__name__, (kind,), {name: own(name) for name in names})


@functools.cache
def _takes_fused(kind: type[torch.optim.Optimizer]) -> bool:
    return "fused" in inspect.signature(kind).parameters


def _can_fuse(model: nn.Module, config: TrainingConfig) -> bool:
    """Fused kernels take floating-point parameters on a CPU or CUDA device; older Adagrad a CPU only."""
    devices = ("cpu",) if config.optimizer == "adagrad" else ("cpu", "cuda")
    return all(
        parameter.device.type in devices and parameter.dtype.is_floating_point
        for parameter in model.parameters()
    )


@dataclass(frozen=True)
class _Part:
    """Neighbouring lanes of one kind during an epoch, [n, ...]."""

    own: dict[str, Tensor]  # state and hyperparameters, by name
    coupled: Tensor | None  # weight decay, where there is any
    decoupled: Tensor | None
    rates: Sequence[Tensor]  # by step
    lengths: Sequence[Tensor]  # of the steps: rates, adam's by its first correction
    corrections: Sequence[Tensor]  # adam's second


class LaneOptimizer:
    """The optimisers of L lanes as operations on matrices [L, P]: each lane's hyperparameters are its own.

    `kinds` names the update of each; one serves lanes that stand beside one another. Formulas are those of
    torch.optim, whose state the matrices in `state` hold under the same names.

    Args:
        optimizers: of the lanes, as `build` makes them.
        spared: [L, P], what weight decay spares; None where it spares nothing.
    """

    def __init__(
        self, optimizers: Sequence[torch.optim.Optimizer], spared: Tensor | None, width: int
    ) -> None:
        groups = [optimizer.param_groups[0] for optimizer in optimizers]
        device = groups[0]["params"][0].device
        self.kinds = [kind_of(optimizer) for optimizer in optimizers]
        self._names = [_state_names(kind, group) for kind, group in zip(self.kinds, groups, strict=True)]
        self.state = {
            name: torch.zeros(len(groups), width, device=device)
            for name in sorted({name for names in self._names for name in names})
        }
        self.steps = [0] * len(groups)

        def column(value: Any) -> Tensor:
            return torch.tensor([[float(value(group))] for group in groups], device=device)

        self._columns = {
            "momentum": column(lambda group: group.get("momentum", 0.0)),
            "eps": column(lambda group: group.get("eps", 0.0)),
            "fresh1": column(lambda group: 1 - group.get("betas", (0.0, 0.0))[0]),  # 1 - beta, in float64
            "fresh2": column(lambda group: 1 - group.get("betas", (0.0, 0.0))[1]),
            "fresh": column(lambda group: 1 - group.get("alpha", group.get("rho", 0.0))),
        }
        decay = column(lambda group: group["weight_decay"])
        apart = torch.tensor([[isinstance(optimizer, torch.optim.AdamW)] for optimizer in optimizers])
        self._coupled = _decay(decay * ~apart.to(device), spared)
        self._decoupled = _decay(decay * apart.to(device), spared)
        self._betas = [group.get("betas", (0.0, 0.0)) for group in groups]
        self._parts: dict[tuple[int, int], _Part] = {}

    def take(self, parts: Sequence[LaneOptimizer], lanes: Sequence[int]) -> None:
        """Go on from the state of these lanes, counted through all `parts`."""
        steps = [steps for part in parts for steps in part.steps]
        self.steps = [steps[lane] for lane in lanes]
        for name, rows in self.state.items():
            none = (rows.new_zeros(len(part.steps), rows.shape[1]) for part in parts)
            held = [part.state.get(name, zeros) for part, zeros in zip(parts, none, strict=True)]
            self.state[name] = torch.cat(held)[list(lanes)]

    def state_of(self, lane: int) -> dict[str, Tensor]:
        """The rows [P] of a lane, by the names of torch's optimiser."""
        return {name: self.state[name][lane] for name in self._names[lane]}

    def begin(self, rates: Tensor) -> None:
        """Prepare the next steps, of these learning rates [steps, L, 1].

        Bias corrections are found in float64, as torch's optimisers do.
        """
        self._parts.clear()
        self._rates = self._lengths = rates
        if "adam" not in self.kinds:
            return
        done = torch.tensor(self.steps, dtype=torch.float64)[None, :, None]
        number = done + torch.arange(1, len(rates) + 1, dtype=torch.float64)[:, None, None]
        beta1, beta2 = torch.tensor(self._betas, dtype=torch.float64).T[:, None, :, None]  # 0: not adam's
        self._lengths = rates / (1 - beta1**number).float().to(rates.device)
        self._corrections = (1 - beta2**number).sqrt().float().to(rates.device)

    def _part(self, lanes: slice) -> _Part:
        """What `lanes` have in this epoch."""
        key = (lanes.start, lanes.stop)
        if key not in self._parts:
            self._parts[key] = _Part(
                {name: value[lanes] for name, value in (self.state | self._columns).items()},
                _any_of(self._coupled, lanes),
                _any_of(self._decoupled, lanes),
                self._rates[:, lanes].unbind(),
                self._lengths[:, lanes].unbind(),
                self._corrections[:, lanes].unbind() if "adam" in self.kinds[lanes] else (),
            )
        return self._parts[key]

    def step(self, rows: Tensor, gradient: Tensor, lanes: slice, number: int) -> None:
        """Move `rows` [n, P] of `lanes`, all of one kind, against `gradient` (which is overwritten).

        `number` counts the steps since `begin`.
        """
        part = self._part(lanes)
        own, rate = part.own, part.lengths[number]
        if part.coupled is not None:
            gradient = gradient.addcmul_(rows, part.coupled)
        if part.decoupled is not None:
            rows.mul_(1 - part.rates[number] * part.decoupled)
        kind = self.kinds[lanes.start]
        if kind in ("momentum", "nesterov"):
            buffer = own["momentum_buffer"].mul_(own["momentum"]).add_(gradient)
            gradient = buffer if kind == "momentum" else gradient.addcmul_(buffer, own["momentum"])
        elif kind == "adam":
            mean = own["exp_avg"].lerp_(gradient, own["fresh1"])
            square = own["exp_avg_sq"].lerp_(gradient.square_(), own["fresh2"])
            gradient = mean / square.sqrt().div_(part.corrections[number]).add_(own["eps"])
        elif kind == "adagrad":
            total = own["sum"].addcmul_(gradient, gradient)
            gradient = gradient / total.sqrt().add_(own["eps"])
        elif kind == "rmsprop":
            square = own["square_avg"].lerp_(gradient.square(), own["fresh"])
            gradient = gradient / square.sqrt().add_(own["eps"])
            if any("momentum_buffer" in names for names in self._names[lanes]):
                gradient = own["momentum_buffer"].mul_(own["momentum"]).add_(gradient)
        elif kind == "adadelta":
            square = own["square_avg"].lerp_(gradient.square(), own["fresh"])
            moved = own["acc_delta"]
            gradient = gradient * (moved + own["eps"]).sqrt_() / (square + own["eps"]).sqrt_()
            moved.lerp_(gradient.square(), own["fresh"])
        rows.addcmul_(gradient, rate, value=-1)


def kind_of(optimizer: torch.optim.Optimizer) -> str:
    """The update that `optimizer` makes; adam stands for adamw too, sgd is one without momentum."""
    if isinstance(optimizer, torch.optim.SGD):
        group = optimizer.param_groups[0]
        return "sgd" if group["momentum"] == 0 else "nesterov" if group["nesterov"] else "momentum"
    return {"AdamW": "adam"}.get(type(optimizer).__name__, type(optimizer).__name__.lower())


def _state_names(kind: str, group: dict[str, Any]) -> tuple[str, ...]:
    """What torch's optimiser holds for each parameter, beside the number of steps."""
    if kind == "rmsprop":
        return ("square_avg", "momentum_buffer") if group["momentum"] > 0 else ("square_avg",)
    return {
        "sgd": (),
        "momentum": ("momentum_buffer",),
        "nesterov": ("momentum_buffer",),
        "adam": ("exp_avg", "exp_avg_sq"),
        "adagrad": ("sum",),
        "adadelta": ("square_avg", "acc_delta"),
    }[kind]


def _any_of(decay: Tensor | None, lanes: slice) -> Tensor | None:
    return None if decay is None or not bool(decay[lanes].any()) else decay[lanes]


def _decay(rates: Tensor, spared: Tensor | None) -> Tensor | None:
    """Weight decay as [L, 1], or [L, P] where some numbers are spared; None where there is none."""
    if not bool(rates.any()):
        return None
    return rates if spared is None else rates * ~spared
