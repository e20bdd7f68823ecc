"""Train a classifier: the settings are those of objectives/config.py.

As a study file's objective: `objective: objectives.classifier`.
"""

from __future__ import annotations

from objectives import task
from objectives.protocol import Trial

READY = task.ReadyMade("classification")
objective_many, lane_key = READY.objective_many, READY.lane_key
check, find_data = READY.check, READY.find_data
evaluate, export, refit = READY.evaluate, READY.export, task.refit


def objective(trial: Trial) -> float | tuple[float, ...]:
    """Train and return the validation accuracy, or what the setting `objective` names."""
    return READY.run(trial)
