"""One setting trained several times: on the folds of a cross-validation, with several seeds, or both.

Its members go on together an epoch at a time, in lanes where they fit: the trial reports what they come to on
the average, so it can be pruned as any other, and is checkpointed as a whole.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import optuna

from objectives.checkpoints import VERSION, Saver, capture, restore
from objectives.config import TrainingConfig
from objectives.datasets.records import Task
from objectives.lanes import Run, Together
from objectives.protocol import Trial
from objectives.seeds import derive
from objectives.setup import Setup, assemble
from objectives.stopping import Progress
from objectives.train import keeps_best, named_values, report_values, values_at, values_that_count


def assemble_all(trial: Trial, config: TrainingConfig, task: Task) -> list[Setup]:
    """The parts of every training that `config` asks for: one, unless it has folds or several seeds.

    The first seed is the trial's own; every fold is trained with each of them. Raises as `assemble` does.
    """
    seeds = [trial.seed, *(derive(trial.seed, "member", number) for number in range(1, config.seeds))]
    folds = [None] if config.folds is None else range(config.folds)
    return [assemble(trial, config, task, seed, fold) for fold in folds for seed in seeds]


def combined(values: Sequence[float], config: TrainingConfig) -> float:
    """What counts of the members' values."""
    return statistics.median(values) if config.combine == "median" else statistics.fmean(values)


def train(trial: Trial, setups: Sequence[Setup]) -> list[Run]:
    """Train the members of a trial until each has ended, from the newest checkpoint where there is one.

    One that has ended early counts with its last epoch in what is reported of later ones.

    Raises:
        DivergedError: the loss of one is not finite.
        optuna.TrialPruned: the trial is not worth finishing.
    """
    state = trial.checkpoint.load() or {}
    saved = state.get("members", [])
    if state.get("version") != VERSION or len(saved) != len(setups):
        runs = [Run(trial, setup, Progress(), {}) for setup in setups]
    else:
        runs = [Run(trial, setup, *restore(setup, own)) for setup, own in zip(setups, saved, strict=True)]
        if not state["reported"]:
            report(trial, runs)
    first = setups[0]
    saver = Saver(trial, first.config.checkpoint_every)
    together = Together(runs)

    def save(reported: bool) -> None:
        for run in runs:
            together.settle(run)
        members = [capture(run.setup, run.progress, run.best) for run in runs]
        content = {"version": VERSION, "reported": reported, "members": members}
        saver.write(lambda: content, max(run.progress.epoch for run in runs))

    while together.go_on():
        for run in together.epoch():
            if run.ending is not None:
                raise run.ending
        try:
            report(trial, runs)
        except BaseException:  # interrupted: the epoch is done, so let whoever goes on start after it
            save(reported=False)
            raise
        furthest = max((run.progress for run in runs), key=lambda progress: progress.epoch)
        going = any(not run.ended for run in runs)
        if saver.due(Progress(epoch=furthest.epoch, stopped=None if going else furthest.stopped)):
            save(reported=True)
        if first.reported is not None and going and trial.should_prune():
            raise optuna.TrialPruned(f"pruned after epoch {furthest.epoch}")
    return runs


def report(trial: Trial, runs: Sequence[Run]) -> None:
    """Report and log the last epoch: what counts of each value, and its spread as `..._std`."""
    first = runs[0].setup
    epoch = max(run.progress.epoch for run in runs)
    every = [named_values(run.setup, run.progress) for run in runs]
    names = [name for name in every[0] if all(name in values for values in every)]
    named = {name: combined([values[name] for values in every], first.config) for name in names}
    if first.reported is not None:
        own = [values_at(run.setup, run.progress, run.progress.values) for run in runs]
        counts = tuple(combined(column, first.config) for column in zip(*own, strict=True))
        report_values(trial, first, counts, epoch, named)
    trial.log(epoch, **named, **spread_of(every))


def spread_of(every: Sequence[dict[str, float]]) -> dict[str, float]:
    """The standard deviation of what is measured on the validation sets, as `..._std`."""
    measured = [name for name in every[0] if name.startswith("validation_")]
    return {f"{name}_std": statistics.pstdev(values[name] for values in every) for name in measured}


def kept_values(setup: Setup, progress: Progress) -> dict[str, float]:
    """What was logged of the epoch that counts, as far as it is remembered."""
    best = keeps_best(setup, progress)
    values = progress.best_values if best else progress.values
    named = {f"validation_{name}": value for name, value in values.items()}
    return named | {"train_loss": progress.train_losses[progress.best_epoch - 1 if best else -1]}


def values(runs: Sequence[Run]) -> tuple[float, ...]:
    """The objectives' values: what counts of the members' own."""
    own = [values_that_count(run.setup, run.progress) for run in runs]
    return tuple(combined(column, runs[0].setup.config) for column in zip(*own, strict=True))


def record(runs: Sequence[Run]) -> dict[str, Any]:
    """What each member came to, the spread of each objective, and how many were trained in one stack.

    Each counts at an epoch of its own; `counted` is what their logged values come to there, and
    `counted_epoch`, the median of those epochs, where all else that was logged is looked up.
    """
    config = runs[0].setup.config
    own = [values_that_count(run.setup, run.progress) for run in runs]
    names = [metric.name for metric in runs[0].setup.objectives]
    counted = [
        run.progress.best_epoch if keeps_best(run.setup, run.progress) else run.progress.epoch for run in runs
    ]
    return {
        "counted_epoch": statistics.median_low(counted),
        "counted": {
            **spread_of(measured := [kept_values(run.setup, run.progress) for run in runs]),
            **{name: combined([values[name] for values in measured], config) for name in measured[0]},
        },
        "members": [
            {
                **dict(zip(names, values, strict=True)),
                "seed": run.setup.seed,
                "stopped": run.progress.stopped,
                "epochs": run.progress.epoch,
                "best_epoch": run.progress.best_epoch,
            }
            for run, values in zip(runs, own, strict=True)
        ],
        "std": dict(zip(names, map(statistics.pstdev, zip(*own, strict=True)), strict=True)),
        "lanes": max(run.lanes for run in runs),
    }
