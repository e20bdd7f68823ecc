"""Train a regression: the settings are those of objectives/config.py.

As a study file's objective: `objective: objectives.regressor`.
"""

from __future__ import annotations

from objectives import task
from objectives.protocol import Trial

READY = task.ReadyMade("regression")
objective_many, lane_key = READY.objective_many, READY.lane_key
check, find_data = READY.check, READY.find_data
evaluate, export, refit = READY.evaluate, READY.export, task.refit


def objective(trial: Trial) -> float | tuple[float, ...]:
    """Train and return the validation RMSE in the target's units, or what the setting `objective` names."""
    return READY.run(trial)
