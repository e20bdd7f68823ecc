"""Our training parts against the tutorial way of writing them: `python -m tests.bench.bench_training`.

The tutorial loop is the one of PyTorch's own beginner pages: a torchvision data set, a DataLoader, a
transform per sample, `.item()` per batch. The data are synthetic, in torchvision's IDX files. Rounds of
both sides alternate, so that a busy machine slows both; medians are compared.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import ToTensor, v2

from objectives.config import TrainingConfig
from objectives.setup import Setup, assemble
from objectives.standalone import LocalTrial
from objectives.train import measure, train_epoch
from tests.objectives.helpers import write_idx

SAMPLES = 60_000
MLP: dict[str, Any] = {"model": "mlp", "hidden": 128, "batch_size": 256, "optimizer": "sgd", "lr": 0.05}
CNN: dict[str, Any] = {
    "model": "cnn",
    "channels": 16,
    "hidden": 64,
    "batch_size": 256,
    "optimizer": "momentum",
    "lr": 0.02,
    "train_limit": 3000,
}


@dataclass(frozen=True)
class Row:
    """One comparison: median seconds of both sides, and the ratio that must be reached."""

    work: str
    theirs: float
    ours: float
    unit: str
    wanted: float
    at_most: bool = False  # the ratio ours / theirs must be at most `wanted`; else theirs / ours at least

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs if self.at_most else self.theirs / self.ours

    @property
    def reached(self) -> bool:
        return self.ratio <= self.wanted if self.at_most else self.ratio >= self.wanted


def alternate(
    rounds: int, *sides: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Run every side `rounds` times in turn after one round to warm up; return each one's median seconds."""
    times: list[list[float]] = [[] for _ in sides]
    for number in range(rounds + 1):
        for side, taken in zip(sides, times, strict=True):
            started = clock()
            side()
            if number:
                taken.append(clock() - started)
    return [statistics.median(taken) for taken in times]


def ours(root: Path, **settings: Any) -> Setup:
    """The parts of a run on the synthetic files under `root`."""
    config = {"dataset": "fashionmnist", "data_root": str(root), "validation_fraction": 1 / 6, **settings}
    return assemble(LocalTrial(config), TrainingConfig.read(config), "classification")


def mlp() -> nn.Sequential:
    """The same network as `MLP`."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def tutorial_loader(root: Path, train: bool, batch_size: int) -> DataLoader[Any]:
    """torchvision's data set behind a DataLoader, as the tutorials have it."""
    data = torchvision.datasets.FashionMNIST(str(root), train=train, transform=ToTensor())
    return DataLoader(data, batch_size=batch_size, shuffle=train)


def tutorial_epoch(model: nn.Module, loader: DataLoader[Any]) -> float:
    """One epoch of the beginner's loop; returns the mean loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    total = 0.0
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


def hand_written_epoch(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    """One epoch with nothing but tensors and the optimiser."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, fused=True)
    total = torch.zeros(())
    order = torch.randperm(len(targets))
    for start in range(0, len(targets), 256):
        chosen = order[start : start + 256]
        loss = F.cross_entropy(model(inputs[chosen]), targets[chosen])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total += loss.detach()
    return total.item()


@torch.no_grad()
def tutorial_validation(model: nn.Module, loader: DataLoader[Any]) -> float:
    """A validation pass of the beginner's loop."""
    model.eval()
    correct = 0
    for inputs, targets in loader:
        correct += (model(inputs).argmax(1) == targets).sum().item()
    return correct


def epochs_and_validation(root: Path, rounds: int) -> list[Row]:
    """An epoch, against the tutorial and against hand-written code; and a validation pass."""
    setup, trial = ours(root, **MLP), LocalTrial()
    train = setup.data.train
    inputs, targets = train.inputs, train.targets  # type: ignore[union-attr]
    model, other = mlp(), mlp()
    # The tutorial set holds 60,000 samples, our training split 50,000: compare per sample.
    loader = tutorial_loader(root, True, 256)
    theirs, by_hand, mine = alternate(
        rounds,
        lambda: tutorial_epoch(model, loader),
        lambda: hand_written_epoch(other, inputs, targets),
        lambda: train_epoch(trial, setup, 1),
    )
    share = SAMPLES / len(targets)
    test = tutorial_loader(root, False, 256)
    validation, ours_validation = alternate(
        rounds,
        lambda: tutorial_validation(model, test),
        lambda: measure(setup, setup.validation, ["accuracy"]),
    )
    return [
        Row("epoch of 60,000 images, MLP: tutorial loop", theirs, mine * share, "ms", 10),
        Row("  the same: written by hand", by_hand * share, mine * share, "ms", 1.3, at_most=True),
        Row("validation of 10,000 images, MLP: tutorial loop", validation, ours_validation, "ms", 15),
    ]


def augmentation(root: Path, rounds: int) -> list[Row]:
    """Random crop, flip and rotation of each image."""
    count = 6000
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomCrop(28, padding=4),
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(15),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    data = torchvision.datasets.FashionMNIST(str(root), transform=transform)
    loader: DataLoader[Any] = DataLoader(torch.utils.data.Subset(data, range(count)), batch_size=256)
    setup = ours(root, **MLP, crop=4, flip=0.5, rotation=15, train_limit=count)
    augment = setup.augment
    assert augment is not None
    theirs, mine = alternate(
        rounds,
        lambda: [inputs for inputs, _ in loader],
        lambda: [augment(inputs) for inputs, _ in setup.batches.shuffled(1)],
    )
    return [Row("crop + flip + rotation, per image: torchvision v2", theirs / count, mine / count, "us", 60)]


def small_cnn(root: Path, rounds: int) -> list[Row]:
    """A small CNN by our default settings, against the tutorial and against hand-written code, on one thread;
    and with bf16, where the processor has it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    setup, trial = ours(root, **CNN), LocalTrial()
    train, count = setup.data.train, CNN["train_limit"]
    inputs, targets = train.inputs, train.targets  # type: ignore[union-attr]
    data = tutorial_loader(root, True, 256).dataset
    loader = DataLoader(torch.utils.data.Subset(data, range(count)), batch_size=256, shuffle=True)
    # Weights as they lie in memory by default, which `setup.model` has changed.
    model, other = (copy.deepcopy(setup.model).to(memory_format=torch.contiguous_format) for _ in range(2))
    theirs, by_hand, mine = alternate(
        rounds,
        lambda: tutorial_epoch(model, loader),
        lambda: hand_written_epoch(other, inputs, targets),
        lambda: train_epoch(trial, setup, 1),
    )
    rows = [
        Row(f"epoch of {count:,} images, CNN: tutorial loop", theirs, mine, "ms", 1.8),
        Row("  the same: written by hand", by_hand, mine, "ms", 1, at_most=True),
    ]
    if has_bf16():
        quick = ours(root, **CNN, amp="bf16")
        plain, fast = alternate(
            rounds, lambda: train_epoch(trial, setup, 1), lambda: train_epoch(trial, quick, 1)
        )
        rows.append(Row("  bf16: the same without", plain, fast, "ms", 1.5))
    torch.set_num_threads(before)
    return rows


def has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 itself."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def table(rows: list[Row]) -> str:
    """The rows as text."""
    scale = {"ms": 1e3, "us": 1e6}
    lines = [f"{'work: against':<68}{'theirs':>12}{'ours':>12}{'ratio':>8}  must"]
    for row in rows:
        theirs, mine = (f"{value * scale[row.unit]:,.1f} {row.unit}" for value in (row.theirs, row.ours))
        sign = "<=" if row.at_most else ">="
        verdict = "" if row.reached else "  not reached"
        lines.append(f"{row.work:<68}{theirs:>12}{mine:>12}{row.ratio:>8.2f}  {sign} {row.wanted:g}{verdict}")
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each side (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_idx(root, "FashionMNIST", train=SAMPLES, test=10_000)
        rows = [
            *epochs_and_validation(root, options.rounds),
            *augmentation(root, options.rounds),
            *small_cnn(root, options.rounds),
        ]
    print(f"torch {torch.__version__}, {options.threads} thread(s), medians of {options.rounds} rounds")
    print(table(rows))


if __name__ == "__main__":
    main()
