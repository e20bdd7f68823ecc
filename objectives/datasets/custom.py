"""Any `torch.utils.data.Dataset`, by import path: `module:callable` or `file.py:callable`.

The callable (a Dataset class or a function) is called with `dataset_args`. It returns a map-style data set
of (input, target), or a mapping with `train` and, if there are, `validation` and `test`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from objectives.datasets.records import DataSet, LazySamples, Task
from objectives.errors import ConfigError, DataError
from objectives.imports import load_callable, located


class Converted(Dataset[tuple[Tensor, Any]]):
    """A user's data set with inputs as tensors: bytes stay, whole numbers become int64, all else float32."""

    def __init__(self, name: str, source: Any) -> None:
        self._name = name
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        try:
            item, target = self._source[index]
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"{self._name}: sample {index} cannot be read as (input, target): "
                f"{type(error).__name__}: {error}"
            ) from error
        return as_tensor(item), target


def as_tensor(item: Any) -> Tensor:
    """Return a sample's input as a tensor; a PIL image becomes uint8 [C, H, W]."""
    if hasattr(item, "convert") and hasattr(item, "size"):
        pixels = torch.from_numpy(np.array(item))
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    tensor = torch.as_tensor(item)
    if tensor.ndim == 2:  # a grey image without its channel
        tensor = tensor[None]
    if tensor.dtype in (torch.int8, torch.int16, torch.int32, torch.int64):
        return tensor.long()
    return tensor if tensor.dtype == torch.uint8 else tensor.float()


def load(path: str, arguments: Mapping[str, Any], task: Task) -> DataSet:
    """Call what `path` names and describe what it returns.

    Raises:
        ConfigError: it cannot be imported or called with `arguments`.
        DataError: it does not return data sets of (input, target).
    """
    make = load_callable(path, "dataset")
    try:
        made = make(**located(make, arguments))
    except TypeError as error:
        raise ConfigError(f"dataset: {path} cannot be called with {dict(arguments)}: {error}") from error
    parts = dict(made) if isinstance(made, Mapping) else {"train": made}
    unknown = sorted(set(parts) - {"train", "validation", "test"})
    if unknown or "train" not in parts:
        raise DataError(f"{path} returned the parts {sorted(parts)}; train, validation and test are known")
    samples = {part: _describe(path, source, task) for part, source in parts.items() if source is not None}
    classes: tuple[str, ...] = ()
    if task == "classification":
        named = getattr(parts["train"], "classes", None)
        count = int(max(int(part.targets.max()) for part in samples.values())) + 1
        classes = tuple(str(name) for name in named) if named is not None else tuple(map(str, range(count)))
    return DataSet(
        path, task, samples["train"], samples.get("test"), samples.get("validation"), classes=classes
    )


def _describe(path: str, source: Any, task: Task) -> LazySamples:
    if isinstance(source, IterableDataset):
        raise DataError(
            f"{path} returned an IterableDataset, which cannot be split, shuffled or resumed; return a "
            "Dataset with len() and indexing"
        )
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
        raise DataError(f"{path} returned {type(source).__name__}, not a Dataset with len() and indexing")
    if len(source) == 0:
        raise DataError(f"{path} returned an empty data set")
    dataset = Converted(path, source)
    listed = getattr(source, "targets", None)
    raw = listed if listed is not None else [dataset[i][1] for i in range(len(dataset))]
    try:
        targets = torch.as_tensor(np.asarray(raw))
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} has targets that are not numbers: {error}") from error
    if task == "classification" and targets.is_floating_point():
        raise DataError(
            f"{path} has targets of type {targets.dtype}; a classification needs whole numbers from 0 "
            "(use objectives.regressor to predict a quantity)"
        )
    kind = torch.int64 if task == "classification" else torch.float32
    first = dataset[0][0]
    return LazySamples(dataset, targets.to(kind), tuple(first.shape), dtype=first.dtype)
