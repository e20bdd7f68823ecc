"""Trainings in lanes against the same trainings one after another: `python -m tests.bench.bench_lanes`.

64 settings of a small MLP on digits differ in optimiser, learning rate and seed. Rounds of both sides
alternate, in one thread; medians of its CPU seconds are compared, which other work on the machine disturbs
least. With `--device cuda` the same on a GPU, by the clock.

`--studies` takes each ready study file instead: points of its space from the smallest to the largest model,
as a trial of five folds and as one of three seeds, against the same trainings one after another.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from objectives import classifier, lanes, members
from objectives import train as alone
from objectives.config import TrainingConfig
from objectives.setup import Setup, assemble
from objectives.standalone import LocalTrial
from tests.bench.bench_training import Row, alternate, table
from tests.objectives.helpers import write_idx

OPTIMIZERS = ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw"]
SMALL: dict[str, Any] = {"dataset": "digits", "epochs": 20, "hidden": 32, "checkpoint_every": 0}
CNN: dict[str, Any] = {"model": "cnn", "channels": 8, "epochs": 3, "optimizer": "adam"}
CASES: list[tuple[str, int, dict[str, Any], float]] = [
    ("64 settings of an MLP 64-32-10, every optimiser", 64, {}, 5),
    ("64 settings of an MLP 64-32-10, adam, dropout", 64, {"optimizer": "adam", "dropout": 0.2}, 1),
    ("16 settings of an MLP 64-128-10, adam", 16, {"optimizer": "adam", "hidden": 128}, 1),
    ("8 settings of an MLP 64-512-10, adam", 8, {"optimizer": "adam", "hidden": 512}, 1),
    ("8 settings of a CNN of 8 and 16 channels, adam", 8, CNN, 1),
]


def settings(count: int, **own: Any) -> list[dict[str, Any]]:
    """So many settings of one build."""
    return [
        {**SMALL, "optimizer": OPTIMIZERS[i % 8], "lr": 0.002 * (1 + i / count), **own} for i in range(count)
    ]


def sides(
    chosen: list[dict[str, Any]], device: str, of: int | None = None
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Both ways to train `chosen`: one after another (only the first `of`), and together."""

    def assembled(some: list[dict[str, Any]]) -> tuple[list[LocalTrial], list[Setup]]:
        trials = [LocalTrial(each, seed=seed, device=device) for seed, each in enumerate(some)]
        return trials, [
            assemble(trial, TrainingConfig.read(trial.config), "classification") for trial in trials
        ]

    def one_after_another() -> None:
        for trial, setup in zip(*assembled(chosen[:of]), strict=True):
            alone.train(trial, setup)

    def together() -> None:
        lanes.train(*assembled(chosen))

    return one_after_another, together


def points(study: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Settings of a study's space, named: each model, its sizes all low, between and all high."""
    space = study["space"]
    for model in space.get("model", {"choices": [study["fixed"].get("model", "mlp")]})["choices"]:
        chosen = {"model": model}
        sizes = []
        for name, values in space.items():
            if name == "model" or model not in values.get("when", {}).get("model", [model]):
                continue
            low, high = values.get("low"), values.get("high")
            numbers = name == "hidden" and values.get("choices")
            if name in ("hidden", "depth", "channels"):
                low, high = (min(numbers), max(numbers)) if numbers else (low, high)
                sizes.append((name, low, round((low * high) ** 0.5), high))
            elif "choices" in values:
                chosen[name] = values["choices"][len(values["choices"]) // 2]
            else:
                chosen[name] = (low * high) ** 0.5 if values.get("log") else (low + high) / 2
        for at in (1, 2, 3) if sizes else (1,):
            own = {size[0]: size[at] for size in sizes}
            label = " ".join([model, *(f"{name} {value}" for name, value in own.items())])
            yield label, chosen | own


def measure_studies(rounds: int, images: Path) -> list[Row]:
    """Every ready study: five folds and three seeds of each point, two epochs, against one after another."""
    rows, seen = [], set()
    for path in sorted(Path("objectives/studies").glob("*.yaml")):
        study = yaml.safe_load(path.read_text())
        task = "regression" if study["objective"].endswith("regressor") else "classification"
        less = {"epochs": 2, "checkpoint_every": 0, "data_root": str(images)}
        if study["fixed"]["dataset"] == "fashionmnist":
            less |= {"download": False, "train_limit": 2560, "epochs": 1}
        for label, point in points(study):
            own = study["fixed"] | point | less
            if repr(sorted(own.items(), key=str)) in seen:
                continue
            seen.add(repr(sorted(own.items(), key=str)))
            for several in ({"folds": 5}, {"seeds": 3}):
                trial = LocalTrial(own | several)
                config = TrainingConfig.read(trial.config)
                assembled = functools.partial(members.assemble_all, trial, config, task)

                def one_after_another() -> None:
                    for setup in assembled():  # noqa: B023
                        alone.train(trial, setup)  # noqa: B023

                def together() -> int:
                    return members.train(trial, assembled())[0].lanes  # noqa: B023

                stacked = "in lanes" if together() > 1 else "in turn"
                theirs, mine = alternate(rounds, one_after_another, together, clock=time.thread_time)
                name, count = next(iter(several.items()))
                rows.append(Row(f"{path.stem}: {label}, {name} {count}, {stacked}", theirs, mine, "ms", 0.95))
                print(table(rows[-1:]).splitlines()[1], flush=True)
    return rows


def whole_trial(device: str, **own: Any) -> None:
    """One trial of the small MLP, with its files."""
    classifier.objective(LocalTrial({**SMALL, "lr": 0.003, **own}, device=device))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each side (default 3)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--trials", action="store_true", help="only the trials with folds and seeds")
    parser.add_argument("--studies", action="store_true", help="only the points of the ready study files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.studies:
        with tempfile.TemporaryDirectory() as directory:
            write_idx(Path(directory), "FashionMNIST", train=6000, test=1000)
            rows = measure_studies(options.rounds, Path(directory))
        below = [row for row in rows if not row.reached]
        print(f"{len(rows)} points, {len(below)} of them slower than one after another by more than 5 %")
        return
    on_gpu = options.device != "cpu"
    clock = time.perf_counter if on_gpu else time.thread_time
    rows = []
    for work, count, own, wanted in () if options.trials else CASES:
        few = min(count, 8)
        one, many = sides(settings(count, **own), options.device, few)
        theirs, mine = alternate(options.rounds, one, many, clock=clock)
        goal = 30 if count == 64 and on_gpu else wanted
        rows.append(Row(work, theirs * count / few, mine, "ms", goal))
    once, folds, seeds = alternate(
        options.rounds,
        lambda: whole_trial(options.device),
        lambda: whole_trial(options.device, folds=5),
        lambda: whole_trial(options.device, seeds=10),
        clock=clock,
    )
    rows.append(Row("a trial with folds: 5, against one without", once, folds, "ms", 2, at_most=True))
    rows.append(Row("a trial with seeds: 10, against one without", once, seeds, "ms", 3.5, at_most=True))
    print(f"torch {torch.__version__}, {options.device}, one thread, medians of {options.rounds} rounds")
    print("(one after another: eight of the settings were trained and the time multiplied)")
    print(table(rows))


if __name__ == "__main__":
    main()
