"""What the ready-made objectives share: configuration in, parts put together, the loop called."""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from objectives import device as devices
from objectives import evaluation
from objectives.config import TrainingConfig
from objectives.datasets.batches import Batches
from objectives.datasets.load import load
from objectives.datasets.records import Task
from objectives.errors import ConfigError, DataError
from objectives.metrics import Metric
from objectives.models.size import count_flops, count_parameters
from objectives.protocol import Trial
from objectives.setup import Setup, assemble, choose_metrics, evaluation_batches
from objectives.stopping import Progress
from objectives.train import in_own_units, predict, train

log = logging.getLogger(__name__)

_OF_DATA = ("dataset", "dataset_args", "data_root", "image_size", "storage")


def run(trial: Trial, task: Task) -> float | tuple[float, ...]:
    """Train as `trial.config` says; return the objective's value(s) at the epoch that counts.

    Keeps `model.pt` (its weights) and `evaluation.json` (the validation set) with the trial, and records
    how long training took, what it needed and where it ran as the attribute `training`.
    """
    config = TrainingConfig.read(trial.config)
    with devices.explained_memory_errors(trial.device, config.batch_size):
        return _run(trial, config, task)


def _run(trial: Trial, config: TrainingConfig, task: Task) -> float | tuple[float, ...]:
    started = time.perf_counter()
    check_directions(trial, choose_metrics(config, task)[0])
    setup = assemble(trial, config, task)
    for note in setup.data.notes:
        log.warning(note)
    devices.reset_peak(setup.device)
    progress, best = train(trial, setup)
    if config.keep == "best" and best:
        setup.model.load_state_dict(best)
    with tempfile.TemporaryDirectory() as directory:
        weights, document = Path(directory, "model.pt"), Path(directory, "evaluation.json")
        torch.save({name: tensor.cpu() for name, tensor in setup.model.state_dict().items()}, weights)
        document.write_text(json.dumps(evaluate_on(setup, "validation", setup.validation)))
        trial.artifact(weights)
        trial.artifact(document)
    trial.set_user_attr("training", summary(setup, progress, time.perf_counter() - started))
    values = values_that_count(setup, progress)
    return values[0] if len(values) == 1 else values


def find_data(fixed: Mapping[str, Any], task: Task) -> str:
    """Load the data set that a study's fixed values name, without a download; returns a sentence.

    Raises:
        DataError, ConfigError: it is not here, or not for this task.
    """
    if "dataset" not in fixed:
        return "the data set is one of the parameters; it was not looked for"
    named = {name: value for name, value in fixed.items() if name.split(".")[0] in _OF_DATA}
    try:
        load(TrainingConfig.read({**named, "download": False}), task)
    except DataError:
        if not fixed.get("download"):
            raise
        return f"{fixed['dataset']} is not here yet; the first trial downloads it"
    return f"{fixed['dataset']} can be loaded"


def check_directions(trial: Trial, objectives: tuple[Metric, ...]) -> None:
    """Refuse a study that would search for the worst: its directions must be those of the metrics.

    Raises:
        ConfigError: a metric's direction or their number differs from the study's, where it is known.
    """
    study = getattr(trial, "study", None)
    if study is None:
        return
    directions = [direction.name.lower() for direction in study.directions]
    names = [metric.name for metric in objectives]
    if len(directions) != len(names):
        raise ConfigError(
            f"objective: {len(names)} metric(s), {', '.join(names)}, but the study has "
            f"{len(directions)} direction(s); name one metric for each"
        )
    for metric, direction in zip(objectives, directions, strict=True):
        wanted = "maximize" if metric.maximize else "minimize"
        if direction != wanted:
            raise ConfigError(
                f"objective: the study would {direction} {metric.name}; set its direction to {wanted}"
            )


def evaluate(trial: Trial, checkpoint: Mapping[str, Tensor], task: Task) -> dict[str, Any]:
    """Evaluate the weights `checkpoint` on the test set; the service calls this once, for the winner."""
    setup = assemble(trial, TrainingConfig.read(trial.config), task)
    setup.model.load_state_dict(dict(checkpoint))
    return evaluate_on(setup, "test", evaluation_batches(setup.config, setup.data, setup.data.test))


def evaluate_on(setup: Setup, split: str, batches: Batches) -> dict[str, Any]:
    """Return the evaluation document of the model on `batches`."""
    outputs, targets = predict(setup, batches)
    loss = setup.loss(outputs, targets).item()
    scores, truth = in_own_units(setup, outputs, targets)
    return evaluation.document(split, setup.task, scores, truth, loss, setup.data.classes, setup.config.top_k)


def values_that_count(setup: Setup, progress: Progress) -> tuple[float, ...]:
    """The objectives' values: metrics of the epoch that is kept, costs of the whole run."""
    values = progress.best_values if setup.config.keep == "best" and progress.best_values else progress.values
    return tuple(
        values[metric.name] if metric.name in values else cost(metric.name, setup, progress)
        for metric in setup.objectives
    )


def cost(name: str, setup: Setup, progress: Progress) -> float:
    """parameters (a count), flops (of one sample's forward pass), seconds_per_epoch, peak_memory (bytes)."""
    if name == "parameters":
        return float(count_parameters(setup.model))
    if name == "flops":
        return float(count_flops(setup.model, setup.data.sample_shape, setup.device))
    if name == "seconds_per_epoch":
        return statistics.median(progress.epoch_seconds)
    return float(devices.peak_memory(setup.device))


def summary(setup: Setup, progress: Progress, seconds: float) -> dict[str, Any]:
    """Return the record of the run: why it ended, its costs, and its environment."""
    return {
        "stopped": progress.stopped,
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "seconds": round(seconds, 3),  # of this attempt
        "seconds_per_epoch": statistics.median(progress.epoch_seconds),
        "peak_memory": devices.peak_memory(setup.device),
        "parameters": count_parameters(setup.model),
        "environment": devices.environment(setup.device),
    }
