"""What the tests of the training library share."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from objectives import classifier, regressor
from objectives.config import TrainingConfig
from objectives.datasets.records import Task
from objectives.setup import Setup, assemble
from objectives.standalone import LocalTrial

QUICK: dict[str, Any] = {"dataset": "digits", "epochs": 3, "lr": 0.01, "hidden": 16, "train_limit": 300}


class Interrupted(BaseException):
    """As the service raises it: no Exception, so nothing may swallow it."""


def weights(trial: LocalTrial) -> dict[str, Any]:
    """The state dict that the trial kept."""
    content: dict[str, Any] = torch.load(io.BytesIO(trial.read_artifact("model.pt")), weights_only=True)
    return content


def classify(**settings: Any) -> tuple[Any, LocalTrial]:
    """Train a small classifier; return the objective's value and the trial."""
    trial = LocalTrial({**QUICK, **settings})
    return classifier.objective(trial), trial


def regress(**settings: Any) -> tuple[Any, LocalTrial]:
    """Train a small regression on diabetes; return the objective's value and the trial."""
    trial = LocalTrial({"dataset": "diabetes", "epochs": 3, "lr": 0.01, "hidden": 16, **settings})
    return regressor.objective(trial), trial


def prepared(task: Task = "classification", **settings: Any) -> Setup:
    """The parts of a run that has not started."""
    config = {**QUICK, **settings}
    return assemble(LocalTrial(config), TrainingConfig.read(config), task)


def write_idx(root: Path, kind: str, train: int, test: int, seed: int = 0) -> None:
    """Write a synthetic set in the IDX files torchvision reads, under `root`/`kind`/raw."""
    generator = torch.Generator().manual_seed(seed)
    raw = root / kind / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = torch.arange(count) % 10
        images = torch.randint(0, 120, (count, 28, 28), generator=generator)
        images[torch.arange(count), labels * 2, :] = 255  # a bright row says which class it is
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.to(torch.uint8).numpy().tobytes())
        header = struct.pack(">II", 0x801, count)
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.to(torch.uint8).numpy().tobytes())


def same_tensors(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two state dicts are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def failing_after(calls: int, error: BaseException) -> Callable[[], None]:
    """A check() that raises `error` at its call number `calls` + 1."""
    count = 0

    def check() -> None:
        nonlocal count
        count += 1
        if count > calls:
            raise error

    return check
