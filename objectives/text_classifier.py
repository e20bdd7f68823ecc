"""Classify texts of a CSV file: `objective: objectives.text_classifier`, `fixed: {file: reviews.csv}`.

As objectives/classifier.py, but that `dataset` is text and `model` bag where the study file does not say.
"""

from __future__ import annotations

from objectives import task
from objectives.protocol import Trial

READY = task.ReadyMade("classification", {"dataset": "text", "model": "bag"})
check, find_data = READY.check, READY.find_data
evaluate, export, refit = READY.evaluate, READY.export, task.refit


def objective(trial: Trial) -> float | tuple[float, ...]:
    """Train and return the validation accuracy, or what the setting `objective` names."""
    return READY.run(trial)
