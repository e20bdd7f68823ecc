"""The whole state of a training run: saved so that a resumed run equals an unbroken one bit for bit.

No random state is in it: every epoch seeds its own generators from the trial's seed (see seeds.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from objectives.protocol import Trial
from objectives.stopping import Progress

if TYPE_CHECKING:
    from objectives.setup import Setup

VERSION = 1
# Seconds: what a save takes beside other lanes, at least. Of a model of 2,400 numbers it was 3.6 ms of CPU,
# less than half of it seen by who saves: reports are committed before it, and the file is removed some time.
LEAST_COST = 0.004
# Saves in whose time a run that is parked is trained anew, at most, that is held and not saved. Of those that
# are parked a third goes on, and of these half elsewhere, with two runners: for each six are saved, two read.
WORTH = 8
COST_SHARE = 0.05  # of the time, at most, that automatic checkpoints may take


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copy the state dict of `model`, on its device."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def capture(setup: Setup, progress: Progress, best: dict[str, Tensor]) -> dict[str, Any]:
    """Return everything that the loop changes. `best` is left out where it equals the present weights."""
    newest = progress.best_epoch == progress.epoch
    return {
        "version": VERSION,
        "progress": progress.copied(),
        "best": None if newest else best,
        "model": setup.model.state_dict(),
        "optimizer": setup.optimizer.state_dict(),
        "plateau": setup.plateau.state(),
        "scaler": setup.scaler.state_dict(),
    }


@dataclass(frozen=True, eq=False)
class Rested:
    """A run that is pruned, as it stands: whoever promotes it in this process goes on with its setup."""

    setup: Setup
    progress: Progress
    best: dict[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Of its weights, and of what training changes beside them."""
        return self.setup.nbytes + sum(tensor.nbytes for tensor in self.best.values())

    def state(self) -> dict[str, Any]:
        """As it is saved."""
        return capture(self.setup, self.progress, self.best)


def resume(trial: Trial, setup: Setup) -> tuple[Progress, dict[str, Tensor]]:
    """Put the newest checkpoint's state into `setup`; return the progress and the best weights so far."""
    held = trial.checkpoint.held
    if isinstance(held, Rested) and held.setup is setup:
        newest = held.progress.best_epoch == held.progress.epoch
        return _ready(setup, held.progress, None if newest else held.best)
    state = trial.checkpoint.load()
    if state is None or state.get("version") != VERSION:
        return Progress(), {}
    return restore(setup, state)


def restore(setup: Setup, state: dict[str, Any]) -> tuple[Progress, dict[str, Tensor]]:
    """Put what `capture` returned into `setup`; return the progress and the best weights so far."""
    setup.model.load_state_dict(state["model"])
    setup.optimizer.load_state_dict(state["optimizer"])
    setup.plateau.restore(state["plateau"])
    setup.scaler.load_state_dict(state["scaler"])
    return _ready(setup, Progress(**state["progress"]), state["best"])


def _ready(
    setup: Setup, progress: Progress, best: dict[str, Tensor] | None
) -> tuple[Progress, dict[str, Tensor]]:
    """A setup that stands as it did then can go on; `best`: None where that is what it has."""
    for parameter, moments in setup.optimizer.state.items():  # fused kernels take both to lie alike in memory
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(value)
    if best is None:
        return progress, copy_weights(setup.model)
    return progress, {name: tensor.to(setup.device) for name, tensor in best.items()}


class Saver:
    """Saves the loop's state every so many epochs, or as often as costs little.

    "auto" saves when the time since the last save is at least 1 / `COST_SHARE` times what that save took, so
    an interruption loses at most one epoch or 20 times the cost of a save, whichever is longer.
    """

    def __init__(self, trial: Trial, every: int | str) -> None:
        self._trial = trial
        self._every = every
        self._cost = 0.0
        self._saved_at = time.perf_counter()

    def due(self, progress: Progress, lanes: int = 1) -> bool:
        """Whether the epoch just done should be saved; beside other lanes all saves share the time."""
        if self._every == 0:
            return False
        if progress.stopped is not None:
            return lanes == 1  # its result follows at once
        if isinstance(self._every, int):
            return progress.epoch % self._every == 0
        cost = self._cost if lanes == 1 else lanes * max(self._cost, LEAST_COST)
        return time.perf_counter() - self._saved_at >= cost / COST_SHARE

    def save(self, setup: Setup, progress: Progress, best: dict[str, Tensor]) -> None:
        """Save the state after `progress.epoch`."""
        self.write(lambda: capture(setup, progress, best), progress.epoch)

    def rest(self, setup: Setup, progress: Progress, best: dict[str, Tensor]) -> None:
        """Keep the state of a run that is pruned; "auto" saves what takes longer to train anew (`WORTH`)."""
        since = sum(progress.epoch_seconds[self._trial.checkpoint.saved or 0 :])
        if self._every == "auto" and since < WORTH * max(self._cost, LEAST_COST):
            self._trial.checkpoint.hold(Rested(setup, progress, best), progress.epoch)
        else:
            self.save(setup, progress, best)

    def write(self, state: Callable[[], dict[str, Any]], epoch: int) -> None:
        """Save what `state` returns as the state after `epoch`."""
        started = time.perf_counter()
        self._trial.checkpoint.save(state(), epoch)
        self._saved_at = time.perf_counter()
        self._cost = self._saved_at - started
