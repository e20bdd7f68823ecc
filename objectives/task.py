"""What the ready-made objectives share: configuration in, parts put together, the loop called."""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from objectives import device as devices
from objectives import evaluation, members, metrics, stack, winner
from objectives.checkpoints import Rested, resume
from objectives.config import TrainingConfig, check_study
from objectives.datasets.batches import Batches
from objectives.datasets.load import LOADING, load
from objectives.datasets.prepare import Whole
from objectives.datasets.records import Task
from objectives.errors import ConfigError, DataError
from objectives.lanes import Run, train_lanes
from objectives.metrics import Metric
from objectives.models import text
from objectives.models.size import count_parameters
from objectives.protocol import Lanes, Trial
from objectives.ranks import joined
from objectives.seeds import digest
from objectives.setup import Setup, assemble, choose_metrics, evaluation_batches
from objectives.stack import obstacle
from objectives.standalone import LocalTrial
from objectives.stopping import Progress
from objectives.train import in_own_units, keeps_best, predict, train

log = logging.getLogger(__name__)

# Settings that no lane shares with another: what else a key depends on is looked at once.
_OF_A_LANE = {"lr", "optimizer", "momentum", "beta1", "beta2", "rho", "eps", "weight_decay", "l1", "l2"}
_KEYS: dict[tuple[Any, ...], Any] = {}
_MOST_KEYS = 1000


@dataclass(frozen=True)
class ReadyMade:
    """What a module of ours offers as its own, of one task.

    Attributes:
        task: what it trains for.
        defaults: stand in for settings that a trial or a study lacks.
    """

    task: Task
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def run(self, trial: Trial) -> float | tuple[float, ...]:
        """Train as `trial.config` says; return the objective's value(s) at the epoch that counts.

        With `folds` or `seeds` it trains several times, and what counts is their mean or median (members.py).
        Keeps `model.pt` (its weights) and `evaluation.json` (the validation set) with the trial, and records
        what it began with and where as the attribute `origin`, how long it took and what it needed as
        `training`.
        """
        config = self._read(trial.config)
        with devices.explained_memory_errors(trial.device, config.batch_size):
            started = time.perf_counter()
            with joined(trial) as ranks:
                setups = self._begin(trial, config)
                for note in setups[0].data.notes:
                    log.warning(note)
                for setup in setups:
                    setup.share(ranks)
                devices.reset_peak(setups[0].device)
                if len(setups) > 1:
                    runs = members.train(trial, setups)
                else:
                    runs = [Run(trial, setups[0], *train(trial, setups[0]))]
            return _result(trial, runs, started) if ranks.rank == 0 else 0.0

    def objective_many(self, lanes: Lanes) -> None:
        """Train trials of one `lane_key` together, each as `run` trains one."""
        started: dict[Run, float] = {}

        def begin(trial: Trial) -> Run:
            now = time.perf_counter()
            held = trial.checkpoint.held
            setup = (
                held.setup if isinstance(held, Rested) else self._begin(trial, self._read(trial.config))[0]
            )
            run = Run(trial, setup, *resume(trial, setup))
            started[run] = now
            return run

        train_lanes(lanes, begin, lambda run: _result(run.trial, [run], started[run]))

    def lane_key(self, settings: Mapping[str, Any]) -> Any:
        """What settings must share to be trained together; None where they cannot be, or it does not pay.

        Raises:
            TrainingError: they cannot be used.
        """
        config = self._read(settings)
        if config.folds is not None or config.seeds > 1 or config.split == "reshuffle":
            return None
        own = sorted((name, repr(value)) for name, value in settings.items() if name not in _OF_A_LANE)
        shared = (self.task, *own)
        if shared not in _KEYS:
            if len(_KEYS) >= _MOST_KEYS:
                _KEYS.clear()
            device = "cuda" if torch.cuda.is_available() else "cpu"
            setup = assemble(LocalTrial(settings, device=device), config, self.task)
            _KEYS[shared] = None if obstacle(setup) else stack.lane_key(setup)
        return _KEYS[shared]

    def check(self, fixed: Mapping[str, Any], searched: Collection[str] = ()) -> None:
        """Check a study's fixed settings and searched names before any trial; raises ConfigError."""
        defaults = {name: value for name, value in self.defaults.items() if name not in searched}
        check_study({**defaults, **fixed}, searched, self.task)

    def find_data(self, fixed: Mapping[str, Any]) -> str:
        """Load a study's data set without a download, for `hpo doctor`; returns a sentence.

        Raises:
            DataError, ConfigError: it is not here, or not for this task.
        """
        fixed = {**self.defaults, **fixed}
        if "dataset" not in fixed:
            return "the data set is one of the parameters; it was not looked for"
        named = {name: value for name, value in fixed.items() if name.split(".")[0] in LOADING}
        try:
            load(TrainingConfig.read({**named, "download": False}), self.task)
        except DataError:
            if not fixed.get("download"):
                raise
            return f"{fixed['dataset']} is not here yet; the first trial downloads it"
        return f"{fixed['dataset']} can be loaded"

    def evaluate(self, trial: Trial, checkpoint: Mapping[str, Tensor]) -> dict[str, Any]:
        """Evaluate the weights of `model.pt` on the test set; the service calls this once, for the winner."""
        setups = self.trained(trial, checkpoint)
        batches = [evaluation_batches(setup.config, setup.data, setup.data.test) for setup in setups]
        return evaluate_on(setups, "test", batches, chosen_threshold(setups))

    def export(self, trial: Trial, checkpoint: Mapping[str, Tensor], path: Path) -> None:
        """Save the weights of `model.pt` as one model from raw inputs to scores (winner.py)."""
        setups = self.trained(trial, checkpoint)
        winner.save(setups, chosen_threshold(setups).threshold, path)

    def trained(self, trial: Trial, checkpoint: Mapping[str, Tensor]) -> list[Setup]:
        """The parts of the trial's trainings, their models with the weights `checkpoint`."""
        setups = members.assemble_all(trial, self._read(trial.config), self.task)
        one_model(setups).load_state_dict(dict(checkpoint))
        return setups

    def _read(self, settings: Mapping[str, Any]) -> TrainingConfig:
        return TrainingConfig.read({**self.defaults, **settings})

    def _begin(self, trial: Trial, config: TrainingConfig) -> list[Setup]:
        check_directions(trial, choose_metrics(config, self.task)[0])
        setups = members.assemble_all(trial, config, self.task)
        trial.set_user_attr("origin", origin(trial, setups))
        return setups


def _result(trial: Trial, runs: Sequence[Run], started: float) -> float | tuple[float, ...]:
    setups = [run.setup for run in runs]
    setup = setups[0]
    for run in runs:
        if setup.config.keep == "best" and run.best:
            run.setup.model.load_state_dict(run.best)
    with tempfile.TemporaryDirectory() as directory:
        weights, document = Path(directory, "model.pt"), Path(directory, "evaluation.json")
        model = one_model(setups)
        torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, weights)
        batches = [setup.validation for setup in setups]
        document.write_text(json.dumps(evaluate_on(setups, "validation", batches, chosen_threshold(setups))))
        trial.artifact(weights)
        trial.artifact(document)
    done = summary(setup, runs[0].progress, time.perf_counter() - started)
    if len(runs) > 1:
        done |= members.record(runs)
    elif runs[0].lanes > 1:
        done["lanes"] = runs[0].lanes
    trial.set_user_attr("training", done)
    values = members.values(runs)
    return values[0] if len(values) == 1 else values


def origin(trial: Trial, setups: Sequence[Setup]) -> dict[str, Any]:
    """What a training begins with: its seed, digests of data and initial weights, where it runs."""
    first = setups[0]
    return {
        "seed": trial.seed,
        "data": load(first.config, first.task).digest,
        "weights": digest(tensor for setup in setups for tensor in setup.model.state_dict().values()),
        "environment": devices.environment(first.device),
    }


def one_model(setups: Sequence[Setup]) -> nn.Module:
    """The model of the only training; of several, a list of theirs, their weights `0.`, `1.`, ..."""
    models = [setup.model for setup in setups]
    return models[0] if len(models) == 1 else nn.ModuleList(models)


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


def refit(config: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that train the winner again on all but the test data.

    Args:
        config: the winner's.
        training: its attribute `training`, which knows how many epochs counted.
    """
    left_out = ("folds", "patience", "target", "converged_epochs", "keep", "checkpoint_every")
    kept = {name: value for name, value in config.items() if name not in left_out}
    return kept | {"keep": "last", "checkpoint_every": 0, "refit_epochs": training["counted_epoch"]}


def chosen_threshold(setups: Sequence[Setup]) -> metrics.How:
    """How to measure, with a threshold `best` chosen on the validation predictions."""
    how = setups[0].how
    if how.threshold != "best":
        return how
    _, scores, truth = predictions(setups, [setup.validation for setup in setups])
    return replace(how, threshold=metrics.best_threshold(scores, truth, how))


def evaluate_on(
    setups: Sequence[Setup], split: str, batches: Sequence[Batches], how: metrics.How
) -> dict[str, Any]:
    """Return the evaluation document of each model on its `batches`, all predictions together."""
    first = setups[0]
    loss, scores, truth = predictions(setups, batches)
    found = evaluation.document(split, first.task, scores, truth, loss, first.data.classes, how)
    words, vectors = first.data.inputs, getattr(first.model, "embedding", None)
    if isinstance(words, Whole) and words.words and isinstance(vectors, nn.Embedding):
        found["words"] = text.nearest(vectors.weight, words.words, first.config.nearest)
    return found


def predictions(setups: Sequence[Setup], batches: Sequence[Batches]) -> tuple[float, Tensor, Tensor]:
    """The mean loss of each model on its `batches`, and all their scores and targets in own units."""
    losses, scores, truth = [], [], []
    for setup, part in zip(setups, batches, strict=True):
        outputs, targets = predict(setup, part)
        losses.append(setup.loss(outputs, targets).item())
        own_scores, own_truth = in_own_units(setup, outputs, targets)
        scores.append(own_scores)
        truth.append(own_truth)
    return statistics.fmean(losses), torch.cat(scores), torch.cat(truth)


def summary(setup: Setup, progress: Progress, seconds: float) -> dict[str, Any]:
    """Return the record of the run: why it ended, and its costs."""
    return {
        "stopped": progress.stopped,
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "counted_epoch": progress.best_epoch if keeps_best(setup, progress) else progress.epoch,
        "seconds": round(seconds, 3),  # of this attempt
        "seconds_per_epoch": statistics.median(progress.epoch_seconds),
        "peak_memory": devices.peak_memory(setup.device),
        "parameters": count_parameters(setup.model),
    }
