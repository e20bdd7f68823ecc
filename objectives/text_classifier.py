"""Classify texts of a CSV file: `objective: objectives.text_classifier`, `fixed: {file: reviews.csv}`.

As objectives/classifier.py, but that `dataset` is text and `model` bag where the study file does not say.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from objectives import task
from objectives.config import check_study
from objectives.protocol import Trial

DEFAULTS = {"dataset": "text", "model": "bag"}


def objective(trial: Trial) -> float | tuple[float, ...]:
    """Train and return the validation accuracy, or what the setting `objective` names."""
    return task.run(trial, "classification", DEFAULTS)


def check(fixed: Mapping[str, Any], searched: Collection[str] = ()) -> None:
    """Check a study's fixed settings and searched names before any trial; raises ConfigError."""
    defaults = {name: value for name, value in DEFAULTS.items() if name not in searched}
    check_study(defaults | dict(fixed), searched, "classification")


def find_data(fixed: Mapping[str, Any]) -> str:
    """Say that the study's file is here, for `hpo doctor`; raises DataError where it is not."""
    return task.find_data(DEFAULTS | dict(fixed), "classification")


def evaluate(trial: Trial, checkpoint: Mapping[str, Tensor]) -> dict[str, Any]:
    """Evaluate the weights of `model.pt` on the test set; with the nearest words of its embedding."""
    return task.evaluate(trial, checkpoint, "classification", DEFAULTS)


def export(trial: Trial, checkpoint: Mapping[str, Tensor], path: Path) -> None:
    """Save the weights of `model.pt` with all that prepares its inputs, as .pt2 or .onnx."""
    task.export(trial, checkpoint, path, "classification", DEFAULTS)


refit = task.refit
