"""Where samples lie while they are trained on: in device memory where they fit, else behind a DataLoader."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psutil
import torch
from torch.utils.data import TensorDataset

from objectives.config import TrainingConfig
from objectives.datasets.prepare import (
    Columns,
    Moments,
    Scaling,
    Whole,
    learn,
    learn_columns,
    learn_words,
    unscaled,
)
from objectives.datasets.reading import Randomness, SeededReads, read
from objectives.datasets.records import AnySamples, DataSet, LazySamples, Samples, Table
from objectives.datasets.split import Split

HOST_SHARE = 0.25  # of the free memory that one process may fill with data; runners share a machine
DEVICE_SHARE = 0.4  # of the free memory of a GPU
SCALED_ONCE = 64 * 2**20  # bytes that scaled images may take; larger ones stay bytes, a quarter of that


def into_memory(data: DataSet, always: bool) -> DataSet:
    """Read the lazy parts of `data` into host memory, where they fit or `always`.

    A part that is random stays where it is, so that every epoch draws anew, unless `always`.

    Raises:
        DataError: a sample cannot be read, or differs in shape from the first.
    """
    parts: dict[str, Any] = {"train": data.train, "validation": data.validation, "test": data.test}
    needed = sum(_bytes(part) for part in parts.values() if isinstance(part, LazySamples))
    if needed == 0 or (not always and needed > psutil.virtual_memory().available * HOST_SHARE):
        return data
    notes = []
    for name, part in parts.items():
        if isinstance(part, LazySamples):
            samples, random = read(part)
            parts[name] = samples if random is None or always else part
            if random is not None:
                notes.append(_told(data.name, name, random, always))
    return replace(data, **parts, notes=(*data.notes, *notes))


def _told(name: str, part: str, random: Randomness, always: bool) -> str:
    what = f"{name}: a sample of the {part} data differs when it is read again (a random transform?)"
    if always:
        return f"{what}; storage: memory keeps one drawing of each, storage: auto would draw at every epoch"
    told = (
        f"{what}, so these data are not held in memory but read at every epoch, by loader_workers processes"
    )
    if random.own_state:
        told += (
            ". It draws from a generator or a state of its own, which nobody seeds: a resumed trial does not "
            "repeat it bit for bit. Draw from torch's, numpy's or Python's global generator instead"
        )
    return told


def learn_inputs(samples: AnySamples, config: TrainingConfig, table: Table | None) -> Scaling:
    """Learn how inputs are prepared from training `samples`, read once where they are not in memory."""
    kind = config.preparation
    if table is not None and isinstance(samples, Samples):
        if table.words:
            return learn_words(samples.stored, table.words, config.vocabulary, config.min_count)
        return learn_columns(samples.stored, table.values, kind, config.encoding == "embedding")
    if samples.dtype == torch.int64:
        return unscaled()
    if isinstance(samples, Samples):
        return learn(samples.inputs, kind)
    moments, reads = Moments(), SeededReads(samples)
    for start in range(0, len(samples), 256):
        positions = list(range(start, min(start + 256, len(samples))))
        moments.add(torch.stack([inputs for inputs, _ in reads.__getitems__((start, positions))]))
    return moments.scaling(kind)


def choose(
    config: TrainingConfig, parts: Split, device: torch.device, inputs: Scaling, targets: Scaling | None
) -> Callable[[AnySamples], AnySamples]:
    """Return the function that puts samples where `config.storage` says."""
    needed = sum(
        _bytes(part) for part in (parts.train, parts.validation, parts.test) if isinstance(part, Samples)
    )
    fits = needed <= free_memory(device)
    held = isinstance(inputs, Columns) or (isinstance(inputs, Whole) and inputs.words)
    if not held and (config.storage == "loader" or (config.storage == "auto" and not fits)):
        return _behind_loader
    return lambda samples: _on_device(samples, device, inputs, targets)


def free_memory(device: torch.device) -> int:
    """Bytes of `device` that data may fill."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * DEVICE_SHARE)
    return int(psutil.virtual_memory().available * HOST_SHARE)


def _behind_loader(samples: AnySamples) -> LazySamples:
    if isinstance(samples, LazySamples):
        return samples
    held = TensorDataset(samples.stored, samples.targets)
    return LazySamples(held, samples.targets, samples.sample_shape, dtype=samples.dtype)


def _on_device(
    samples: AnySamples,
    device: torch.device,
    scaling: Scaling,
    target_scaling: Scaling | None,
    chunk: int = 8192,
) -> AnySamples:
    """Leave many bytes as they are; scale others there, by chunks, so that no second copy is needed."""
    if isinstance(samples, LazySamples):
        return samples
    there = scaling.to(device)
    targets = samples.targets.to(device)
    if target_scaling is not None:
        targets = target_scaling.to(device).apply(targets)
    if samples.dtype == torch.uint8 and 4 * _bytes(samples) > SCALED_ONCE:
        return Samples(samples.stored.to(device), targets, there)
    inputs = torch.empty(0, device=device)
    for start in range(0, len(samples), chunk):
        ready = there.apply(samples.stored[start : start + chunk].to(device))
        if not start:
            inputs = ready.new_empty(len(samples), *ready.shape[1:])
        inputs[start : start + chunk] = ready
    return Samples(inputs, targets, padded=isinstance(scaling, Whole) and bool(scaling.words))


def _bytes(samples: AnySamples) -> int:
    return len(samples) * math.prod(samples.sample_shape) * samples.dtype.itemsize
