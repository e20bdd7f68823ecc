"""Train a regression: the settings are those of objectives/config.py.

As a study file's objective: `objective: objectives.regressor`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from objectives import task
from objectives.config import check_study
from objectives.protocol import Lanes, Trial


def objective(trial: Trial) -> float | tuple[float, ...]:
    """Train and return the validation RMSE in the target's units, or what the setting `objective` names."""
    return task.run(trial, "regression")


def objective_many(lanes: Lanes) -> None:
    """Train trials of one `lane_key` together."""
    task.run_many(lanes, "regression")


def lane_key(config: Mapping[str, Any]) -> Any:
    """What trials must share to be trained together; None where they cannot be, or it does not pay."""
    return task.lane_key(config, "regression")


def check(fixed: Mapping[str, Any], searched: Collection[str] = ()) -> None:
    """Check a study's fixed settings and searched names before any trial; raises ConfigError."""
    check_study(fixed, searched, "regression")


def find_data(fixed: Mapping[str, Any]) -> str:
    """Say that the study's data set is here, for `hpo doctor`; raises DataError where it is not."""
    return task.find_data(fixed, "regression")


def evaluate(trial: Trial, checkpoint: Mapping[str, Tensor]) -> dict[str, Any]:
    """Evaluate the weights of `model.pt` on the test set."""
    return task.evaluate(trial, checkpoint, "regression")


def export(trial: Trial, checkpoint: Mapping[str, Tensor], path: Path) -> None:
    """Save the weights of `model.pt` with all that prepares its inputs, as .pt2 or .onnx."""
    task.export(trial, checkpoint, path, "regression")


refit = task.refit
