"""L models of one build as one batched model: their parameters are the rows of one matrix.

A row holds a lane's parameters one after another, so that an optimiser's step is a few operations on the
whole matrix. Narrower lanes are padded with zeros, which stay zero where activations map 0 to 0.

Dimensions: L lanes, B batch, P numbers of a row, D features, C channels, H x W pixels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

Drop = tuple[float, int]  # of a lane: the probability of a dropout (0.0: none), and the units it meets
Masks = Callable[[Sequence[Drop], Sequence[int]], Tensor]  # (of each lane, [L, B, D]) -> factors [L, B, D]

Norms = list[dict[str, Tensor]]  # of each normalisation: its running statistics, [L, ...] each

_ZERO_STAYS = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Identity)
_ACTIVATIONS = (*_ZERO_STAYS, nn.Sigmoid)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
NARROW = 32  # widths up to this are padded to one another; beyond, to the next power of two at most


def build_of(model: nn.Module) -> tuple[Any, ...] | None:
    """What two models must have in common to be stacked layer by layer; None where `model` cannot be.

    Lanes are sequences of linear maps, convolutions, batch norms, activations and pools, with one flattening
    and dropout only after it. Their widths may differ by what padding can make good.
    """
    if type(model) is not nn.Sequential:
        return None
    build: list[Any] = []
    flat = False
    modules = list(model)
    if len({id(module) for module in modules}) < len(modules):
        return None
    for place, module in enumerate(modules):
        kind = type(module)
        if kind is nn.Flatten:
            if flat or module.extra_repr() != nn.Flatten().extra_repr():
                return None
            flat = True
            build.append(kind)
        elif kind is nn.Dropout:
            if (
                not flat
                or module.inplace
                or type(modules[(place + 1) % len(modules)]) in (nn.Dropout, nn.Flatten)
            ):
                return None
        elif kind is nn.Linear and flat:
            build.append((kind, module.bias is not None))
        elif kind is nn.Conv2d and not flat and module.groups == 1 and module.padding_mode == "zeros":
            places = (module.kernel_size, module.stride, module.padding, module.dilation)
            build.append((kind, places, module.bias is not None))
        elif kind in _NORMS and module.affine and module.track_running_stats and module.momentum is not None:
            build.append((kind, module.eps, module.momentum))
        elif kind in _ACTIVATIONS or kind in _POOLS:
            build.append((kind, module.extra_repr()))
        else:
            return None
    if not flat or not all(parameter.requires_grad for parameter in model.parameters()):
        return None
    padded = not any(type(module) is nn.Sigmoid for module in model)
    shapes = [tuple(parameter.shape) for parameter in model.parameters()]
    return (*build, *([tuple(map(_padded, shape)) for shape in shapes] if padded else shapes))


def _padded(size: int) -> int:
    return max(NARROW, 1 << (size - 1).bit_length())


class _Lane:
    """A lane's own model, with what is asked of it again and again."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.names = [name for name, _ in model.named_parameters()]
        self.parameters = list(model.parameters())
        self.shapes = [tuple(parameter.shape) for parameter in self.parameters]
        self.norms = _norms_of(model)
        self.kept = list(model.state_dict())
        self.has_dropout = any(type(module) is nn.Dropout for module in model.modules())
        self.drops = _drops_before(model) if isinstance(model, nn.Sequential) else []


class StackedModel:
    """The weights of L models, and their joint forward pass.

    Args:
        models: of one build (`build_of`), on one device.
    """

    def __init__(self, models: Sequence[nn.Sequential]) -> None:
        self._lanes = [_Lane(model) for model in models]
        self._prepare()
        self.device = self._lanes[0].parameters[0].device
        parameters = [lane.parameters for lane in self._lanes]
        self.shapes = [_largest(column) for column in zip(*parameters, strict=True)]
        ends = torch.tensor([math.prod(shape) for shape in self.shapes]).cumsum(0).tolist()
        self.places = list(zip([0, *ends[:-1]], ends, strict=True))
        self.width = self.places[-1][1]  # P
        self.is_weight = torch.cat(  # [P]: neither a bias nor of a normalisation
            [torch.full((math.prod(shape),), len(shape) > 1) for shape in self.shapes]
        ).to(self.device)
        self.rows, self.norms = self.held([model.state_dict() for model in models])

    def __len__(self) -> int:
        """Lanes."""
        return len(self._lanes)

    def keep(self, lanes: Sequence[int], *others: StackedModel) -> None:
        """Go on with these lanes, in this order, counted through this stack and `others` of its `shapes`."""
        stacks = [self, *others]
        own = [lane for stack in stacks for lane in stack._lanes]
        self._lanes = [own[lane] for lane in lanes]
        self._prepare()
        self.rows = chosen([stack.rows for stack in stacks], lanes)
        self.norms = chosen_norms([stack.norms for stack in stacks], lanes)

    def _prepare(self) -> None:
        first: Any = self._lanes[0].model
        self._layers = [module for module in first if type(module) is not nn.Dropout]
        drops = zip(*(lane.drops for lane in self._lanes), strict=True)  # [layer][lane]
        self._drops = [own if any(share for share, _ in own) else None for own in drops]

    @property
    def drops(self) -> list[bool]:
        """Which lanes have a dropout."""
        return [lane.has_dropout for lane in self._lanes]

    def held(self, states: Sequence[dict[str, Tensor]]) -> tuple[Tensor, Norms]:
        """State dicts of the lanes' own models as rows [L, P] and what their normalisations hold."""
        rows = self.stack(
            [
                {number: state[name] for number, name in enumerate(lane.names)}
                for lane, state in zip(self._lanes, states, strict=True)
            ]
        )
        columns = zip(*([name for name, _ in lane.norms] for lane in self._lanes), strict=True)
        fill = {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0}
        return rows, [
            {
                buffer: _pad(
                    [state[f"{name}.{buffer}"] for name, state in zip(names, states, strict=True)], value
                )
                for buffer, value in fill.items()
            }
            for names in columns
        ]

    def stack(self, lanes: Sequence[dict[int, Tensor]]) -> Tensor:
        """Tensors of each lane, by the number of the parameter they belong to, as rows [L, P]."""
        alike = dict(enumerate(self.shapes))
        if all({i: tuple(tensor.shape) for i, tensor in tensors.items()} == alike for tensors in lanes):
            flat = [tensors[i].detach().flatten() for tensors in lanes for i in alike]
            return torch.cat(flat).to(self.device, torch.float32).view(len(lanes), self.width)
        rows = torch.zeros(len(lanes), self.width, device=self.device)
        for row, tensors in zip(rows, lanes, strict=True):
            for number, tensor in tensors.items():
                start, end = self.places[number]
                row[start:end].view(self.shapes[number])[_corner(tensor.shape)] = tensor.detach()
        return rows

    def lane_of(self, row: Tensor, lane: int) -> list[Tensor]:
        """The tensors of one `row` [P], each in the shape of the lane's own parameter: views of it."""
        parts = [
            row[start:end].view(shape) for (start, end), shape in zip(self.places, self.shapes, strict=True)
        ]
        own = self._lanes[lane].shapes
        if own == self.shapes:
            return parts
        return [part[_corner(shape)] for part, shape in zip(parts, own, strict=True)]

    def parameters_of(self, lane: int) -> list[nn.Parameter]:
        """Of the lane's own model."""
        return self._lanes[lane].parameters

    @torch.no_grad()
    def put_back(self, lane: int) -> None:
        """Put the lane's weights, and what its normalisations hold, into its own model."""
        its = self._lanes[lane]
        for own, tensor in zip(its.parameters, self.lane_of(self.rows[lane], lane), strict=True):
            own.copy_(tensor)
        for (_, module), values in zip(its.norms, self.norms, strict=True):
            for buffer, value in values.items():
                own = getattr(module, buffer)
                own.copy_(value[lane][_corner(own.shape)])

    def weights(self, lane: int, row: Tensor, norms: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """A state dict of the lane's own model from a row [P] and what its normalisations hold, copied."""
        its = self._lanes[lane]
        copies = [tensor.clone() for tensor in self.lane_of(row, lane)]
        found = dict(zip(its.names, copies, strict=True))
        for (name, module), values in zip(its.norms, norms, strict=True):
            for buffer, value in values.items():
                size = getattr(module, buffer).shape
                found[f"{name}.{buffer}"] = value[lane][_corner(size)].clone()
        return {name: found[name] for name in its.kept}

    def leaves(self, lanes: slice) -> list[Tensor]:
        """The parameters of `lanes`, [n, ...] each: views of the rows that gradients are taken of."""
        rows = self.rows[lanes]
        return [
            torch.unflatten(rows[:, start:end], 1, shape).detach().requires_grad_()
            for (start, end), shape in zip(self.places, self.shapes, strict=True)
        ]

    @staticmethod
    def gradient(losses: Tensor, leaves: list[Tensor]) -> Tensor:
        """The gradient [n, P] of the lanes' `losses` [n]; none depends on another's row."""
        grads = torch.autograd.grad(losses.sum(), leaves)
        return torch.cat([grad.flatten(1) for grad in grads], 1)

    def forward(self, leaves: list[Tensor], inputs: Tensor, lanes: slice, masks: Masks | None) -> Tensor:
        """Outputs [n, B, O] of `inputs` [n, B, ...]; `masks` while training, None while evaluating."""
        parameters = iter(leaves)
        norms = iter(self.norms)
        count = len(leaves[0])
        x = inputs
        images = x.ndim == 5
        if images:  # lanes are groups of channels: [B, n C, H, W]
            x = x.transpose(0, 1).flatten(1, 2)
        for layer, drops in zip(self._layers, self._drops, strict=True):
            if masks is not None and drops is not None:
                x = x * masks(drops[lanes], x.shape)
            x, images = self._apply(layer, x, parameters, norms, lanes, count, images, masks is not None)
        return x

    def _apply(
        self,
        layer: nn.Module,
        x: Tensor,
        parameters: Iterator[Tensor],
        norms: Iterator[dict[str, Tensor]],
        lanes: slice,
        count: int,
        images: bool,
        training: bool,
    ) -> tuple[Tensor, bool]:
        if isinstance(layer, nn.Linear):
            weight = next(parameters).mT
            if layer._parameters["bias"] is None:
                return torch.bmm(x, weight), images
            return torch.baddbmm(next(parameters)[:, None], x, weight), images
        if isinstance(layer, nn.Conv2d):
            weight = next(parameters).flatten(0, 1)
            bias = None if layer.bias is None else next(parameters).flatten()
            places = (layer.stride, layer.padding, layer.dilation)
            return F.conv2d(x, weight, bias, *places, groups=count), images  # type: ignore[arg-type]
        if isinstance(layer, nn.Flatten):
            if images:
                x = torch.unflatten(x, 1, (count, -1)).transpose(0, 1)
            return x.flatten(2), False
        if isinstance(layer, _NORMS):
            return self._normalised(layer, x, parameters, next(norms), lanes, images, training), images
        return layer(x), images

    def _normalised(
        self,
        layer: Any,
        x: Tensor,
        parameters: Iterator[Tensor],
        held: dict[str, Tensor],
        lanes: slice,
        images: bool,
        training: bool,
    ) -> Tensor:
        weight, bias = next(parameters).flatten(), next(parameters).flatten()
        mean, var = held["running_mean"][lanes], held["running_var"][lanes]
        flat_mean, flat_var = mean.flatten(), var.flatten()  # views: slices of whole rows
        there = x if images else x.transpose(0, 1).flatten(1)
        if training:
            held["num_batches_tracked"][lanes] += 1
        out = F.batch_norm(there, flat_mean, flat_var, weight, bias, training, layer.momentum, layer.eps)
        return out if images else torch.unflatten(out, 1, mean.shape).transpose(0, 1)


class MappedModel(StackedModel):
    """L models of any kind by `torch.func.vmap`: what `difference` finds nothing against."""

    def _prepare(self) -> None:
        self._names = self._lanes[0].names

    def forward(self, leaves: list[Tensor], inputs: Tensor, lanes: slice, masks: Masks | None) -> Tensor:
        model = self._lanes[0].model.train(masks is not None)

        def one(parameters: list[Tensor], own: Tensor) -> Tensor:
            outputs: Tensor = functional_call(model, dict(zip(self._names, parameters, strict=True)), (own,))
            return outputs

        return vmap(one)(leaves, inputs)


def stack_of(models: Sequence[nn.Module]) -> StackedModel:
    """The models as one: layer by layer where that can be (`build_of`), else by vmap."""
    kind = MappedModel if build_of(models[0]) is None else StackedModel
    return kind(models)  # type: ignore[arg-type]


def difference(model: nn.Module, sample_shape: Sequence[int]) -> str | None:
    """What stands against lanes of `model` by vmap, in words; None if training steps come out the same."""
    names = {name for name, _ in model.named_parameters()}
    if next(model.buffers(), None) is not None:
        return "the model holds buffers (a batch norm, say), which vmap does not keep for each lane"
    if names != set(model.state_dict()) or not all(p.requires_grad for p in model.parameters()):
        return "the model has parameters that are shared or not trained"
    device = next(model.parameters()).device
    inputs = torch.linspace(-2, 2, 4 * math.prod(sample_shape), device=device).view(2, 2, *sample_shape)
    training = model.training
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # vmap warns of operations that it takes one by one
            mapped = MappedModel([model, model])  # type: ignore[list-item]
            leaves = mapped.leaves(slice(0, 2))
            outputs = mapped.forward(leaves, inputs, slice(0, 2), lambda drops, shape: inputs)
            found = mapped.gradient(outputs.square().mean((1, 2)), leaves)
            alone = [model(own) for own in inputs]
            wanted = [torch.autograd.grad(out.square().mean(), list(model.parameters())) for out in alone]
    except Exception as error:  # a random operation, a branch on values, whatever vmap cannot do
        return f"torch.func.vmap cannot run the model: {str(error).splitlines()[0]}"
    finally:
        model.train(training)
    rows = torch.stack([torch.cat([grad.flatten() for grad in grads]) for grads in wanted])
    if torch.allclose(found, rows, 1e-3, 1e-5) and torch.allclose(outputs, torch.stack(alone), 1e-3, 1e-5):
        return None
    return "the model computes something else under torch.func.vmap"


def _norms_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The normalisations of a sequence that keep running statistics, by name."""
    found = model.named_children()
    return [(name, own) for name, own in found if type(own) in _NORMS and own.running_mean is not None]


def _drops_before(model: nn.Sequential) -> list[Drop]:
    """What is dropped before each layer that is no dropout itself."""
    found: list[Drop] = []
    units, layers = 0, list(model)
    for place in reversed(range(len(layers))):
        module = layers[place]
        if type(module) is nn.Dropout:
            continue
        units = module.in_features if isinstance(module, nn.Linear) else units
        before = layers[place - 1] if place else None
        found.append((before.p if type(before) is nn.Dropout else 0.0, units))
    return found[::-1]


def _largest(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True))


def _corner(shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(size) for size in shape)


def chosen(parts: Sequence[Tensor], lanes: Sequence[int]) -> Tensor:
    """The rows of these lanes, counted through all `parts`."""
    return torch.cat(list(parts))[list(lanes)]


def chosen_norms(parts: Sequence[Norms], lanes: Sequence[int]) -> Norms:
    """As `chosen`, of what normalisations hold."""
    columns = zip(*parts, strict=True)
    return [{name: chosen([own[name] for own in column], lanes) for name in column[0]} for column in columns]


def _pad(tensors: Sequence[Tensor], value: float) -> Tensor:
    result = tensors[0].new_full((len(tensors), *_largest(tensors)), value)
    for row, tensor in zip(result, tensors, strict=True):
        row[_corner(tensor.shape)] = tensor
    return result
