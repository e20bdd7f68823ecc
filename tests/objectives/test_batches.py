"""Where data lie, and the batches that are made of them."""

from __future__ import annotations

import pytest
import torch

from objectives.datasets import placement
from objectives.datasets.batches import Drawing, LoaderBatches, MemoryBatches
from objectives.datasets.load import forget
from objectives.datasets.records import LazySamples, Samples
from tests.objectives.helpers import prepared, regress


def test_data_that_do_not_fit_come_through_a_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    monkeypatch.setattr(placement, "free_memory", lambda device: 1000)
    setup = prepared()
    assert isinstance(setup.batches, LoaderBatches)
    assert isinstance(setup.data.train, LazySamples)
    forget()


def test_loader_and_memory_give_the_same_batches() -> None:
    memory, loader = prepared(), prepared(storage="loader", loader_workers=2)
    assert isinstance(memory.batches, MemoryBatches)
    for epoch in (1, 2):
        pairs = zip(memory.batches.shuffled(epoch), loader.batches.shuffled(epoch), strict=True)
        for (inputs, targets), (read, labels) in pairs:
            torch.testing.assert_close(inputs, read)
            assert torch.equal(targets, labels)


def test_a_regression_through_a_loader_equals_one_in_memory() -> None:
    memory, _ = regress()
    loader, _ = regress(storage="loader", loader_workers=0)
    assert loader == pytest.approx(memory, rel=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", ["standardize", "minmax", "none"])
def test_images_stay_bytes_and_their_batches_are_scaled_as_ever(
    kind: str, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of the memory, and the same bits as scaling everything beforehand, as is done with few."""
    few = prepared(preparation=kind, model="cnn", channels_last=channels_last)
    forget()
    monkeypatch.setattr(placement, "SCALED_ONCE", 0)
    setup = prepared(preparation=kind, model="cnn", channels_last=channels_last)
    train = setup.data.train
    assert isinstance(train, Samples)
    assert train.stored.dtype == torch.uint8
    before = train.stored.clone()
    scaled = (train.stored.float() - setup.data.inputs.shift) / setup.data.inputs.scale
    assert torch.equal(train.inputs, scaled)
    order = setup.batches.order(1)
    assert torch.equal(torch.cat([inputs for inputs, _ in setup.batches.shuffled(1)]), scaled[order])
    assert torch.equal(torch.cat([inputs for inputs, _ in setup.batches.in_order()]), scaled)
    assert isinstance(few.data.train, Samples)
    assert torch.equal(few.data.train.stored, scaled)
    assert torch.equal(torch.cat([inputs for inputs, _ in few.batches.shuffled(1)]), scaled[order])
    assert torch.equal(train.stored, before)
    forget()


def test_tables_are_scaled_once() -> None:
    train = prepared(dataset="wine", train_limit=None).data.train
    assert isinstance(train, Samples)
    assert train.scaling is None
    assert train.stored.dtype == torch.float32


@pytest.mark.parametrize(("share", "kind"), [(1.01, MemoryBatches), (0.99, LoaderBatches)])
def test_images_need_a_byte_a_pixel_of_the_memory(
    share: float, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget()
    data = prepared().data
    pixels = 64 * (len(data.train) + len(data.validation) + len(data.test))
    forget()
    monkeypatch.setattr(placement, "free_memory", lambda device: int(pixels * share))
    assert isinstance(prepared().batches, kind)
    forget()


def test_every_epoch_has_every_sample_once_in_its_own_order() -> None:
    samples = Samples(torch.arange(10.0)[:, None], torch.arange(10))
    batches = MemoryBatches(samples, Drawing(4, seed=1))
    epochs = [torch.cat([targets for _, targets in batches.shuffled(epoch)]).tolist() for epoch in (1, 2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    again = MemoryBatches(samples, Drawing(4, seed=1))
    assert torch.cat([targets for _, targets in again.shuffled(2)]).tolist() == epochs[1]
    assert torch.cat([targets for _, targets in batches.in_order()]).tolist() == list(range(10))


def test_channels_last_changes_the_layout_not_the_values() -> None:
    plain, last = prepared(model="cnn"), prepared(model="cnn", channels_last=True)
    (one, _), (other, _) = next(plain.batches.shuffled(1)), next(last.batches.shuffled(1))
    assert torch.equal(one, other)
    color = Samples(torch.rand(6, 3, 4, 4), torch.zeros(6, dtype=torch.int64))
    inputs, _ = next(MemoryBatches(color, Drawing(4, channels_last=True)).shuffled(1))
    assert inputs.is_contiguous(memory_format=torch.channels_last)
