"""The parts of L trainings put together as one, as setup.py puts together those of one.

Dimensions: L lanes, n of them in a step, B batch, N samples, P numbers of a lane, K classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from objectives import schedules, seeds
from objectives.datasets.batches import group_shares
from objectives.datasets.prepare import Scaling
from objectives.datasets.records import Samples
from objectives.imports import is_import_path
from objectives.losses import LaneLoss
from objectives.models.size import count_layer_flops, count_parameters
from objectives.models.stacked import Drop, build_of, chosen, chosen_norms, difference, stack_of
from objectives.optimizers import LaneOptimizer, kind_of
from objectives.setup import Setup
from objectives.train import names_per_epoch

# On a CPU larger models leave no overhead to share, and many of them no longer fit its cache: by
# `python -m tests.bench.bench_lanes --studies` three to five lanes of such sizes gain a tenth or nothing.
SMALL_PARAMETERS = 100_000
SMALL_FLOPS = 100_000  # of a sample's forward pass, where there are convolutions


def obstacle(setup: Setup) -> str | None:
    """Why a training cannot be a lane, or should not, in words; None where it can."""
    config, data, model = setup.config, setup.data, setup.model
    if setup.ranks.size > 1:
        return "several devices train it"
    if not isinstance(data.train, Samples) or not isinstance(data.validation, Samples):
        return "the data come through a DataLoader"
    if data.dtype == torch.int64 or getattr(data.inputs, "embed", False):
        return "the inputs are, or hold, whole numbers"
    if config.frozen_epochs or config.backbone_lr != 1:
        return "a part of the model is frozen, or learns at a rate of its own"
    if own := next((name for name in ("loss", "optimizer") if is_import_path(getattr(config, name))), None):
        return f"the {own} is your own"
    if config.amp != "none" or config.compile:
        return "`amp` and `compile` are for one model"
    if setup.device.type == "cpu" and not _small(setup):
        return "on a CPU models of this size are faster one after another"
    return None if build_of(model) else difference(model, data.sample_shape)


def lane_key(setup: Setup) -> tuple[Any, ...]:
    """What two trainings must share to be lanes of one stack, where there is no `obstacle`."""
    config, data = setup.config, setup.data
    shapes = tuple(tuple(parameter.shape) for parameter in setup.model.parameters())
    return (
        build_of(setup.model) or (config.model, repr(config.model_args), repr(setup.model), shapes),
        (
            setup.task,
            str(setup.device),
            data.sample_shape,
            tuple(
                (part.dtype, getattr(part, "scaling", None) is None) for part in (data.train, data.validation)
            ),
        ),
        (type(setup.loss), setup.loss.outputs),
        (config.dataset, config.validation_fraction, config.test_fraction, config.train_limit),
        (config.batch_size, config.accumulate, config.eval_batch_size, getattr(setup.loss, "delta", None)),
        (tuple(names_per_epoch(setup)), setup.how),
    )


def _small(setup: Setup) -> bool:
    if count_parameters(setup.model) > SMALL_PARAMETERS:
        return False
    convolves = any(isinstance(module, nn.Conv2d) for module in setup.model.modules())
    flops = count_layer_flops(setup.model, setup.data.sample_shape, setup.device) if convolves else 0
    return flops <= SMALL_FLOPS


class LaneSamples:
    """The samples of each lane: of one set that all share, or of several laid behind one another."""

    def __init__(self, samples: Sequence[Samples]) -> None:
        distinct = {id(part): part for part in samples}
        starts = dict(
            zip(distinct, itertools.accumulate((len(p) for p in distinct.values()), initial=0), strict=False)
        )
        parts = list(distinct.values())
        self._inputs = parts[0].stored if len(parts) == 1 else torch.cat([part.stored for part in parts])
        self._targets = parts[0].targets if len(parts) == 1 else torch.cat([part.targets for part in parts])
        self._parts = list(samples)
        self._starts = [starts[id(part)] for part in samples]
        self._scaling = _stacked_scaling([part.scaling for part in samples])

    def place(self, lane: int, order: Tensor) -> Tensor:
        """Where the samples that `order` names stand."""
        return order + self._starts[lane]

    def take(self, lanes: slice, places: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [n, B, ...] and targets [n, B] at `places` [n, B]."""
        flat = places.flatten()
        inputs = torch.unflatten(self._inputs.index_select(0, flat), 0, places.shape)
        return self._scaled(inputs, lanes), self._targets.index_select(0, flat).view(places.shape)

    def in_order(self, lanes: slice, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all samples of `lanes`, which have as many each, by parts of `size`."""
        starts, count = self._starts[lanes], len(self._parts[lanes.start])
        for first in range(0, count, size):
            last = min(first + size, count)
            if len(set(starts)) == 1:
                part = slice(starts[0] + first, starts[0] + last)
                inputs = self._inputs[part].expand(len(starts), *[-1] * self._inputs.ndim)
                yield self._scaled(inputs, lanes), self._targets[part].expand(len(starts), -1)
            else:
                there = torch.tensor(starts)[:, None] + torch.arange(first, last)
                yield self.take(lanes, there.to(self._inputs.device))

    def alike(self) -> list[slice]:
        """The lanes that stand beside one another and have as many samples."""
        return _runs([len(part) for part in self._parts])

    def _scaled(self, inputs: Tensor, lanes: slice) -> Tensor:
        if self._scaling is None:
            return inputs
        return Scaling(self._scaling.shift[lanes], self._scaling.scale[lanes]).apply(inputs)


@dataclass(frozen=True)
class Plan:
    """What an epoch is going to do, laid out before it."""

    places: Tensor  # [L, N] of the samples in each lane's order
    weights: Tensor  # [batches, L] in the mean loss
    shares: Tensor | None  # [batches, L, 1] of a step's gradient; None where each batch is a step
    generators: list[torch.Generator | None]  # of the lanes that draw while training


class Stack:
    """L trainings of one `lane_key`, stacked in an order of its own.

    Args:
        setups: as assembled, or as a checkpoint has restored them.
        best: weights of each one's best epoch, empty before the first.
    """

    def __init__(self, setups: Sequence[Setup], best: Sequence[dict[str, Tensor]]) -> None:
        self.order = _in_order(setups)
        self.setups = [setups[i] for i in self.order]
        self.model = stack_of([setup.model for setup in self.setups])
        self._put_together()
        self._restore_optimizers()
        weights = [best[i] or setups[i].model.state_dict() for i in self.order]
        self.best, self.best_norms = self.model.held(weights)
        self._prepare()

    def __len__(self) -> int:
        """Lanes."""
        return len(self.setups)

    def keep(self, lanes: Sequence[int], *others: Stack) -> None:
        """Go on with these lanes, counted through this stack and `others`, whose rows are laid out alike."""
        stacks = [self, *others]
        setups = [setup for stack in stacks for setup in stack.setups]
        optimizers = [stack.optimizer for stack in stacks]
        self.setups = [setups[lane] for lane in lanes]
        self.model.keep(lanes, *(stack.model for stack in others))
        self._put_together()
        self.optimizer.take(optimizers, lanes)
        self.best = chosen([stack.best for stack in stacks], lanes)
        self.best_norms = chosen_norms([stack.best_norms for stack in stacks], lanes)
        self._prepare()

    def extend(self, other: Stack) -> list[int]:
        """Take in the lanes of another; return which lane, counted through both, stands at each place now."""
        order = _in_order([*self.setups, *other.setups])
        self.keep(order, other)
        return order

    def _put_together(self) -> None:
        """What holds nothing that is trained yet."""
        optimizers = [setup.optimizer for setup in self.setups]
        self.optimizer = LaneOptimizer(optimizers, self._spared(), self.model.width)
        self.training = LaneSamples([setup.data.train for setup in self.setups])  # type: ignore[misc]
        self.validation = LaneSamples([setup.data.validation for setup in self.setups])  # type: ignore[misc]

    def _prepare(self) -> None:
        """What follows from the lanes there are."""
        self.first = self.setups[0]
        configs = [setup.config for setup in self.setups]
        device = self.first.device
        self.loss = LaneLoss([setup.loss for setup in self.setups])
        self._parts: dict[
            tuple[int, int], tuple[list[Tensor], LaneLoss, list[tuple[slice, slice, Tensor]]]
        ] = {}

        def column(values: list[float]) -> Tensor | None:
            return torch.tensor(values, device=device)[:, None] if any(values) else None

        def limits(values: list[float | None]) -> Tensor | None:
            given = [float("inf") if value is None else value for value in values]
            return torch.tensor(given, device=device)[:, None] if any(values) else None

        self.l1 = column([config.l1 for config in configs])
        self.l2 = column([config.l2 for config in configs])
        self.clip_value = limits([config.clip_value for config in configs])
        self.clip_norm = limits([config.clip_norm for config in configs])
        self.groups = list(self._groups())
        self.varies = [bool(setup.augment or setup.config.mixup) for setup in self.setups]
        self.draws = [varies or drops for varies, drops in zip(self.varies, self.model.drops, strict=True)]

    def _groups(self) -> Iterator[list[tuple[slice, int, int, bool]]]:
        """By batch: the lanes whose batch is of one size, its bounds, and whether a step ends with it."""
        every = self.first.config.accumulate
        batches = [
            [(*bounds, number % every == 0 or number == len(setup.batches)) for number, bounds in numbered]
            for setup in self.setups
            for numbered in [enumerate(setup.batches.bounds, 1)]
        ]
        for column in itertools.zip_longest(*batches):
            yield [(lanes, *column[lanes.start]) for lanes in _runs(column) if column[lanes.start]]

    def part(self, lanes: slice) -> tuple[list[Tensor], LaneLoss, list[tuple[slice, slice, Tensor]]]:
        """Of `lanes`: the leaves of their parameters, their loss, and those of one optimiser each.

        These as slices of all lanes and of these, and their rows.
        """
        key = (lanes.start, lanes.stop)
        if key not in self._parts:
            kinds = self.optimizer.kinds[lanes]
            all_of = [slice(lanes.start + run.start, lanes.start + run.stop) for run in _runs(kinds)]
            inside = [(own, run, self.model.rows[own]) for own, run in zip(all_of, _runs(kinds), strict=True)]
            loss = self.loss if lanes == slice(0, len(self)) else self.loss.of(range(*key))
            self._parts[key] = (self.model.leaves(lanes), loss, inside)
        return self._parts[key]

    def plan(self, epochs: Sequence[int]) -> Plan:
        """Lay out the next epoch, of the number that `epochs` gives for each lane (from 1)."""
        device, config = self.first.device, self.first.config
        lanes = list(zip(self.setups, epochs, strict=True))
        steps = max(setup.steps_per_epoch for setup in self.setups)
        batches = max(len(setup.batches) for setup in self.setups)
        places = torch.zeros(len(self), max(setup.batches.samples for setup in self.setups), dtype=torch.long)
        weights, rates = torch.zeros(batches, len(self)), torch.zeros(steps, len(self), 1)
        shares = torch.zeros(batches, len(self), 1) if config.accumulate > 1 else None
        for lane, (setup, epoch) in enumerate(lanes):
            places[lane, : setup.batches.samples] = self.training.place(lane, setup.batches.order(epoch))
            counts = setup.batches.weights(epoch, setup.loss.weight)
            weights[: len(counts), lane] = torch.tensor(counts)
            if shares is not None:
                groups = group_shares(counts, config.accumulate)
                shares[: len(counts), lane, 0] = torch.tensor([share for share, _ in groups])
            first = (epoch - 1) * setup.steps_per_epoch
            planned = map(setup.learning_rate, range(first, first + setup.steps_per_epoch))
            own = list(map(setup.plateau.lowered, planned))
            rates[: len(own), lane, 0] = torch.tensor(own)
            schedules.apply(setup.optimizer, own[-1])

        def sent(tensor: Tensor) -> Tensor:
            return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)

        rates = sent(rates)
        self.optimizer.begin(rates)
        return Plan(
            places=sent(places),
            weights=sent(weights),
            shares=None if shares is None else sent(shares),
            generators=[
                seeds.generator(seeds.derive(setup.seed, "epoch", epoch), device) if draws else None
                for draws, (setup, epoch) in zip(self.draws, lanes, strict=True)
            ],
        )

    def finish_epoch(self) -> None:
        """Count the optimisers' steps."""
        self.optimizer.steps = [
            done + setup.steps_per_epoch
            for done, setup in zip(self.optimizer.steps, self.setups, strict=True)
        ]

    def remember(self, lanes: Sequence[int]) -> None:
        """These lanes' weights are the best they have had."""
        if not lanes:
            return
        chosen = torch.tensor(lanes, device=self.best.device)
        self.best[chosen] = self.model.rows[chosen]
        for kept, norm in zip(self.best_norms, self.model.norms, strict=True):
            for name, value in norm.items():
                kept[name][chosen] = value[chosen]

    def best_weights(self, lane: int) -> dict[str, Tensor]:
        """The weights of the lane's best epoch, as a state dict of its own model."""
        return self.model.weights(lane, self.best[lane], self.best_norms)

    def put_back(self, lane: int) -> None:
        """Put the lane's state into its own setup, as if it had been trained alone."""
        setup = self.setups[lane]
        self.model.put_back(lane)
        rows = {name: self.model.lane_of(row, lane) for name, row in self.optimizer.state_of(lane).items()}
        for number, parameter in enumerate(self.model.parameters_of(lane)):
            state: dict[str, Any] = {name: tensors[number].clone() for name, tensors in rows.items()}
            if not isinstance(setup.optimizer, torch.optim.SGD):
                state["step"] = torch.tensor(float(self.optimizer.steps[lane]))
            if state:
                setup.optimizer.state[parameter] = state

    def _restore_optimizers(self) -> None:
        states = [
            [setup.optimizer.state.get(parameter, {}) for parameter in self.model.parameters_of(lane)]
            for lane, setup in enumerate(self.setups)
        ]
        for name in self.optimizer.state:
            self.optimizer.state[name] = self.model.stack(
                [{i: s[name] for i, s in enumerate(own) if isinstance(s.get(name), Tensor)} for own in states]
            )
        self.optimizer.steps = [int(own[0].get("step", 0)) if own else 0 for own in states]

    def _spared(self) -> Tensor | None:
        if all(setup.config.decay_all or not setup.config.weight_decay for setup in self.setups):
            return None
        spares = torch.tensor([not setup.config.decay_all for setup in self.setups], device=self.model.device)
        return spares[:, None] & ~self.model.is_weight


def masks_of(generators: Sequence[torch.Generator | None], device: torch.device) -> Callable[..., Tensor]:
    """The function that draws what dropout multiplies by, for each lane as torch's dropout does on a CPU."""

    def masks(drops: Sequence[Drop], shape: Sequence[int]) -> Tensor:
        factors = torch.ones(shape, device=device)
        for row, (share, units), generator in zip(factors, drops, generators, strict=True):
            if share:
                drawn = row if units == shape[2] else torch.empty(shape[1], units, device=device)
                drawn.bernoulli_(1 - share, generator=generator).div_(1 - share)
                if drawn is not row:
                    row[:, :units] = drawn
        return factors

    return masks


def _in_order(setups: Sequence[Setup]) -> list[int]:
    """Which of them stands where in a stack: lanes whose batches and optimisers are alike are neighbours."""
    ranks = [(-setup.batches.samples, kind_of(setup.optimizer)) for setup in setups]
    return sorted(range(len(setups)), key=ranks.__getitem__)


def _runs(values: Sequence[Any]) -> list[slice]:
    """The slices of `values` in which neighbours are equal."""
    ends = itertools.accumulate(len(list(group)) for _, group in itertools.groupby(values))
    return [slice(start, stop) for start, stop in itertools.pairwise([0, *ends])]


def _stacked_scaling(scalings: Sequence[Scaling | None]) -> Scaling | None:
    there = [scaling for scaling in scalings if scaling is not None]
    if not there:
        return None
    return Scaling(torch.stack([s.shift for s in there]), torch.stack([s.scale for s in there]))
