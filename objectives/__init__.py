"""Objectives: what a trial trains, and the parts they are made of.

    from objectives import LocalTrial, MemoryBatches, compute_metrics

Nothing heavy is imported until one of these names is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from objectives.augment import crop_and_flip as crop_and_flip
    from objectives.augment import erase as erase
    from objectives.augment import mix as mix
    from objectives.augment import rotated_crop as rotated_crop
    from objectives.config import TrainingConfig as TrainingConfig
    from objectives.datasets.batches import MemoryBatches as MemoryBatches
    from objectives.datasets.load import prepare as prepare
    from objectives.datasets.records import Samples as Samples
    from objectives.errors import DivergedError as DivergedError
    from objectives.errors import TrainingError as TrainingError
    from objectives.evaluation import document as evaluation_document
    from objectives.metrics import compute as compute_metrics
    from objectives.models.cnn import cnn as cnn
    from objectives.models.mlp import linear as linear
    from objectives.models.mlp import mlp as mlp
    from objectives.protocol import Trial as Trial
    from objectives.seeds import seed_everything as seed_everything
    from objectives.setup import assemble as assemble
    from objectives.standalone import LocalTrial as LocalTrial

_HOMES = {
    "DivergedError": "errors",
    "LocalTrial": "standalone",
    "MemoryBatches": "datasets.batches",
    "Samples": "datasets.records",
    "TrainingConfig": "config",
    "TrainingError": "errors",
    "Trial": "protocol",
    "assemble": "setup",
    "cnn": "models.cnn",
    "compute_metrics": "metrics:compute",
    "crop_and_flip": "augment",
    "erase": "augment",
    "evaluation_document": "evaluation:document",
    "linear": "models.mlp",
    "mix": "augment",
    "mlp": "models.mlp",
    "prepare": "datasets.load",
    "rotated_crop": "augment",
    "seed_everything": "seeds",
}

__all__ = [
    "DivergedError",
    "LocalTrial",
    "MemoryBatches",
    "Samples",
    "TrainingConfig",
    "TrainingError",
    "Trial",
    "assemble",
    "cnn",
    "compute_metrics",
    "crop_and_flip",
    "erase",
    "evaluation_document",
    "linear",
    "mix",
    "mlp",
    "prepare",
    "rotated_crop",
    "seed_everything",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'objectives' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(f"objectives.{module}"), attribute or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
