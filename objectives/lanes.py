"""Many trainings at once: those of one build as one batched model, each its lane, with settings of its own.

A step of a small model is overhead, for a GPU and for a CPU core; a stack of models pays it once. A lane
has its own hyperparameters, seed, order of batches, dropout, augmentation, schedule and end, and leaves
checkpoints that go on alone. Its curve is that of the same training alone but for the last bits: sums are
added in another order. What cannot be stacked is trained one after another, an epoch each in turn.

    python -m objectives.lanes settings.json        # a list of settings; a JSON line for each training

Dimensions: L lanes, n of them in a step, B batch, O outputs, N samples, P numbers of a lane.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import Tensor

from objectives import metrics, seeds
from objectives.augment import mix
from objectives.checkpoints import Saver, copy_weights, resume
from objectives.config import TrainingConfig
from objectives.datasets.records import Task
from objectives.errors import DivergedError, TrainingError
from objectives.losses import LaneLoss
from objectives.protocol import Lanes, Trial
from objectives.setup import Setup, assemble
from objectives.stack import Stack, lane_key, masks_of, obstacle
from objectives.standalone import LocalTrial
from objectives.stopping import Progress
from objectives.train import (
    Epoch,
    in_own_units,
    names_per_epoch,
    one_epoch,
    report,
    take_in,
    tell,
    values_that_count,
)

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Run:
    """One training among others. `ending` is the error that ended it; None where there was none."""

    trial: Trial
    setup: Setup
    progress: Progress
    best: dict[str, Tensor]  # weights of the best epoch, once `settled`
    ending: Exception | None = None
    lanes: int = 1  # trainings in the stack it started in

    @property
    def ended(self) -> bool:
        """Whether it goes no further."""
        return self.ending is not None or self.progress.stopped is not None


@dataclass(eq=False)
class _Group:
    """Runs that share a `lane_key`; `stack` is None where one is trained as it would be alone."""

    key: Any
    runs: list[Run]
    stack: Stack | None = None

    def add(self, new: Sequence[Run]) -> None:
        """Let these go on with those there are; all are stacked anew only where rows become longer."""
        runs = [*self.runs, *new]
        stack = None if self.stack is None else _stack_of(new)
        if stack is not None and self.stack is not None and stack.model.shapes == self.stack.model.shapes:
            order = self.stack.extend(stack)
            runs = [*self.runs, *(new[i] for i in stack.order)]
        elif len(runs) > 1:
            for run in self.runs:
                self.settle(run)
            self.stack = _stack_of(runs)
            order = self.stack.order
        else:
            order = [0]
        self.runs = [runs[i] for i in order]
        for run in self.runs:
            run.lanes = max(run.lanes, len(self.runs))

    def settle(self, run: Run) -> None:
        """Put the state of a run into its own setup and `best`, where the stack has it."""
        if self.stack is not None:
            lane = self.runs.index(run)
            self.stack.put_back(lane)
            run.best = self.stack.best_weights(lane) if run.progress.best_epoch else {}


def _stack_of(runs: Sequence[Run]) -> Stack:
    return Stack([run.setup for run in runs], [run.best for run in runs])


def _keys_of(runs: Sequence[Run]) -> dict[Run, Any]:
    """What each shares with those it is stacked with; the log says what stands against it."""
    against = {run: obstacle(run.setup) for run in runs} if len(runs) > 1 else {}
    for why, count in Counter(filter(None, against.values())).items():
        log.warning("%d of %d trainings are run in turn, not in lanes: %s", count, len(runs), why)
    return {run: lane_key(run.setup) if run in against and not against[run] else run for run in runs}


class Together:
    """Runs that go on an epoch at a time: stacked where they fit (`lane_key`), else one after another.

    Args:
        runs: to begin with.
        lanes: what ends one of them ends no other, and all share a `lane_key`; None: they are one trial's.
    """

    def __init__(self, runs: Sequence[Run], lanes: Lanes | None = None) -> None:
        self._groups: list[_Group] = []
        self._lanes = lanes
        self.join(runs)

    @property
    def runs(self) -> list[Run]:
        """All that go on."""
        return [run for group in self._groups for run in group.runs]

    def join(self, runs: Sequence[Run]) -> None:
        """Let these go on with those there are."""
        going = [run for run in runs if not run.ended]
        keys: dict[Run, Any] = dict.fromkeys(going) if self._lanes is not None else _keys_of(going)
        came: dict[_Group, list[Run]] = {}
        for run, key in keys.items():
            group = next((group for group in self._groups if group.key == key), None)
            if group is None:
                group = _Group(key, [])
                self._groups.append(group)
            came.setdefault(group, []).append(run)
        for group, new in came.items():
            group.add(new)

    def epoch(self) -> list[Run]:
        """Train every run an epoch further, take it in, return all. One that diverges has its `ending`."""
        for group in self._groups:
            if group.stack is None:
                (run,) = group.runs
                with nullcontext() if self._lanes is None else self._lanes.only(run.trial):
                    try:
                        if take_in(
                            run.setup, run.progress, one_epoch(run.trial, run.setup, run.progress.epoch + 1)
                        ):
                            run.best = copy_weights(run.setup.model)
                    except DivergedError as error:
                        run.ending = error
                continue
            improved = []
            check = None if self._lanes is None else self._lanes.check
            for lane, (run, done) in enumerate(
                zip(group.runs, stacked_epoch(group.stack, group.runs, check), strict=True)
            ):
                try:
                    if take_in(run.setup, run.progress, done):
                        improved.append(lane)
                except DivergedError as error:
                    run.ending = error
            group.stack.remember(improved)
        return self.runs

    def settle(self, run: Run) -> None:
        """Put the state of a run into its own setup and `best`, where a stack has it."""
        for group in self._groups:
            if run in group.runs:
                group.settle(run)

    def go_on(self) -> bool:
        """Leave out the runs that have ended, settled; whether there are others."""
        for group in self._groups:
            left = [lane for lane, run in enumerate(group.runs) if not self._is_over(run)]
            if len(left) == len(group.runs):
                continue
            for run in group.runs:
                if run.ended and run.ending is None:
                    self.settle(run)
            if left and group.stack is not None:
                group.stack.keep(left)
            group.runs = [group.runs[lane] for lane in left]
        self._groups = [group for group in self._groups if group.runs]
        return bool(self._groups)

    def _is_over(self, run: Run) -> bool:
        return run.ended or (self._lanes is not None and run.trial not in self._lanes)


def train_lanes(lanes: Lanes, begin: Callable[[Trial], Run], finish: Callable[[Run], Any]) -> None:
    """Train trials together as they come, until none is left; each is told of, saved and ended by itself.

    Args:
        lanes: what is trained.
        begin: puts together what a trial trains, resumed where it has a checkpoint.
        finish: what a trial that has ended returns; called while others go on.
    """
    together = Together([], lanes)
    savers: dict[Run, Saver] = {}

    def save(run: Run, how: Callable[..., None] = Saver.save) -> None:
        together.settle(run)
        how(savers[run], run.setup, run.progress, run.best)

    while lanes:
        new = []
        for trial in lanes.joined():
            with lanes.only(trial):
                run = begin(trial)
                savers[run] = Saver(trial, run.setup.config.checkpoint_every)
                if not run.progress.reported:
                    report(trial, run.setup, run.progress)
                new.append(run)
        together.join(new)
        for run in together.epoch():
            if run.trial in lanes:
                with lanes.only(run.trial):
                    if run.ending is not None:
                        raise run.ending
                    with saved_when_interrupted(run, save, reported=False):
                        report(run.trial, run.setup, run.progress)
        for run in together.runs:
            if run.trial in lanes:
                with lanes.only(run.trial):
                    with saved_when_interrupted(run, save, reported=True):
                        if run.setup.reported is not None and not run.ended and run.trial.should_prune():
                            raise optuna.TrialPruned(f"pruned after epoch {run.progress.epoch}")
                    if savers[run].due(run.progress, len(lanes)):
                        save(run)
        over = [run for run in (*new, *together.runs) if run.ended and run.trial in lanes]
        together.go_on()
        for run in over:
            lanes.done(run.trial, partial(finish, run))
        savers = {run: saver for run, saver in savers.items() if run.trial in lanes}


@contextmanager
def saved_when_interrupted(run: Run, save: Callable[..., None], *, reported: bool) -> Iterator[None]:
    """What ends a run in this block, pruning too, finds its last epoch kept: it may go on later."""
    try:
        yield
    except BaseException as error:
        run.progress.reported = reported
        save(run, Saver.rest if isinstance(error, optuna.TrialPruned) else Saver.save)
        raise


def train(trials: Sequence[Trial], setups: Sequence[Setup]) -> list[Run]:
    """Train all of them until each should end, as `objectives.train.train` does one.

    A run that is pruned or diverges ends alone: that stands in its `ending`, and nothing is raised for it.
    """
    runs = [Run(trial, setup, *resume(trial, setup)) for trial, setup in zip(trials, setups, strict=True)]
    savers = {run: Saver(run.trial, run.setup.config.checkpoint_every) for run in runs}
    for run in runs:
        if not run.progress.reported:
            report(run.trial, run.setup, run.progress)
    together = Together(runs)

    def save(run: Run) -> None:
        together.settle(run)
        savers[run].save(run.setup, run.progress, run.best)

    while together.go_on():
        waiting = [run for run in together.epoch() if run.ending is None]
        try:
            while waiting:
                run = waiting.pop(0)
                try:
                    tell(run.trial, run.setup, run.progress, savers[run], lambda: save(run))  # noqa: B023
                except optuna.TrialPruned as pruned:
                    run.ending = pruned
        except BaseException:  # interrupted: the others' epoch is done too
            for run in waiting:
                run.progress.reported = False
                save(run)
            raise
    return runs


def stacked_epoch(stack: Stack, runs: Sequence[Run], check: Callable[[], None] | None = None) -> list[Epoch]:
    """Train every lane an epoch, then measure the validation sets. Each has its share of the time."""
    started = time.perf_counter()
    losses, accuracies = train_epoch(stack, runs, check)
    seconds = (time.perf_counter() - started) / len(runs)
    values = measure(stack)
    return [Epoch(*each) for each in zip(losses, [seconds] * len(runs), values, accuracies, strict=True)]


def train_epoch(
    stack: Stack, runs: Sequence[Run], check: Callable[[], None] | None = None
) -> tuple[list[float], Sequence[float | None]]:
    """Train on every sample once; return each lane's mean loss and, of a classifier, accuracy meanwhile."""
    plan = stack.plan([run.progress.epoch + 1 for run in runs])
    trials = {id(run.trial): run.trial for run in runs}.values()
    checks = [trial.check for trial in trials] if check is None else [check]
    device, accumulate = stack.first.device, stack.first.config.accumulate
    totals = torch.zeros(len(stack), device=device)
    right = torch.zeros(len(stack), device=device) if stack.first.task == "classification" else None
    pending = torch.zeros_like(stack.model.rows) if accumulate > 1 else None

    for number, groups in enumerate(stack.groups):
        for check in checks:
            check()
        for lanes, start, end, last_of_group in groups:  # lanes whose batch is of one size
            leaves, loss, alike = stack.part(lanes)
            generators = plan.generators[lanes]
            inputs, targets = stack.training.take(lanes, plan.places[lanes, start:end])  # 1. a batch
            inputs, mixture = varied(stack, lanes, inputs, targets, generators)
            masks = masks_of(generators, device)
            outputs = stack.model.forward(leaves, inputs, lanes, masks)  # 2. forward
            each = (
                loss(outputs, targets) if mixture is None else loss.mixed(outputs, targets, *mixture)
            )  # 3. loss
            gradient = stack.model.gradient(each, leaves)  # 4. backward
            with torch.no_grad():
                totals[lanes].addcmul_(each, plan.weights[number, lanes])
                if right is not None:
                    right[lanes].add_(hits(loss, outputs, targets, mixture))
                if stack.l1 is not None or stack.l2 is not None:
                    penalise(stack, lanes, gradient)
                if pending is not None and plan.shares is not None:
                    pending[lanes] += gradient * plan.shares[number, lanes]
                    gradient = pending[lanes]
                if not last_of_group:
                    continue
                clip(stack, lanes, gradient)
                step = number // accumulate
                for same, part, rows in alike:  # 5. step
                    stack.optimizer.step(rows, gradient[part], same, step)
                if pending is not None:
                    pending[lanes] = 0  # 6. repeat

    stack.finish_epoch()
    losses = (totals / plan.weights.sum(0)).tolist()
    samples = [setup.batches.samples for setup in stack.setups]
    if right is None:
        return losses, [None] * len(stack)
    return losses, [count / of for count, of in zip(right.tolist(), samples, strict=True)]


Mixture = tuple[
    Tensor, Tensor
]  # of mixup: the other samples' targets, and the share of the sample's own, [n, B]


def varied(
    stack: Stack,
    lanes: slice,
    inputs: Tensor,
    targets: Tensor,
    generators: Sequence[torch.Generator | None],
) -> tuple[Tensor, Mixture | None]:
    """Augment and mix the batch of each lane that asks for it, by its own random numbers."""
    setups = stack.setups[lanes]
    if not any(stack.varies[lanes]):
        return inputs, None
    inputs, others = inputs.clone(), targets.clone()
    shares = torch.ones(targets.shape, device=inputs.device)
    for lane, (setup, generator) in enumerate(zip(setups, generators, strict=True)):
        if generator is None:
            continue
        with seeds.lent(generator):
            if setup.augment is not None:
                inputs[lane] = setup.augment(inputs[lane])
            if setup.config.mixup:
                mixed = mix(inputs[lane], targets[lane], setup.config.mixup)
                inputs[lane], others[lane], shares[lane] = mixed
    return inputs, (others, shares) if any(setup.config.mixup for setup in setups) else None


def hits(loss: LaneLoss, outputs: Tensor, targets: Tensor, mixture: Mixture | None) -> Tensor:
    """How many samples of each lane [n] are predicted rightly; of a mixture, by its shares."""
    predicted = loss.labels(outputs)
    right = (predicted == targets).float()
    if mixture is not None:
        right = torch.lerp((predicted == mixture[0]).float(), right, mixture[1])
    return right.sum(1)


def penalise(stack: Stack, lanes: slice, gradient: Tensor) -> None:
    """Add the gradient of l1 * sum|w| + l2 / 2 * sum w^2 over the weights of each lane."""
    rows = stack.model.rows[lanes]
    if stack.l1 is not None:
        gradient.add_(rows.sign() * (stack.l1[lanes] * stack.model.is_weight))
    if stack.l2 is not None:
        gradient.add_(rows * (stack.l2[lanes] * stack.model.is_weight))


def clip(stack: Stack, lanes: slice, gradient: Tensor) -> None:
    """Clip each lane's gradient [n, P] as asked: elements by clip_value, then the 2-norm by clip_norm."""
    if stack.clip_value is not None:
        most = stack.clip_value[lanes]
        gradient.clamp_(-most, most)
    if stack.clip_norm is not None:
        most = stack.clip_norm[lanes]
        factor = most / (gradient.norm(dim=1, keepdim=True) + 1e-6)
        gradient.mul_(torch.where(most.isinf(), 1.0, factor.clamp_max(1.0)))


@torch.no_grad()
def predict(stack: Stack, lanes: slice) -> tuple[Tensor, Tensor]:
    """Outputs [n, N, O] and targets [n, N] of the validation sets of `lanes`, in the order of the data."""
    leaves = stack.part(lanes)[0]
    size = max(stack.first.config.eval_batch_size * 4 // len(leaves[0]), 32)
    outputs, targets = [], []
    for inputs, truth in stack.validation.in_order(lanes, size):  # 7. evaluate
        outputs.append(stack.model.forward(leaves, inputs, lanes, None))
        targets.append(truth)
    return torch.cat(outputs, 1), torch.cat(targets, 1)


def measure(stack: Stack) -> list[dict[str, float]]:
    """Each lane's mean validation loss, and the metrics that are measured every epoch."""
    names = [name for name in names_per_epoch(stack.first) if name != "loss"]
    found = []
    for lanes in stack.validation.alike():
        outputs, targets = predict(stack, lanes)
        loss = stack.part(lanes)[1]
        losses, scores = loss(outputs, targets).tolist(), loss.scores(outputs)
        if stack.first.task == "regression":
            pairs = [in_own_units(*each) for each in zip(stack.setups[lanes], outputs, targets, strict=True)]
            scores, targets = (torch.stack(column) for column in zip(*pairs, strict=True))
        values = metrics.compute_lanes(names, scores, targets, stack.first.how)
        found += [{"loss": mean} | named for mean, named in zip(losses, values, strict=True)]
    return found


def train_settings(
    settings: Sequence[Mapping[str, Any]],
    task: Task = "classification",
    training_seeds: Sequence[int] | None = None,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Train each of `settings` (see config.py) together; return what each came to, in their order.

    A record has `settings`, `seed`, `values` (of the objectives; None where it diverged), `reports` and
    `logs` by epoch, `stopped`, and `lanes`, the number of trainings in its stack.

    Raises:
        TrainingError: a setting cannot be used.
    """
    trials = [
        LocalTrial({"checkpoint_every": 0, **each}, seed=seed, device=device)
        for each, seed in zip(settings, training_seeds or [0] * len(settings), strict=True)
    ]
    setups = [assemble(trial, TrainingConfig.read(trial.config), task) for trial in trials]
    return [
        {
            "settings": dict(each),
            "seed": run.trial.seed,
            "values": None if run.ending else list(values_that_count(run.setup, run.progress)),
            "reports": trial.reports,
            "logs": trial.logs,
            "stopped": str(run.ending or run.progress.stopped),
            "lanes": run.lanes,
        }
        for each, trial, run in zip(settings, trials, train(trials, setups), strict=True)
    ]


def main() -> None:
    """Train the settings of a file together; print a JSON line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "settings", type=Path, help="JSON: a list of settings; `seed` among them is the training's"
    )
    parser.add_argument("--task", choices=["classification", "regression"], default="classification")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        settings = json.loads(options.settings.read_text())
        training_seeds = [each.pop("seed", 0) for each in settings]
        records = train_settings(settings, options.task, training_seeds, options.device)
    except (OSError, ValueError, AttributeError, TrainingError) as error:
        parser.error(f"{options.settings}: {error}")
    for record in records:
        print(json.dumps(record))


if __name__ == "__main__":
    main()
