"""Record real curves: `python -m tests.bench.search.record [TASK ...] --settings 600 --top 40 --seeds 20`.

Of each task so many random settings are trained once, then the best of them again with other seeds; in lanes,
by one thread. The file of a task holds

    curves  [S, E]     what each setting had after each epoch (NaN: it had diverged)
    top     [T]        which settings were the best
    repeats [T, R, E]  their curves with fresh seeds; the mean of the last epochs says what one is worth
    seconds [S]        CPU seconds of an epoch of each, trained alone
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from objectives.config import TrainingConfig
from objectives.errors import DivergedError
from objectives.lanes import train_settings
from objectives.setup import assemble
from objectives.standalone import LocalTrial
from objectives.train import one_epoch
from tests.bench.search.tasks import TASKS, Task

FOLDER = Path(__file__).parent / "curves"
_AT_ONCE = 200  # trainings that are assembled together


@dataclass(frozen=True)
class Recorded:
    """A task and its curves, as above."""

    task: Task
    points: list[dict[str, Any]]
    curves: np.ndarray
    top: np.ndarray
    repeats: np.ndarray
    seconds: np.ndarray


def recorded() -> list[Task]:
    """The tasks that are."""
    return [task for task in TASKS if (FOLDER / f"{task.name}.npz").exists()]


def load(task: Task) -> Recorded:
    """What was recorded of a task."""
    with np.load(FOLDER / f"{task.name}.npz") as found:
        arrays = {name: found[name].astype(float if name != "top" else int) for name in found.files}
    return Recorded(task, task.points(len(arrays["curves"])), **arrays)


def record(task: Task, settings: int, top: int, seeds: int) -> None:
    """Train, and write the file."""
    chosen = [task.settings(point) for point in task.points(settings)]
    curves = trained(task, chosen, range(settings))
    seconds = np.array([_epoch_seconds(task, one) for one in chosen])
    last = curves[:, -1] if task.maximize else -curves[:, -1]
    best = np.argsort(-np.where(np.isnan(last), -np.inf, last), kind="stable")[:top]
    again = [(chosen[number], settings + seed) for number in best for seed in range(seeds)]
    repeats = trained(task, [one for one, _ in again], [seed for _, seed in again])
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(
        FOLDER / f"{task.name}.npz",
        curves=curves,
        top=best.astype(np.int16),
        repeats=repeats.reshape(len(best), seeds, task.epochs),
        seconds=seconds.astype(np.float32),
    )


def trained(task: Task, settings: Sequence[dict[str, Any]], seeds: Sequence[int]) -> np.ndarray:
    """The curves [settings, epochs] of these trainings, those of one build trained together."""
    curves = np.full((len(settings), task.epochs), np.nan, np.float32)
    alike = sorted(range(len(settings)), key=lambda i: str([settings[i].get(k) for k in _BUILD]))
    for start in range(0, len(alike), _AT_ONCE):
        some = alike[start : start + _AT_ONCE]
        records = train_settings([settings[i] for i in some], task.kind, [seeds[i] for i in some])
        for i, one in zip(some, records, strict=True):
            for epoch, value in one["reports"].items():
                curves[i, epoch - 1] = round(value, 4)
        print(f"{task.name}: {min(start + _AT_ONCE, len(alike))} of {len(alike)} trained", flush=True)
    return curves


_BUILD = ("model_args", "hidden", "depth", "optimizer", "batch_size", "loss", "activation")


def _epoch_seconds(task: Task, settings: dict[str, Any]) -> float:
    """CPU seconds of a training's first epoch."""
    trial = LocalTrial({**settings, "checkpoint_every": 0})
    setup = assemble(trial, TrainingConfig.read(trial.config), task.kind)
    began = time.process_time()
    with contextlib.suppress(DivergedError):
        one_epoch(trial, setup, 1)
    return time.process_time() - began


def main() -> None:
    """Record the tasks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[[], *(task.name for task in TASKS)])
    parser.add_argument(
        "--settings", type=int, default=600, help="random settings of each task (default 600)"
    )
    parser.add_argument("--top", type=int, default=40, help="of them trained again (default 40)")
    parser.add_argument("--seeds", type=int, default=20, help="times (default 20)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task in TASKS:
        if not options.tasks or task.name in options.tasks:
            began = time.monotonic()
            record(task, options.settings, options.top, options.seeds)
            print(f"{task.name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
