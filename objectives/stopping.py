"""How far a run has come, and whether it is time to end it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

from objectives.config import TrainingConfig
from objectives.metrics import Metric


@dataclass
class Progress:
    """What the loop has seen. Plain numbers, so that it can be saved."""

    epoch: int = 0  # epochs done
    best_epoch: int = 0
    best_value: float = math.nan  # the monitored metric at best_epoch
    values: dict[str, float] = field(default_factory=dict)  # of the last epoch
    best_values: dict[str, float] = field(default_factory=dict)  # of best_epoch
    stale_epochs: int = 0  # since an improvement by more than min_delta
    stale_value: float = math.nan  # what has to be improved on by min_delta
    train_losses: list[float] = field(default_factory=list)  # one per epoch
    epoch_seconds: list[float] = field(default_factory=list)  # training only, one per epoch
    train_accuracy: float | None = None  # of the last epoch, as it was trained; None for a regression
    stopped: str | None = None  # why the run has ended; None while it goes on
    reported: bool = True  # False where the run was interrupted before the last epoch was reported

    def copied(self) -> dict[str, Any]:
        """The fields as plain values, of which none changes with this."""
        return {name: copy.copy(value) for name, value in vars(self).items()}

    def record(
        self,
        config: TrainingConfig,
        monitor: Metric,
        train_loss: float,
        seconds: float,
        values: dict[str, float],
    ) -> bool:
        """Take in one epoch; return whether it is the best so far. Sets `stopped` when the run should end.

        A NaN never counts as an improvement. Ties keep the earlier epoch.
        """
        self.epoch += 1
        self.values = values
        self.train_losses.append(train_loss)
        self.epoch_seconds.append(seconds)
        value = values[monitor.name]
        improved = _better(value, self.best_value, 0.0, monitor.maximize)
        if improved:
            self.best_epoch, self.best_value, self.best_values = self.epoch, value, values
        if _better(value, self.stale_value, config.min_delta, monitor.maximize):
            self.stale_value, self.stale_epochs = value, 0
        else:
            self.stale_epochs += 1
        self.stopped = self._reason(config, monitor)
        return improved

    def _reason(self, config: TrainingConfig, monitor: Metric) -> str | None:
        value, target = self.values[monitor.name], config.target
        if target is not None and (value >= target if monitor.maximize else value <= target):
            return "target"
        if config.patience is not None and self.stale_epochs >= config.patience:
            return "patience"
        if config.converged_epochs is not None and len(self.train_losses) > config.converged_epochs:
            recent = self.train_losses[-config.converged_epochs - 1 :]
            if max(recent) - min(recent) < config.converged_tolerance:
                return "converged"
        return "epochs" if self.epoch >= (config.refit_epochs or config.epochs) else None


def _better(value: float, than: float, by: float, maximize: bool) -> bool:
    if math.isnan(value):
        return False
    if math.isnan(than):
        return True
    return value > than + by if maximize else value < than - by
