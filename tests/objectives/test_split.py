"""Splits: seeded, stratified, disjoint."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from objectives import seeds
from objectives.config import TrainingConfig
from objectives.datasets.load import prepare
from objectives.datasets.records import DataSet, Samples
from objectives.datasets.split import divide, split
from objectives.errors import DataError
from tests.support.drawn import drawn


def numbered(labels: torch.Tensor, classes: int) -> DataSet:
    """A set whose inputs are the samples' own numbers, so that they can be told apart after a split."""
    samples = Samples(torch.arange(len(labels)).float()[:, None], labels)
    return DataSet("numbered", "classification", samples, classes=tuple(map(str, range(classes))))


def members(part: object) -> set[int]:
    assert isinstance(part, Samples)
    return {int(number) for number in part.inputs[:, 0]}


@drawn(60)
@given(
    counts=st.lists(st.integers(5, 40), min_size=2, max_size=6),
    seed=st.integers(0, 2**31),
    validation=st.floats(0.1, 0.5),
    test=st.floats(0.1, 0.5),
)
def test_a_split_is_disjoint_complete_and_keeps_shares(
    counts: list[int], seed: int, validation: float, test: float
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    parts = split(numbered(labels, len(counts)), seed, validation, test)
    sets = [members(part) for part in (parts.train, parts.validation, parts.test)]
    assert set.union(*sets) == set(range(len(labels)))
    assert sum(map(len, sets)) == len(labels)
    in_test = torch.bincount(parts.test.targets, minlength=len(counts))
    for count, found in zip(counts, in_test.tolist(), strict=True):
        assert abs(found - count * test) <= 1.5


def test_the_same_seed_gives_the_same_split_and_another_does_not() -> None:
    data = numbered(torch.arange(100) % 4, 4)
    first, second, other = (split(data, seed, 0.2, 0.2) for seed in (3, 3, 4))
    assert members(first.test) == members(second.test)
    assert members(first.validation) == members(second.validation)
    assert members(first.test) != members(other.test)


def test_changing_the_validation_fraction_leaves_the_test_set_alone() -> None:
    data = numbered(torch.arange(100) % 4, 4)
    assert members(split(data, 0, 0.2, 0.2).test) == members(split(data, 0, 0.4, 0.2).test)


def test_another_split_for_each_trial_leaves_the_test_set_alone() -> None:
    data = numbered(torch.arange(100) % 4, 4)
    plain, one, other = (split(data, 0, 0.2, 0.2, shuffle=shuffle) for shuffle in (None, 1, 2))
    assert members(plain.test) == members(one.test) == members(other.test)
    assert members(one.validation) != members(other.validation)
    own = TrainingConfig.read({"split": "reshuffle"})
    cpu = torch.device("cpu")
    first, again, third = (prepare(own, "classification", cpu, seed=seed) for seed in (1, 1, 2))
    assert first is again, "of one seed it is the same"
    assert torch.equal(first.test.targets, third.test.targets)
    assert not torch.equal(first.validation.targets, third.validation.targets)
    with pytest.raises(DataError, match=r"split: reshuffle: .* has a validation part of its own"):
        split(replace(data, validation=data.train), 0, 0.2, 0.2, shuffle=1)


def test_a_set_of_its_own_for_testing_is_never_touched() -> None:
    own_test = Samples(torch.full((4, 1), -1.0), torch.arange(4) % 2)
    data = numbered(torch.arange(40) % 2, 2)
    parts = split(DataSet("x", "classification", data.train, own_test, classes=("0", "1")), 0, 0.25, 0.5)
    assert parts.test is own_test
    assert (len(parts.train), len(parts.validation)) == (30, 10)


def test_a_class_missing_from_a_part_is_named() -> None:
    labels = torch.tensor([0] * 20 + [1] * 2)
    with pytest.raises(DataError, match=r"class '1' is missing from the .* \(it has 2 samples in all\)"):
        split(numbered(labels, 2), 0, 0.2, 0.2)


def test_regression_is_split_at_random() -> None:
    samples = Samples(torch.arange(50).float()[:, None], torch.rand(50))
    parts = split(DataSet("r", "regression", samples), 0, 0.2, 0.2)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (32, 8, 10)


def test_the_two_parts_of_a_division_are_in_rising_order() -> None:
    rest, chosen = divide(torch.arange(30), None, 0.3, seeds.generator(1))
    assert rest.tolist() == sorted(rest.tolist())
    assert chosen.tolist() == sorted(chosen.tolist())
    assert len(chosen) == 9


def test_derived_seeds_depend_on_every_word_and_are_the_same_everywhere() -> None:
    assert seeds.derive(0, "order", 1) == 4489457307835839548
    assert len({seeds.derive(s, w, e) for s in (0, 1) for w in ("order", "epoch") for e in (1, 2)}) == 8
    assert all(0 <= seeds.derive(i, "x") < 2**63 for i in range(100))
