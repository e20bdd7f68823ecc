"""Data sets that draw random numbers: noticed, read anew at every epoch, and resumed bit for bit."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Iterator
from copy import copy
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from objectives import classifier
from objectives.config import TrainingConfig
from objectives.datasets.batches import LoaderBatches, MemoryBatches
from objectives.datasets.load import forget, prepare
from objectives.datasets.records import LazySamples, Samples
from objectives.errors import DataError
from objectives.standalone import LocalTrial
from tests.objectives.helpers import Interrupted, failing_after, prepared, same_tensors, weights

CPU = torch.device("cpu")
Draw = Callable[[int], float]
OWN = np.random.default_rng(0)
COUNT = itertools.count()


class Drawn(Dataset[Any]):
    """Sixty rows of three classes; `draw(index)` moves the first feature a little."""

    def __init__(self, draw: Draw) -> None:
        self.targets = [index % 3 for index in range(60)]
        self._draw = draw

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        row = torch.full((4,), float(index % 3))
        row[0] += self._draw(index)
        return row, index % 3


def seeded_by_index(index: int) -> float:
    torch.manual_seed(index)
    return float(torch.rand(1))


DRAWS: dict[str, Draw] = {
    "torch": lambda _: float(torch.rand(1)),
    "numpy": lambda _: float(np.random.rand()),
    "python": lambda _: random.random(),
    "all three": lambda _: float(torch.rand(1)) + float(np.random.rand()) + random.random(),
    "some samples": lambda index: float(torch.rand(1)) if index == 17 else 0.0,
    "a rare coin": lambda _: float(torch.rand(1) < 1e-6),
    "torch's seed": lambda index: float(np.random.default_rng(torch.initial_seed() + index).random()),
}
STATES: dict[str, Draw] = {
    "a generator of its own": lambda _: OWN.random(),
    "a counter": lambda _: next(COUNT),
}
FIXED: dict[str, Draw] = {
    "none": lambda index: index / 60,
    "seeded by index": seeded_by_index,
    "its own generator by index": lambda index: float(np.random.default_rng(index).random()),
}


@pytest.fixture
def of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """Settings that train on what a module of the user's returns."""
    module = ModuleType("data_that_draws")
    monkeypatch.setitem(sys.modules, "data_that_draws", module)

    def settings(make: Callable[[], Any], **more: Any) -> dict[str, Any]:
        forget()
        module.make = make  # type: ignore[attr-defined]
        quick = {"epochs": 4, "batch_size": 8, "hidden": 4, "loader_workers": 0, "checkpoint_every": 1}
        return {**quick, "dataset": "data_that_draws:make", "train_limit": None, **more}

    yield settings
    forget()


def values(setup: Any, epoch: int) -> torch.Tensor:
    return torch.cat([inputs for inputs, _ in setup.batches.shuffled(epoch)])


@pytest.mark.parametrize("draw", [*DRAWS.values(), *STATES.values()], ids=[*DRAWS, *STATES])
def test_random_samples_are_drawn_anew_at_every_epoch_and_the_log_says_so(
    draw: Draw, of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings = of(lambda: Drawn(draw))
    setup = prepared(**settings)
    assert isinstance(setup.batches, LoaderBatches)
    classifier.objective(LocalTrial({**settings, "epochs": 1}))
    assert "a sample of the train data differs when it is read again" in caplog.text
    assert ("a state of its own" in caplog.text) is (draw in STATES.values())
    caplog.clear()
    classifier.objective(LocalTrial({**settings, "epochs": 1}))
    assert "differs when it is read again" in caplog.text  # in the log of each trial


@pytest.mark.parametrize("draw", FIXED.values(), ids=FIXED)
def test_samples_that_are_the_same_each_time_are_held_in_memory(
    draw: Draw, of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings = of(lambda: Drawn(draw))
    assert isinstance(prepared(**settings).batches, MemoryBatches)
    classifier.objective(LocalTrial({**settings, "epochs": 1}))
    assert caplog.text == ""


def test_only_the_part_that_is_random_is_read_anew(of: Any) -> None:
    parts = {"train": Drawn(DRAWS["torch"]), "validation": Drawn(FIXED["none"]), "test": Drawn(FIXED["none"])}
    data = prepare(TrainingConfig.read(of(lambda: parts)), "classification", CPU)
    assert isinstance(data.train, LazySamples)
    assert isinstance(data.validation, Samples)
    assert isinstance(data.test, Samples)


def test_memory_that_is_asked_for_keeps_one_drawing_and_says_so(
    of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings = of(lambda: Drawn(DRAWS["numpy"]), storage="memory")
    assert isinstance(prepared(**settings).batches, MemoryBatches)
    classifier.objective(LocalTrial({**settings, "epochs": 1}))
    assert "storage: memory keeps one drawing of each" in caplog.text


def test_two_epochs_draw_differently_and_each_as_it_did_before(of: Any) -> None:
    settings = of(lambda: Drawn(DRAWS["all three"]))
    one, other = prepared(**settings), prepared(**settings)
    assert torch.equal(values(one, 2), values(other, 2))  # not having read epoch 1
    first, second = (values(one, epoch)[one.batches.order(epoch).argsort()] for epoch in (1, 2))
    assert not bool((first == second)[:, 0].any())


@pytest.mark.parametrize("storage", ["auto", "loader"])
def test_training_on_random_samples_resumes_bit_for_bit(storage: str, of: Any) -> None:
    """With two loader processes the run is broken off; with one, and with none, it goes on."""
    settings = of(lambda: Drawn(DRAWS["all three"]), storage=storage, loader_workers=2, dropout=0.2)
    unbroken = LocalTrial(settings, seed=3)
    value = classifier.objective(unbroken)
    broken = LocalTrial(
        settings, seed=3, on_check=failing_after(len(prepared(**settings).batches) * 2 + 2, Interrupted())
    )
    with pytest.raises(Interrupted):
        classifier.objective(broken)
    for workers in (1, 0):
        resumed = LocalTrial({**settings, "loader_workers": workers}, seed=3, attempt=2)
        resumed.checkpoint = copy(broken.checkpoint)
        assert classifier.objective(resumed) == value
        assert {**broken.logs, **resumed.logs} == unbroken.logs
        assert same_tensors(weights(resumed), weights(unbroken))
        assert resumed.read_artifact("evaluation.json") == unbroken.read_artifact("evaluation.json")
    forget()  # as on another machine, which learns the scaling anew
    again = LocalTrial(settings, seed=3)
    assert classifier.objective(again) == value
    assert same_tensors(weights(again), weights(unbroken))


def test_reading_leaves_the_loops_own_random_numbers_alone(of: Any) -> None:
    setup = prepared(**of(lambda: Drawn(DRAWS["torch"])))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    values(setup, 1)
    assert torch.equal(torch.rand(3), expected)


def test_a_stream_of_samples_is_refused_with_what_to_return(of: Any) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(())

        def __len__(self) -> int:
            return 60

    with pytest.raises(DataError, match=r"returned an IterableDataset, .* return a Dataset with len\(\)"):
        classifier.objective(LocalTrial(of(Stream)))


def test_a_data_set_of_the_users_is_read_by_one_thread(of: Any) -> None:
    """It may keep an open file; only our own images are read by several threads."""
    import threading

    threads = set()

    def draw(index: int) -> float:
        threads.add(threading.get_ident())
        return 0.0

    prepared(**of(lambda: Drawn(draw)))
    assert threads == {threading.get_ident()}
