"""Where samples lie while they are trained on: in device memory where they fit, else behind a DataLoader."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from objectives.config import Preparation, TrainingConfig
from objectives.datasets.prepare import Moments, Scaling, learn
from objectives.datasets.records import AnySamples, DataSet, LazySamples, Samples
from objectives.datasets.split import Split
from objectives.errors import DataError

HOST_SHARE = 0.25  # of the free memory that one process may fill with data; runners share a machine
DEVICE_SHARE = 0.4  # of the free memory of a GPU


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """Samples in memory as a map-style data set."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._samples.inputs[index], self._samples.targets[index]


def into_memory(data: DataSet, always: bool) -> DataSet:
    """Read the lazy parts of `data` into host memory, where they fit or `always`.

    Raises:
        DataError: a sample cannot be read, or differs in shape from the first.
    """
    parts = (data.train, data.validation, data.test)
    needed = sum(_bytes(part) for part in parts if isinstance(part, LazySamples))
    if needed == 0 or (not always and needed > psutil.virtual_memory().available * HOST_SHARE):
        return data
    train, validation, test = (read(part) if isinstance(part, LazySamples) else part for part in parts)
    assert train is not None
    return DataSet(data.name, data.task, train, test, validation, data.classes)


def read(samples: LazySamples) -> Samples:
    """Read every sample, several at a time. Raises DataError as `into_memory` does."""
    indices = range(len(samples)) if samples.indices is None else samples.indices.tolist()

    def one(index: int) -> Tensor:
        tensor: Tensor = samples.dataset[index][0]
        if tuple(tensor.shape) != samples.sample_shape:
            raise DataError(
                f"sample {index} has the shape {list(tensor.shape)}, the first {list(samples.sample_shape)}; "
                "all must be alike (for a folder of images set image_size)"
            )
        return tensor

    with ThreadPoolExecutor(max_workers=4) as pool:
        return Samples(torch.stack(list(pool.map(one, indices))), samples.targets)


def learn_scaling(samples: AnySamples, kind: Preparation) -> Scaling:
    """Learn the scaling from training `samples`, reading them once where they are not in memory."""
    if isinstance(samples, Samples):
        return learn(samples.inputs, kind)
    moments = Moments()
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(_subset(samples), batch_size=256)
    for inputs, _ in loader:
        moments.add(inputs)
    return moments.scaling(kind)


def choose(
    config: TrainingConfig, parts: Split, device: torch.device, inputs: Scaling, targets: Scaling | None
) -> Callable[[AnySamples], AnySamples]:
    """Return the function that puts samples where `config.storage` says."""
    needed = sum(_bytes(part, width=4) for part in (parts.train, parts.validation, parts.test))
    fits = needed <= free_memory(device)
    if config.storage == "loader" or (config.storage == "auto" and not fits):
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
    return LazySamples(Rows(samples), samples.targets, samples.sample_shape)


def _on_device(
    samples: AnySamples,
    device: torch.device,
    scaling: Scaling,
    target_scaling: Scaling | None,
    chunk: int = 8192,
) -> AnySamples:
    """Scale on the device a chunk at a time, so that no second copy is needed."""
    if isinstance(samples, LazySamples):
        return samples
    inputs = torch.empty(samples.inputs.shape, dtype=torch.float32, device=device)
    there = scaling.to(device)
    for start in range(0, len(inputs), chunk):
        inputs[start : start + chunk] = there.apply(samples.inputs[start : start + chunk].to(device))
    targets = samples.targets.to(device)
    if target_scaling is not None:
        targets = target_scaling.to(device).apply(targets)
    return Samples(inputs, targets)


def _bytes(samples: AnySamples, width: int = 1) -> int:
    return len(samples) * math.prod(samples.sample_shape) * width


def _subset(samples: LazySamples) -> Dataset[tuple[Tensor, Tensor]]:
    if samples.indices is None:
        whole: Dataset[tuple[Tensor, Tensor]] = samples.dataset
        return whole
    return torch.utils.data.Subset(samples.dataset, samples.indices.tolist())
