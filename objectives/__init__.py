"""Objectives: what a trial trains, and the parts they are made of.

    from objectives import LocalTrial, TrainingConfig, assemble

Nothing heavy is imported until one of these names is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from objectives.config import TrainingConfig as TrainingConfig
    from objectives.datasets.load import prepare as prepare
    from objectives.errors import TrainingError as TrainingError
    from objectives.protocol import Trial as Trial
    from objectives.setup import Setup as Setup
    from objectives.setup import assemble as assemble
    from objectives.standalone import LocalTrial as LocalTrial

_HOMES = {
    "LocalTrial": "objectives.standalone",
    "Setup": "objectives.setup",
    "TrainingConfig": "objectives.config",
    "TrainingError": "objectives.errors",
    "Trial": "objectives.protocol",
    "assemble": "objectives.setup",
    "prepare": "objectives.datasets.load",
}

__all__ = ["LocalTrial", "Setup", "TrainingConfig", "TrainingError", "Trial", "assemble", "prepare"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'objectives' has no attribute {name!r}")
