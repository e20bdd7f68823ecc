"""A whole study file, the smallest one, and variations of them."""

from __future__ import annotations

from typing import Any

import pytest

from hpo.errors import SpecError
from hpo.spec import (
    StudySpec,
    parse_spec,
)

FULL = """\
study: digits-mlp
objective: objectives.classifier
direction: maximize
sampler: {name: tpe, seed: 0}
pruner: {name: asha, min_epochs: 1, max_epochs: 20, reduction_factor: 3}
budget: {trials: 60, seconds: 3600, target: 0.985}
retry: {lost: 3, failed: 0}
enqueue: [{lr: 0.01, hidden: 64, optimizer: adam}]
threads: 1
space:
  lr:        {type: float, low: 1.0e-4, high: 0.3, log: true}
  hidden:    {type: int, low: 16, high: 256, log: true}
  optimizer: {type: categorical, choices: [sgd, momentum, adam, adamw]}
  momentum:  {type: float, low: 0.0, high: 0.99, when: {optimizer: [momentum]}}
fixed: {dataset: digits, epochs: 20, batch_size: 64}
"""

BASE: dict[str, Any] = {
    "study": "s",
    "objective": "m",
    "direction": "minimize",
    "budget": {"trials": 5},
    "space": {"x": {"type": "float", "low": 0, "high": 1}},
}


def study(**changes: Any) -> StudySpec:
    return parse_spec(BASE | changes)


def complaint(**changes: Any) -> str:
    with pytest.raises(SpecError) as caught:
        study(**changes)
    return str(caught.value)


def space(**parameters: Any) -> dict[str, Any]:
    return {"space": parameters}


def in_full(line: str, *overrides: str) -> str:
    """The complaint about the full file with `line` put in place of the line with the same key."""
    key = line.split(":")[0]
    lines = [line if old.split(":")[0] == key else old for old in FULL.splitlines()]
    with pytest.raises(SpecError) as caught:
        parse_spec("\n".join(lines), "digits.yaml", overrides)
    return str(caught.value)
