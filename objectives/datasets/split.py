"""Seeded, stratified splits: the same for every trial of a study, whatever the trial's own seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from objectives import seeds
from objectives.datasets.records import AnySamples, DataSet, LazySamples, Samples, Table
from objectives.errors import DataError


@dataclass(frozen=True)
class Split:
    """Three disjoint sets. The test set is for the winner alone."""

    train: AnySamples
    validation: AnySamples
    test: AnySamples


def split(
    data: DataSet,
    seed: int,
    validation: float,
    test: float,
    train_limit: int | None = None,
    fold: tuple[int, int] | None = None,
    shuffle: int | None = None,
) -> Split:
    """Split `data`, keeping each class's share.

    Args:
        seed: of the split.
        validation: fraction of what is not test data, in (0, 1); unused where the set has its own.
        test: fraction of all data, in (0, 1); unused where the set has its own test set.
        train_limit: keep at most this many training samples.
        fold: (i, k): part i (from 0) of k, of what is not test data, validates; `validation` is unused.
        shuffle: another seed, by which what is not test data is divided.

    Raises:
        DataError: a class would be missing from one of the sets; folds of a set that has a validation part.
    """
    labels = data.train.targets if data.task == "classification" else None
    generator = seeds.generator(seeds.derive(seed, "split"))
    rest = torch.arange(len(data.train))
    cut = _cutter(data, labels, seed, generator)
    if data.test is None:
        rest, chosen = cut(rest, test)
        test_set = data.train.take(chosen)
    else:
        test_set = data.test
    if data.validation is not None and (fold is not None or shuffle is not None):
        what = "folds" if fold is not None else "split: reshuffle"
        raise DataError(f"{what}: {data.name} has a validation part of its own; leave it out")
    if shuffle is not None:
        generator = seeds.generator(seeds.derive(shuffle, "split"))
        cut = _cutter(data, labels, shuffle, generator)
    if fold is not None:
        rest, chosen = _fold(data, rest, labels, *fold, generator)
        validation_set = data.train.take(chosen)
    elif data.validation is None:
        rest, chosen = cut(rest, validation)
        validation_set = data.train.take(chosen)
    else:
        validation_set = data.validation
    if train_limit is not None and train_limit < len(rest):
        _, rest = divide(rest, labels, train_limit / len(rest), generator)
    parts = Split(data.train.take(rest), validation_set, test_set)
    _check_classes(data, parts)
    return parts


def together(data: DataSet, parts: Split) -> AnySamples:
    """The training and the validation samples, to train the winner again.

    Raises:
        DataError: they are two data sets that are not in memory.
    """
    train, validation = parts.train, parts.validation
    if isinstance(train, Samples) and isinstance(validation, Samples):
        stored = torch.cat([train.stored, validation.stored])
        return replace(train, stored=stored, targets=torch.cat([train.targets, validation.targets]))
    if isinstance(train, LazySamples) and isinstance(validation, LazySamples) and data.validation is None:
        indices = torch.cat([part.indices for part in (train, validation) if part.indices is not None])
        return replace(train, targets=torch.cat([train.targets, validation.targets]), indices=indices)
    raise DataError(f"{data.name}: its validation part is a data set of its own that is not in memory")


def _cutter(
    data: DataSet, labels: Tensor | None, seed: int, generator: torch.Generator
) -> Callable[[Tensor, float], tuple[Tensor, Tensor]]:
    """How a fraction is taken away: the latest samples, whole groups, or a share of each class."""
    table = data.table or Table()

    def latest(indices: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
        ranked = _by_time(indices, table)
        count = min(max(round(len(ranked) * fraction), 1), len(ranked) - 1)
        return ranked[:-count].sort().values, ranked[-count:].sort().values

    def groups(indices: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
        from sklearn.model_selection import GroupShuffleSplit  # two seconds, which few data sets need

        assert table.groups is not None
        parts = GroupShuffleSplit(1, test_size=fraction, random_state=seed % 2**32)
        return _first(parts, indices, labels, table.groups[indices], data.name)

    if table.order is not None:
        return latest
    if table.groups is not None:
        return groups
    return lambda indices, fraction: divide(indices, labels, fraction, generator)


def _fold(
    data: DataSet, indices: Tensor, labels: Tensor | None, fold: int, folds: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Part `fold` of `folds`, and what is trained on: by time, all that is earlier."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, TimeSeriesSplit

    table = data.table or Table()
    if table.order is not None:
        ranked = _by_time(indices, table)
        return _first(TimeSeriesSplit(folds), ranked, labels, None, data.name, fold)
    if table.groups is not None:
        kind = GroupKFold(folds) if labels is None else StratifiedGroupKFold(folds)
        return _first(kind, indices, labels, table.groups[indices], data.name, fold)
    return cut_out(indices, labels, fold, folds, generator)


def _by_time(indices: Tensor, table: Table) -> Tensor:
    assert table.order is not None
    return indices[table.order[indices].argsort(stable=True)]


def _first(
    parts: Any, indices: Tensor, labels: Tensor | None, groups: Tensor | None, name: str, number: int = 0
) -> tuple[Tensor, Tensor]:
    """Division `number` that scikit-learn makes of `indices`, both parts in rising order."""
    try:
        truth = None if labels is None else labels[indices].numpy()
        found = list(parts.split(indices.numpy(), truth, None if groups is None else groups.numpy()))
    except ValueError as error:
        raise DataError(f"{name} cannot be split: {error}") from error
    rest, chosen = found[number]
    return indices[rest].sort().values, indices[chosen].sort().values


def divide(
    indices: Tensor, labels: Tensor | None, fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Divide `indices` [N] into two, the second holding `fraction` of each class; both in rising order.

    The second part has round(N * fraction) members (at least 1, at most N - 1); classes whose share is cut
    the most by rounding down get the places left over.
    """
    count = len(indices)
    wanted = min(max(round(count * fraction), 1), max(count - 1, 1))
    if labels is None:
        groups = [indices]
    else:
        groups = [indices[labels[indices] == label] for label in torch.unique(labels[indices])]
    sizes = _shares([len(group) for group in groups], wanted)
    chosen, rest = [], []
    for group, size in zip(groups, sizes, strict=True):
        shuffled = group[torch.randperm(len(group), generator=generator)]
        chosen.append(shuffled[:size])
        rest.append(shuffled[size:])
    return torch.cat(rest).sort().values, torch.cat(chosen).sort().values


def cut_out(
    indices: Tensor, labels: Tensor | None, fold: int, folds: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Divide `indices` [N] into all but one of `folds` parts, and that one; both in rising order.

    Each class is dealt out in turn, going on where the one before ended, so that parts differ by one sample
    at most, in all and in each class.
    """
    dealt = indices[torch.randperm(len(indices), generator=generator)]
    if labels is not None:
        dealt = dealt[labels[dealt].sort(stable=True).indices]
    chosen = torch.arange(len(dealt)) % folds == fold
    return dealt[~chosen].sort().values, dealt[chosen].sort().values


def _shares(sizes: Sequence[int], wanted: int) -> list[int]:
    """Distribute `wanted` places over groups by largest remainder; every group of two or more gets one."""
    total = sum(sizes)
    exact = [size * wanted / total for size in sizes]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_remainder[: wanted - sum(shares)]:
        shares[i] += 1
    return [max(share, 1) if size > 1 else share for share, size in zip(shares, sizes, strict=True)]


def _check_classes(data: DataSet, parts: Split) -> None:
    if data.task != "classification":
        return
    for part, samples in (("training", parts.train), ("validation", parts.validation), ("test", parts.test)):
        missing = sorted(set(range(len(data.classes))) - set(torch.unique(samples.targets).tolist()))
        if missing:
            label = missing[0]
            total = int((data.train.targets == label).sum())
            raise DataError(
                f"{data.name}: class {data.classes[label]!r} is missing from the {part} data "
                f"(it has {total} samples in all). Give the class more samples, leave it out, "
                "or change validation_fraction, test_fraction, folds, train_limit or what it is split by."
            )
