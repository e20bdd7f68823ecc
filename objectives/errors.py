"""What can go wrong in training, said so that the trial's record explains itself."""

from __future__ import annotations

from typing import ClassVar


class TrainingError(Exception):
    """Base of every error our objectives raise. The message is one sentence a person can act on."""

    needs_restart: ClassVar[bool] = False  # True where the process should be replaced before the next trial
    diverged: ClassVar[bool] = False  # True where the setting made the training's numbers explode


class ConfigError(TrainingError):
    """A training setting is unknown, out of range, or contradicts another. Names the field."""


class DataError(TrainingError):
    """Data cannot be found, read or used as asked. Names the data set or file."""


class ModelError(TrainingError):
    """A model cannot be built, or does not fit the data."""


class DeviceError(TrainingError):
    """The device asked for is not there."""


class OutOfMemoryError(TrainingError):
    """The device's memory is exhausted. Names the batch size and the memory."""

    needs_restart = True


class DivergedError(TrainingError):
    """The loss stopped being a finite number."""

    diverged = True

    def __init__(self, epoch: int, loss: float) -> None:
        self.epoch = epoch
        self.loss = loss
        super().__init__(
            f"training diverged in epoch {epoch}: the loss is {loss}. "
            "Lower lr, clip gradients (clip_norm) or add warmup_epochs."
        )

    def __reduce__(self) -> tuple[type[DivergedError], tuple[int, float]]:
        return DivergedError, (self.epoch, self.loss)
