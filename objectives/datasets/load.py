"""From a configuration to data ready to train on; kept in memory from one trial to the next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from objectives.config import TrainingConfig, near
from objectives.datasets import bundled, custom, folder, placement, vision
from objectives.datasets.prepare import Scaling, Whole, learn_targets
from objectives.datasets.records import AnySamples, DataSet, Table, Task, check
from objectives.datasets.split import split, together
from objectives.errors import ConfigError, DataError
from objectives.imports import is_import_path, locate

Kept = TypeVar("Kept")

# The settings that say what is loaded, and those that say what becomes of it.
LOADING = (
    *("dataset", "dataset_args", "data_root", "image_size", "storage", "file", "target_column"),
    *("text_column", "columns", "categorical", "tokens", "max_length", "split", "time_column", "split_by"),
)
PREPARING = (
    *("split_seed", "validation_fraction", "test_fraction", "train_limit", "preparation", "encoding"),
    *("vocabulary", "min_count", "refit_epochs"),
)


@dataclass(frozen=True)
class Prepared:
    """Split data. `train`, `validation` and `test` lie on the device where they fit.

    `inputs` scales what a DataLoader still has to read; samples in memory give their inputs scaled.
    `targets` scales a regression's targets likewise; None for classification.
    """

    name: str
    task: Task
    classes: tuple[str, ...]
    sample_shape: tuple[int, ...]
    dtype: torch.dtype  # of a model's inputs
    table: Table | None
    train: AnySamples
    validation: AnySamples
    test: AnySamples
    inputs: Scaling
    targets: Scaling | None
    notes: tuple[str, ...]  # sentences for the log of each trial


class Cache:
    """The last few things made, by key: a runner trains many trials on the same data."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, make: Callable[[], Kept]) -> Kept:
        """Return what is kept under `key`, or make it and keep it, forgetting the least recently used."""
        if key not in self._kept:
            while len(self._kept) >= self._size:
                self._kept.popitem(last=False)
            self._kept[key] = make()
        self._kept.move_to_end(key)
        found: Kept = self._kept[key]
        return found

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()


_raw = Cache(2)
_prepared = Cache(3)


def forget() -> None:
    """Drop all cached data."""
    _raw.clear()
    _prepared.clear()


def prepare(
    config: TrainingConfig, task: Task, device: torch.device, fold: int | None = None, seed: int = 0
) -> Prepared:
    """Load, split and scale the data that `config` describes, or return it from memory.

    `fold` is one of its `folds`, from 0; None takes the split of a study without folds. By `seed`, the
    trial's, `split: reshuffle` divides.

    Raises:
        DataError: the data is missing, unreadable, or not for this task.
        ConfigError: no data set has that name.
    """
    shuffle = seed if config.split == "reshuffle" else None
    key = (_raw_key(config, task), *(getattr(config, name) for name in PREPARING), str(device), shuffle)
    if fold is None:
        return _prepared.get(key, lambda: _prepare(config, task, device, None, shuffle))
    folds = config.folds or 1
    every = _prepared.get(
        (*key, folds), lambda: [_prepare(config, task, device, (n, folds), shuffle) for n in range(folds)]
    )
    return every[fold]


def load(config: TrainingConfig, task: Task) -> DataSet:
    """Load the data set that `config` names, or return it from memory. Raises as `prepare` does."""
    return _raw.get(_raw_key(config, task), lambda: check(_load(config, task)))


def _raw_key(config: TrainingConfig, task: Task) -> tuple[Any, ...]:
    # `locate`: where the paths of the data set and its arguments begin.
    return (task, locate("."), *(repr(getattr(config, name)) for name in LOADING))


def _load(config: TrainingConfig, task: Task) -> DataSet:
    name, root = config.dataset, locate(config.data_root)
    if is_import_path(name):
        data = custom.load(name, config.dataset_args, task)
    elif name == "image_folder":
        data = folder.load(root, config.image_size)
    elif name in bundled.NAMES:
        data = bundled.load(name)
    elif name in ("table", "text"):
        from objectives.datasets import tables  # and pandas, which no other data set needs

        data = tables.load(config, task)
    elif name in vision.CLASSES:
        data = vision.load(name, root, config.download)
    else:
        known = (*bundled.NAMES, *vision.CLASSES, "image_folder", "table", "text")
        hint = near(name, known, f"there are {', '.join(known)}, or module:callable")
        raise ConfigError(f"dataset: there is no data set {name!r}; {hint}")
    if data.task != task:
        other = "objectives.regressor" if data.task == "regression" else "objectives.classifier"
        raise DataError(f"{name} is a {data.task} data set; use the objective {other}")
    return data if config.storage == "loader" else placement.into_memory(data, config.storage == "memory")


def _prepare(
    config: TrainingConfig,
    task: Task,
    device: torch.device,
    fold: tuple[int, int] | None,
    shuffle: int | None,
) -> Prepared:
    data = load(config, task)
    fractions = config.validation_fraction, config.test_fraction
    parts = split(data, config.split_seed, *fractions, config.train_limit, fold, shuffle)
    if config.refit_epochs:
        parts = replace(parts, train=together(data, parts))
    inputs = placement.learn_inputs(parts.train, config, data.table)
    targets = None if task == "classification" else learn_targets(parts.train.targets)
    place = placement.choose(config, parts, device, inputs, targets)
    train = place(parts.train)
    return Prepared(
        name=data.name,
        task=task,
        classes=data.classes,
        sample_shape=train.sample_shape,
        dtype=torch.int64 if isinstance(inputs, Whole) else torch.float32,
        table=data.table,
        train=train,
        validation=place(parts.validation),
        test=place(parts.test),
        inputs=inputs.to(device),
        targets=targets.to(device) if targets is not None else None,
        notes=data.notes,
    )
