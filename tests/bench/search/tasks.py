"""The searches that methods are compared on: a space each, over data that we ship, small enough to record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import TensorDataset

from hpo.search.space import random_point
from hpo.spec import StudySpec

_HERE = "tests.bench.search.tasks"
_DRAWN = 7  # seed of the settings that are recorded


@dataclass(frozen=True)
class Task:
    """One search. `space` is that of a study file; `fixed` are our objective's other settings.

    `held_out`: nothing was chosen by looking at it.
    """

    name: str
    kind: Literal["classification", "regression"]
    metric: str
    maximize: bool
    epochs: int
    space: Mapping[str, Any]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    held_out: bool = False

    @cached_property
    def spec(self) -> StudySpec:
        """A study of this search; drawing from it is all that it is for."""
        return self.study({"name": "random", "seed": _DRAWN}, "none")

    def study(self, sampler: Mapping[str, Any] | str, pruner: Mapping[str, Any] | str) -> StudySpec:
        """The study that searches here with this sampler and pruner."""
        return StudySpec.model_validate(
            {
                "study": self.name,
                "objective": f"objectives.{'classifier' if self.kind == 'classification' else 'regressor'}",
                "direction": "maximize" if self.maximize else "minimize",
                "sampler": sampler,
                "pruner": pruner,
                "budget": {"trials": 1_000_000},
                "space": self.space,
            }
        )

    def points(self, count: int) -> list[dict[str, Any]]:
        """The first `count` points of those that are recorded, always the same."""
        points = [random_point(self.spec, _DRAWN, number) for number in range(count)]
        for point in points:
            if "width" in point:
                point["width"] = _few(point["width"])
        return points

    def settings(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """A point as our objective reads it."""
        settings = {**self.fixed, **point, "epochs": self.epochs, "objective": self.metric, "keep": "last"}
        if "arch" in point:
            own = {name: settings.pop(name) for name in ("arch", "width", "dropout")}
            return {**settings, "model_args": own}
        settings["hidden"] = settings.pop("width", 8)
        return settings


def _few(width: int) -> int:
    """The nearest of about 16 widths: trainings of one build are recorded together."""
    return round(2 ** (round(5 * math.log2(width)) / 5))


_SGD: dict[str, Any] = {
    "lr": {"type": "float", "low": 1e-3, "high": 1, "log": True},
    "momentum": {"type": "float", "low": 0, "high": 0.95},
    "weight_decay": {"type": "float", "low": 1e-6, "high": 1e-2, "log": True},
    "dropout": {"type": "float", "low": 0, "high": 0.6},
}
_TABLE: dict[str, Any] = {
    "width": {"type": "int", "low": 4, "high": 64, "log": True},
    "depth": {"type": "int", "low": 1, "high": 2},
    "optimizer": {"type": "categorical", "choices": ["momentum", "adam"]},
    "lr": {"type": "float", "low": 1e-4, "high": 1, "log": True},
    "momentum": {"type": "float", "low": 0, "high": 0.98, "when": {"optimizer": ["momentum"]}},
    "weight_decay": {"type": "float", "low": 1e-6, "high": 0.1, "log": True},
    "dropout": {"type": "float", "low": 0, "high": 0.6},
    "batch_size": {"type": "categorical", "choices": [8, 32, 128]},
}
_DIGITS: dict[str, Any] = {**_TABLE, "width": {"type": "int", "low": 16, "high": 128, "log": True}}

TASKS = [
    Task(
        "digits",
        "classification",
        "accuracy",
        maximize=True,
        epochs=20,
        space={
            "arch": {"type": "categorical", "choices": ["mlp", "cnn"]},
            "width": {"type": "int", "low": 16, "high": 128, "log": True},
            **_SGD,
            "batch_size": {"type": "categorical", "choices": [16, 32, 64, 128]},
        },
        fixed={
            "dataset": f"{_HERE}:digits",
            "model": f"{_HERE}:network",
            "preparation": "none",
            "optimizer": "momentum",
        },
    ),
    Task(
        "breast-cancer",
        "classification",
        "loss",
        maximize=False,
        epochs=27,
        space=_TABLE,
        fixed={"dataset": "breast_cancer", "validation_fraction": 0.4},
    ),
    Task(
        "diabetes",
        "regression",
        "rmse",
        maximize=False,
        epochs=27,
        space={**_TABLE, "loss": {"type": "categorical", "choices": ["mse", "huber"]}},
        fixed={"dataset": "diabetes", "validation_fraction": 0.4},
    ),
    Task(
        "digits-300",
        "classification",
        "accuracy",
        maximize=True,
        epochs=27,
        space={
            **_DIGITS,
            "activation": {"type": "categorical", "choices": ["relu", "tanh"]},
        },
        fixed={"dataset": "digits", "train_limit": 300, "validation_fraction": 0.5},
        held_out=True,
    ),
    Task(
        "wine",
        "classification",
        "loss",
        maximize=False,
        epochs=27,
        space=_TABLE,
        fixed={"dataset": "wine", "validation_fraction": 0.5},
        held_out=True,
    ),
    Task(
        "digits-noisy",
        "classification",
        "accuracy",
        maximize=True,
        epochs=27,
        space={
            **_DIGITS,
            "label_smoothing": {"type": "float", "low": 0, "high": 0.5},
        },
        fixed={"dataset": f"{_HERE}:noisy_digits", "preparation": "none"},
        held_out=True,
    ),
    Task(
        "friedman",
        "regression",
        "rmse",
        maximize=False,
        epochs=27,
        space={**_TABLE, "activation": {"type": "categorical", "choices": ["relu", "tanh", "gelu"]}},
        fixed={"dataset": f"{_HERE}:friedman"},
        held_out=True,
    ),
]


@cache
def digits() -> dict[str, TensorDataset]:
    """897 digits to train on, 450 to validate, 450 to test, in [0, 1]."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    order = torch.randperm(len(raw.target), generator=torch.Generator().manual_seed(0))
    parts = {"train": order[:897], "validation": order[897:1347], "test": order[1347:]}
    inputs = torch.tensor(raw.images / 16, dtype=torch.float32)[:, None]
    return {name: TensorDataset(inputs[part], torch.tensor(raw.target)[part]) for name, part in parts.items()}


def noisy_digits() -> dict[str, TensorDataset]:
    """The same, flat, 400 to train on, a fifth of their labels drawn anew."""
    parts = digits()
    inputs, labels = parts["train"][:400]
    random = torch.Generator().manual_seed(1)
    drawn = torch.randint(10, labels.shape, generator=random)
    noisy = torch.where(torch.rand(labels.shape, generator=random) < 0.2, drawn, labels)
    return {**parts, "train": TensorDataset(inputs, noisy)}


@cache
def friedman() -> dict[str, TensorDataset]:
    """A made table of ten columns, five of which count: 200 rows to train on, 400 and 400 for the others."""
    from sklearn.datasets import make_friedman1

    inputs, targets = (
        torch.tensor(x, dtype=torch.float32) for x in make_friedman1(1000, noise=1, random_state=0)
    )
    ends = {"train": slice(200), "validation": slice(200, 600), "test": slice(600, 1000)}
    return {name: TensorDataset(inputs[rows], targets[rows]) for name, rows in ends.items()}


def network(arch: str, width: int, dropout: float) -> nn.Module:
    """An MLP with one hidden layer, or two convolutions of width / 8 and width / 4 maps."""
    if arch == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 10)
        )
    maps = max(2, width // 8)
    return nn.Sequential(
        nn.Conv2d(1, maps, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(maps, 2 * maps, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(32 * maps, 10),
    )
