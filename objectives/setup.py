"""The parts of one training run, put together from a configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from objectives import augment, losses, optimizers, schedules, seeds
from objectives import device as devices
from objectives.config import TrainingConfig
from objectives.datasets.batches import Batches, Drawing, LoaderBatches, MemoryBatches
from objectives.datasets.load import Prepared, prepare
from objectives.datasets.records import AnySamples, Samples, Task
from objectives.errors import ConfigError
from objectives.losses import Loss
from objectives.metrics import LOSS, How, Metric, find
from objectives.models.build import build, probe, takes_channels_last
from objectives.models.size import count_flops
from objectives.models.transfer import trained_before
from objectives.protocol import Trial
from objectives.ranks import ALONE, Ranks

DEFAULT_OBJECTIVE: dict[Task, str] = {"classification": "accuracy", "regression": "rmse"}
WORTH_CHANNELS_LAST = 8  # below, rearranging costs more than it saves
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Setup:
    """Everything the loop works with."""

    config: TrainingConfig
    task: Task
    seed: int
    device: torch.device
    data: Prepared
    model: nn.Module  # what holds the weights
    forward: Callable[[Tensor], Tensor]  # the same model, perhaps compiled
    loss: Loss
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    plateau: schedules.Plateau
    scaler: torch.amp.GradScaler
    batches: Batches
    validation: Batches
    augment: Callable[[Tensor], Tensor] | None  # of a training batch's inputs
    backbone: list[nn.Parameter]  # all but the head
    penalised: list[nn.Parameter]  # weights under an L1 or L2 penalty
    objectives: tuple[Metric, ...]
    monitor: Metric  # decides best epoch, early stopping, plateau and target
    how: How  # the metrics are measured
    ranks: Ranks = ALONE

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch."""
        return -(-len(self.batches) // self.config.accumulate)

    @property
    def reported(self) -> tuple[str, ...] | None:
        """The objectives, which are reported every epoch; None of a cost alone, which says nothing."""
        names = tuple(metric.name for metric in self.objectives)
        return names if self.monitor.name in names else None

    @cached_property
    def flops(self) -> float:
        """Of one sample's forward pass."""
        return float(count_flops(self.model, self.data.sample_shape, self.device, self.data.dtype))

    @cached_property
    def nbytes(self) -> int:
        """Of what training changes, about: the weights, and as an optimiser may two moments of each."""
        return 3 * sum(parameter.nbytes for parameter in self.model.parameters())

    def share(self, ranks: Ranks) -> None:
        """Train as one of several ranks.

        Raises:
            ConfigError: a batch is too small for so many.
        """
        size, least = self.config.batch_size, 2 * ranks.size
        if ranks.size > 1 and size != "full" and size < least:
            raise ConfigError(
                f"batch_size: {size} cannot be split between {ranks.size} devices, which take at least 2 "
                f"samples each; use {least} or more, or leave gpus_per_trial out"
            )
        self.ranks = ranks
        self.batches.share(ranks)

    def autocast(self) -> Any:
        """The context in which the model runs."""
        dtype = AUTOCAST.get(self.config.amp)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)


def assemble(
    trial: Trial, config: TrainingConfig, task: Task, seed: int | None = None, fold: int | None = None
) -> Setup:
    """Build everything that `trial` trains with; `seed`, by default its own, decides the initial weights.

    `fold` is the part of a cross-validation that validates, from 0.

    Raises:
        TrainingError: the data, model, device or settings cannot be used.
    """
    objectives, monitor = choose_metrics(config, task)
    device = devices.resolve(trial.device)
    devices.apply_switches(config, device)
    seed = trial.seed if seed is None else seed
    data = prepare(config, task, device, fold, trial.seed)
    loss = losses.build(config, task, len(data.classes), data.train.targets, device)
    model = build_model(config, data, loss, seed, device)
    channels_last = lay_out(model, config, data.sample_shape, device)
    config = config.model_copy(update={"channels_last": channels_last})
    optimizer = optimizers.build(config, model)
    setup = Setup(
        config=config,
        task=task,
        seed=seed,
        device=device,
        data=data,
        model=model,
        forward=compiled(model) if config.compile else model,
        loss=loss,
        optimizer=optimizer,
        learning_rate=lambda step: config.lr,
        plateau=schedules.Plateau(config),
        scaler=torch.amp.GradScaler(device.type, enabled=config.amp == "fp16" and device.type == "cuda"),
        batches=training_batches(config, data, model, seed),
        validation=evaluation_batches(config, data, data.validation),
        augment=augment.build(config, data.sample_shape),
        backbone=trained_before(model),
        penalised=list(optimizers.weights(model)) if config.l1 or config.l2 else [],
        objectives=objectives,
        monitor=monitor,
        how=How.of(config, data.classes, task),
    )
    setup.learning_rate = schedules.build(config, setup.steps_per_epoch)
    return setup


def choose_metrics(config: TrainingConfig, task: Task) -> tuple[tuple[Metric, ...], Metric]:
    """Return the metrics to return, and the one that decides which epoch is best.

    Raises:
        ConfigError: a metric is unknown, or named twice.
    """
    names = config.objectives or (DEFAULT_OBJECTIVE[task],)
    if len(set(names)) < len(names):
        raise ConfigError(f"objective: a metric is named twice in {list(names)}")
    chosen = tuple(find(name, task) for name in names)
    measured = [metric for metric in chosen if metric.task == task or metric is LOSS]
    return chosen, measured[0] if measured else find(DEFAULT_OBJECTIVE[task], task)


def build_model(
    config: TrainingConfig, data: Prepared, loss: Loss, seed: int, device: torch.device
) -> nn.Module:
    """Build the model on `device` with the initial weights of `seed`."""
    seeds.seed_everything(seeds.derive(seed, "model"))
    if config.mixup and data.dtype == torch.int64:
        raise ConfigError(f"mixup: {config.dataset} has whole numbers, which cannot be mixed")
    model = build(config, data.sample_shape, loss.outputs, data.inputs)
    probe(model, data.sample_shape, loss.outputs, data.dtype)
    return model.to(device)


def lay_out(
    model: nn.Module, config: TrainingConfig, sample_shape: tuple[int, ...], device: torch.device
) -> bool:
    """Put the weights of `model` into the layout that `channels_last` asks for; return whether it is that.

    auto: on a CPU for convolutions of at least `WORTH_CHANNELS_LAST` channels, on a GPU under autocast,
    if the model takes such inputs (one that calls `view` does not). It depends on nothing that is measured,
    so that a resumed run has it too.
    """
    wanted = config.channels_last
    if wanted == "auto":
        channels = [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]
        on_cpu = device.type == "cpu" and min(channels, default=0) >= WORTH_CHANNELS_LAST
        wanted = bool(channels) and (on_cpu or (device.type == "cuda" and config.amp != "none"))
    if not wanted or len(sample_shape) != 3:
        return False
    model.to(memory_format=torch.channels_last)
    if config.channels_last == "auto" and not takes_channels_last(model, sample_shape, device):
        model.to(memory_format=torch.contiguous_format)
        return False
    return True


def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Compile `model` as a fresh process would.

    What earlier trials of the process compiled is forgotten: their models share this one's code, and after
    a few of them PyTorch stops compiling it, or compiles it for sizes that vary.
    """
    torch.compiler.reset()
    forward: Callable[[Tensor], Tensor] = torch.compile(model)
    return forward


def evaluation_batches(config: TrainingConfig, data: Prepared, samples: AnySamples) -> Batches:
    """Large batches in the order of the data."""
    return _batches(config, data, samples, config.eval_batch_size)


def training_batches(config: TrainingConfig, data: Prepared, model: nn.Module, seed: int) -> Batches:
    """Batches in an order that `seed` decides. No batch of one sample meets a batch norm.

    Raises:
        ConfigError: the model has a batch norm but batches are of one sample.
    """
    has_batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    size = len(data.train) if config.batch_size == "full" else config.batch_size
    if has_batch_norm and min(size, len(data.train)) == 1:
        raise ConfigError("batch_size: the model has a batch norm, which needs batches of at least 2 samples")
    return _batches(config, data, data.train, size, seed, has_batch_norm, shares(config, data))


def shares(config: TrainingConfig, data: Prepared) -> Tensor | None:
    """How likely a sample of each class [K] is drawn; None where every sample is taken once.

    Raises:
        ConfigError: they are asked for a regression, are not K numbers, or none is above 0.
    """
    if config.sampling == "uniform":
        return None
    if data.task == "regression":
        raise ConfigError("sampling: it is by class; a regression has none")
    if config.sampling == "balanced":
        return 1 / torch.bincount(data.train.targets.cpu(), minlength=len(data.classes)).double()
    if len(config.sampling) != len(data.classes) or min(config.sampling) < 0 or not any(config.sampling):
        raise ConfigError(
            f"sampling: {len(data.classes)} weights from 0 are needed, one for each class, not all 0; "
            f"got {list(config.sampling)}"
        )
    return torch.tensor(config.sampling, dtype=torch.float64)


def _batches(
    config: TrainingConfig,
    data: Prepared,
    samples: AnySamples,
    size: int,
    seed: int = 0,
    join_last: bool = False,
    shares: Tensor | None = None,
) -> Batches:
    how = Drawing(size, seed, join_last, shares, config.channels_last is True)
    if isinstance(samples, Samples):
        return MemoryBatches(samples, how)
    return LoaderBatches(samples, how, data.inputs, data.targets, config.loader_workers)
