"""Learning-rate schedules in closed form: the rate of step t depends on t alone.

So a resumed run needs no schedule state, and each formula can be read. They agree with torch.optim's
schedulers of the same name. Warm-up comes before any of them; the others count from its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from objectives.config import TrainingConfig
from objectives.errors import ConfigError
from objectives.imports import is_import_path, load_callable


def build(config: TrainingConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Return the function from an optimiser step (from 0) to its learning rate.

    step, multistep and exponential change between epochs; the others at every step. plateau is constant
    here: the loop lowers it with `Plateau`.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    length = max(config.epochs * steps_per_epoch - warmup, 1)
    after = _own(config, length) if is_import_path(config.schedule) else _SHAPES[config.schedule]

    def rate(step: int) -> float:
        if step < warmup:
            start = config.warmup_start
            return config.lr * (start + (1 - start) * step / warmup)
        return after(config, step - warmup, length, steps_per_epoch)

    return rate


def apply(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group, each by its share."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)


class Plateau:
    """Lowers the rate by `gamma` when the watched value has not improved for more than `patience` epochs.

    As torch's ReduceLROnPlateau with threshold 0; lower is better here, so negate what should rise.
    The rate is not lowered beyond `min_lr`.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self._on = config.schedule == "plateau"
        self._gamma = config.gamma
        self._patience = config.plateau_patience
        self._floor = config.min_lr if self._on else 0.0
        self.factor = 1.0
        self.best = math.inf
        self.bad_epochs = 0

    def update(self, value: float) -> None:
        """Take in the value of an epoch."""
        if value < self.best:
            self.best, self.bad_epochs = value, 0
        else:
            self.bad_epochs += 1
        if self._on and self.bad_epochs > self._patience:
            self.factor *= self._gamma
            self.bad_epochs = 0

    def lowered(self, rate: float) -> float:
        """Return the scheduled `rate` (which a warm-up may hold below `min_lr`) as the plateaus lower it."""
        return max(rate * self.factor, min(rate, self._floor))

    def state(self) -> dict[str, float]:
        """What a resumed run must know."""
        return {"factor": self.factor, "best": self.best, "bad_epochs": self.bad_epochs}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from `state`."""
        self.factor, self.best = state["factor"], state["best"]
        self.bad_epochs = int(state["bad_epochs"])


def _own(config: TrainingConfig, length: int) -> Callable[[TrainingConfig, int, int, int], float]:
    """A scheduler of torch, run beforehand over all epochs, or a function of (step, steps)."""
    named, arguments = config.schedule, config.schedule_args
    made = load_callable(named, "schedule")
    scheduler = isinstance(made, type) and issubclass(made, torch.optim.lr_scheduler.LRScheduler)
    try:
        if not scheduler:
            float(made(0, length, **arguments))
            return lambda config, step, length, per_epoch: config.lr * float(made(step, length, **arguments))
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.lr)
        own = made(optimizer, **arguments)
        rates = []
        for _ in range(config.epochs):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            own.step()
    except Exception as error:
        raise ConfigError(
            f"schedule: {named} cannot be used with {arguments}: {type(error).__name__}: {error}"
            + ("; for a plateau say schedule: plateau" if "metrics" in str(error) else "")
        ) from error
    return lambda config, step, length, per_epoch: rates[min(step // per_epoch, len(rates) - 1)]


def _cosine_restarts(config: TrainingConfig, step: int, length: int, per_epoch: int) -> float:
    """Loshchilov and Hutter 2017: cycles, each `restart_factor` times as long as the one before."""
    cycle = config.restart_epochs * per_epoch
    while step >= cycle:
        step -= cycle
        cycle *= config.restart_factor
    return _half_cosine(config.lr, config.min_lr, step / cycle)


def _one_cycle(config: TrainingConfig, step: int, length: int, per_epoch: int) -> float:
    """Smith and Topin 2018: from lr / div up to lr, then down to lr / div / final_div.

    Where the rise is a single step, training starts at its top.
    """
    low = config.lr / config.one_cycle_div
    peak = config.one_cycle_rise * length - 1
    step = min(step, length - 1)
    if step <= peak:
        return _half_cosine(low, config.lr, step / peak if peak > 0 else 1.0)
    return _half_cosine(config.lr, low / config.one_cycle_final_div, (step - peak) / (length - 1 - peak))


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


_SHAPES: dict[str, Callable[[TrainingConfig, int, int, int], float]] = {
    "constant": lambda config, step, length, per_epoch: config.lr,
    "plateau": lambda config, step, length, per_epoch: config.lr,
    "step": lambda config, step, length, per_epoch: (
        config.lr * config.gamma ** (step // (config.step_epochs * per_epoch))
    ),
    "multistep": lambda config, step, length, per_epoch: (
        config.lr * config.gamma ** sum(step >= epoch * per_epoch for epoch in config.milestones)
    ),
    "exponential": lambda config, step, length, per_epoch: config.lr * config.gamma ** (step // per_epoch),
    "polynomial": lambda config, step, length, per_epoch: (
        config.lr * (1 - min(step, length) / length) ** config.power
    ),
    # Loshchilov and Hutter 2017, equation 5, without restarts
    "cosine": lambda config, step, length, per_epoch: _half_cosine(
        config.lr, config.min_lr, min(step / length, 1.0)
    ),
    "cosine_restarts": _cosine_restarts,
    "one_cycle": _one_cycle,
}
