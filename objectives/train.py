"""The training loop.

Dimensions: B batch, O outputs of the model, N samples of the validation set.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import optuna
import torch
from torch import Tensor

from objectives import device as devices
from objectives import metrics, schedules, seeds
from objectives.augment import mix
from objectives.checkpoints import Saver, copy_weights, resume
from objectives.datasets.batches import Batches, group_shares
from objectives.errors import DivergedError
from objectives.metrics import Hits
from objectives.models.size import count_parameters
from objectives.models.transfer import hold
from objectives.protocol import Trial
from objectives.setup import Setup
from objectives.stopping import Progress


def train(trial: Trial, setup: Setup) -> tuple[Progress, dict[str, Tensor]]:
    """Train until the run should end; return its progress and the weights of the best epoch.

    Goes on from the newest checkpoint where there is one.

    Raises:
        DivergedError: the training or validation loss is not finite.
        optuna.TrialPruned: the trial is not worth finishing.
    """
    progress, best = resume(trial, setup)
    saver = Saver(trial, setup.config.checkpoint_every)
    if not progress.reported:
        report(trial, setup, progress)

    while progress.stopped is None:
        done = one_epoch(trial, setup, progress.epoch + 1)
        if take_in(setup, progress, done):
            best = copy_weights(setup.model)
        tell(trial, setup, progress, saver, lambda: saver.save(setup, progress, best))  # noqa: B023
    return progress, best


class Epoch(NamedTuple):
    """What one epoch came to."""

    train_loss: float
    seconds: float  # of training, not of the evaluation
    values: dict[str, float]  # of the validation set
    train_accuracy: float | None


def one_epoch(trial: Trial, setup: Setup, epoch: int) -> Epoch:
    """Train an epoch, then measure the validation set.

    Raises:
        DivergedError: the training loss is not finite.
    """
    started, ranks, names = time.perf_counter(), setup.ranks, names_per_epoch(setup)
    hits = Hits(setup.loss.labels) if setup.task == "classification" else None
    train_loss = train_epoch(trial, setup, epoch, hits)
    seconds = time.perf_counter() - started
    if ranks.rank == 0:
        values = measure(setup, setup.validation, names)
    else:
        values = dict.fromkeys(["loss", *(name for name in names if name != "loss")], math.nan)
    told = ranks.agreed([seconds, *values.values()])
    values = dict(zip(values, told[1:], strict=True))
    return Epoch(train_loss, told[0], values, None if hits is None else hits.share(ranks))


def take_in(setup: Setup, progress: Progress, done: Epoch) -> bool:
    """Take an epoch into the progress and the schedule; return whether it is the best so far.

    Raises:
        DivergedError: the training or validation loss is not finite.
    """
    for loss in (done.train_loss, done.values["loss"]):
        if not math.isfinite(loss):
            raise DivergedError(progress.epoch + 1, loss)
    progress.train_accuracy = done.train_accuracy
    improved = progress.record(setup.config, setup.monitor, done.train_loss, done.seconds, done.values)
    watched = done.values[setup.monitor.name]
    setup.plateau.update(-watched if setup.monitor.maximize else watched)
    return improved


def tell(trial: Trial, setup: Setup, progress: Progress, saver: Saver, save: Callable[[], None]) -> None:
    """Report the last epoch, `save` where it is due, and ask whether to go on.

    Raises:
        optuna.TrialPruned: the trial is not worth finishing.
    """
    try:
        report(trial, setup, progress)
    except BaseException:  # interrupted: the epoch is done, so let whoever goes on start after it
        progress.reported = False
        save()
        raise
    if saver.due(progress):
        save()
    if setup.reported is not None and progress.stopped is None and trial.should_prune():
        raise optuna.TrialPruned(f"pruned after epoch {progress.epoch}")


def train_epoch(trial: Trial, setup: Setup, epoch: int, hits: Hits | None = None) -> float:
    """Train on every sample once; return the mean loss of the epoch.

    `hits` counts what is predicted rightly in the midst of it. The device is waited for once, at the end.

    Raises:
        DivergedError: that loss is not finite.
    """
    ranks = setup.ranks
    seeds.seed_everything(ranks.seed(seeds.derive(setup.seed, "epoch", epoch)))
    setup.model.train()
    hold(setup, epoch)
    forward = ranks.wrap(setup.forward)  # anew, for other weights may be held
    config, optimizer, scaler = setup.config, setup.optimizer, setup.scaler
    step = (epoch - 1) * setup.steps_per_epoch
    total = torch.zeros((), device=setup.device)
    mixed = config.mixup > 0
    weights = setup.batches.weights(epoch, setup.loss.weight)
    groups = group_shares(weights, config.accumulate)
    own = setup.batches.own_weights(epoch, setup.loss.weight)

    for number, (inputs, targets) in enumerate(setup.batches.shuffled(epoch)):  # 1. a batch
        trial.check()
        share, last_of_group = groups[number]
        if setup.augment is not None:
            inputs = setup.augment(inputs)
        if mixed:
            inputs, others, shares = mix(inputs, targets, config.mixup)
        with setup.autocast():
            outputs = forward(inputs)  # 2. forward
        if mixed:
            loss = setup.loss.mixed(outputs.float(), targets, others, shares)  # 3. loss
        else:
            loss = setup.loss(outputs.float(), targets)
        if hits is not None and own[number]:
            hits.add(outputs.detach(), targets, (others, shares) if mixed else None)
        total.add_(loss.detach(), alpha=own[number])
        if ranks.size > 1:  # whose gradients' mean counts
            loss = loss * (ranks.size * own[number] / weights[number])
        loss = loss + penalty(setup) if setup.penalised else loss
        torch.autograd.backward(scaler.scale(loss if share == 1 else loss * share))  # 4. backward
        if last_of_group:
            clip(setup)
            schedules.apply(optimizer, setup.plateau.lowered(setup.learning_rate(step)))
            scaler.step(optimizer)  # 5. step
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            step += 1  # 6. repeat

    mean = ranks.total(total).item() / sum(weights)
    if not math.isfinite(mean):
        raise DivergedError(epoch, mean)
    return mean


def penalty(setup: Setup) -> Tensor:
    """l1 * sum|w| + l2 / 2 * sum w^2 over the weights, a scalar."""
    result = torch.zeros((), device=setup.device)
    for weight in setup.penalised:
        if setup.config.l1:
            result = result + setup.config.l1 * weight.abs().sum()
        if setup.config.l2:
            result = result + setup.config.l2 / 2 * weight.square().sum()
    return result


def clip(setup: Setup) -> None:
    """Clip the gradients as asked: elements by clip_value, then the 2-norm by clip_norm."""
    config = setup.config
    if config.clip_norm is None and config.clip_value is None:
        return
    setup.scaler.unscale_(setup.optimizer)
    if config.clip_value is not None:
        torch.nn.utils.clip_grad_value_(setup.model.parameters(), config.clip_value)
    if config.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(setup.model.parameters(), config.clip_norm)


@torch.inference_mode()
def predict(setup: Setup, batches: Batches) -> tuple[Tensor, Tensor]:
    """Return outputs [N, O] (float32) and targets [N] in the order of the data."""
    setup.model.eval()
    outputs, targets = [], []
    for inputs, truth in batches.in_order():  # 7. evaluate
        with setup.autocast():
            outputs.append(setup.forward(inputs).float())
        targets.append(truth)
    return torch.cat(outputs), torch.cat(targets)


def measure(setup: Setup, batches: Batches, names: Iterable[str]) -> dict[str, float]:
    """Return the mean loss and the named metrics of the model on `batches`."""
    outputs, targets = predict(setup, batches)
    loss = setup.loss(outputs, targets)
    scores, truth = in_own_units(setup, outputs, targets)
    values = metrics.compute((name for name in names if name != "loss"), scores, truth, setup.how)
    return {"loss": loss.item(), **values}


def in_own_units(setup: Setup, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores and targets as metrics want them: regression values scaled back."""
    scores = setup.loss.scores(outputs)
    scaling = setup.data.targets
    return (scores, targets) if scaling is None else (scaling.undo(scores), scaling.undo(targets))


def names_per_epoch(setup: Setup) -> list[str]:
    """The metrics to measure after every epoch: what is returned or monitored."""
    wanted = [metric.name for metric in (setup.monitor, *setup.objectives)]
    return [name for name in dict.fromkeys(wanted) if name not in metrics.COSTS]


def named_values(setup: Setup, progress: Progress) -> dict[str, float]:
    """What is reported and logged of the last epoch, by name; with the first one the model's size."""
    named = {f"validation_{name}": value for name, value in progress.values.items()}
    if progress.epoch == 1:
        named["parameters"] = float(count_parameters(setup.model))
    if progress.train_accuracy is not None:
        named["train_accuracy"] = progress.train_accuracy
    return named | {"train_loss": progress.train_losses[-1], "lr": setup.optimizer.param_groups[0]["lr"]}


def report(trial: Trial, setup: Setup, progress: Progress) -> None:
    """Report and log the last epoch, one-based."""
    named = named_values(setup, progress)
    if setup.reported is not None:
        report_values(trial, setup, values_at(setup, progress, progress.values), progress.epoch, named)
    trial.log(progress.epoch, **named)
    progress.reported = True


def report_values(
    trial: Trial, setup: Setup, values: tuple[float, ...], epoch: int, named: dict[str, float]
) -> None:
    """Report the objectives; of one, what is `named` besides is no metric of its own."""
    if len(values) == 1:
        named.pop(f"validation_{setup.objectives[0].name}")
    trial.report(values[0] if len(values) == 1 else values, epoch)


def values_that_count(setup: Setup, progress: Progress) -> tuple[float, ...]:
    """The objectives' values: metrics of the epoch that is kept, costs of the whole run."""
    best = keeps_best(setup, progress)
    return values_at(setup, progress, progress.best_values if best else progress.values)


def values_at(setup: Setup, progress: Progress, values: dict[str, float]) -> tuple[float, ...]:
    """The objectives' values, where these metrics are measured."""
    names = [metric.name for metric in setup.objectives]
    return tuple(values[name] if name in values else cost(name, setup, progress) for name in names)


def keeps_best(setup: Setup, progress: Progress) -> bool:
    """Whether the best epoch counts, not the last."""
    return setup.config.keep == "best" and bool(progress.best_values)


def cost(name: str, setup: Setup, progress: Progress) -> float:
    """parameters (a count), flops (of one sample's forward pass), seconds_per_epoch, peak_memory (bytes)."""
    if name == "parameters":
        return float(count_parameters(setup.model))
    if name == "flops":
        return setup.flops
    if name == "seconds_per_epoch":
        return statistics.median(progress.epoch_seconds)
    return float(devices.peak_memory(setup.device))
