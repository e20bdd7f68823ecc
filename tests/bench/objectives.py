"""What the benchmarks run: no training at all, so that only the service is measured."""

from __future__ import annotations

from typing import Any

REPORTS = 10


def ten_reports(trial: Any) -> float:
    """Eight parameters, ten reports, each followed by the question whether to go on; one value."""
    value = sum(trial.suggest_float(f"p{i}", 0.0, 1.0) for i in range(8))
    for step in range(1, REPORTS + 1):
        trial.report(value + step, step)
        trial.should_prune()
    return float(value)
