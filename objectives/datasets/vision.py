"""torchvision's image data sets: MNIST, FashionMNIST, KMNIST and CIFAR10."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from objectives.datasets.records import DataSet, Samples
from objectives.errors import DataError

CLASSES = {"mnist": "MNIST", "fashionmnist": "FashionMNIST", "kmnist": "KMNIST", "cifar10": "CIFAR10"}


def load(name: str, root: Path, download: bool) -> DataSet:
    """Load one of `CLASSES` from `root`, downloading it first where that is allowed and needed.

    Images are uint8 [N, C, H, W].

    Raises:
        DataError: the files are not there and downloading is off or fails.
    """
    train, test = (_read(name, root, train, download) for train in (True, False))
    return DataSet(
        name,
        "classification",
        train=_samples(train),
        test=_samples(test),
        classes=tuple(str(label) for label in train.classes),
    )


def _read(name: str, root: Path, train: bool, download: bool) -> Any:
    import torchvision

    kind = getattr(torchvision.datasets, CLASSES[name])
    try:
        return kind(root=str(root), train=train, download=False)
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        if not isinstance(error, RuntimeError) or "not found" not in str(error).lower():
            raise DataError(f"{CLASSES[name]}: the files in {str(root)!r} cannot be read: {error}") from error
    if not download:
        raise DataError(
            f"{CLASSES[name]}: there are no files in {str(root)!r}. Set download: true to fetch them, "
            "or data_root to the directory that has them."
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root / ".download.lock"):
            return kind(root=str(root), train=train, download=True)
    except Exception as error:
        raise DataError(
            f"{CLASSES[name]}: the files are not in {str(root)!r} and could not be downloaded "
            f"({type(error).__name__}: {error}). With no network, copy torchvision's files to "
            f"{str(root / CLASSES[name])!r}, or use a bundled data set such as dataset: digits."
        ) from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock at `path`, so that runners who start together do not write the same files."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _samples(raw: Any) -> Samples:
    images = torch.as_tensor(raw.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return Samples(images.contiguous(), torch.as_tensor(raw.targets, dtype=torch.int64))
