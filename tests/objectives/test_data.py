"""Data sets, and what is said about those that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from objectives.config import TrainingConfig
from objectives.datasets import vision
from objectives.datasets.load import Cache, forget, load, prepare
from objectives.datasets.records import DataSet, Samples, Task, check
from objectives.errors import ConfigError, DataError
from tests.objectives.helpers import QUICK, classify, regress, write_idx

CPU = torch.device("cpu")


def settings(**values: Any) -> TrainingConfig:
    return TrainingConfig.read(values)


@pytest.mark.parametrize(
    ("name", "task", "samples", "shape", "classes"),
    [
        ("digits", "classification", 1797, (1, 8, 8), 10),
        ("breast_cancer", "classification", 569, (30,), 2),
        ("wine", "classification", 178, (13,), 3),
        ("diabetes", "regression", 442, (10,), 0),
    ],
)
def test_bundled_data_are_the_real_ones(
    name: str, task: Task, samples: int, shape: tuple[int, ...], classes: int
) -> None:
    data = load(settings(dataset=name), task)
    assert (len(data.train), data.train.sample_shape, len(data.classes)) == (samples, shape, classes)


@pytest.mark.parametrize("kind", ["MNIST", "FashionMNIST", "KMNIST"])
def test_torchvision_files_are_read_and_trained_on(tmp_path: Path, kind: str) -> None:
    write_idx(tmp_path, kind, train=300, test=50)
    value, _ = classify(dataset=kind.lower(), data_root=str(tmp_path), train_limit=None, epochs=4)
    assert value > 0.8
    data = load(settings(dataset=kind.lower(), data_root=str(tmp_path)), "classification")
    assert data.train.sample_shape == (1, 28, 28)
    assert data.test is not None
    assert len(data.test) == 50


def test_cifar10_becomes_channels_first_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files themselves carry checksums, so their reader is stood in for."""

    class Fake:
        classes = [str(i) for i in range(10)]  # noqa: RUF012

        def __init__(self, root: str, train: bool, download: bool) -> None:
            count = 40 if train else 20
            self.data = np.zeros((count, 32, 32, 3), dtype=np.uint8)
            self.data[:, 0, 1, 2] = 7
            self.targets = [i % 10 for i in range(count)]

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Fake)
    data = vision.load("cifar10", tmp_path, download=False)
    assert isinstance(data.train, Samples)
    assert data.train.inputs.shape == (40, 3, 32, 32)
    assert data.train.inputs.dtype == torch.uint8
    assert int(data.train.inputs[3, 2, 0, 1]) == 7


@pytest.mark.parametrize("name", ["mnist", "fashionmnist", "kmnist", "cifar10"])
def test_missing_files_say_how_to_get_them(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"there are no files in .*Set download: true .* or data_root"):
        load(settings(dataset=name, data_root=str(tmp_path)), "classification")


def test_neither_files_nor_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", offline)
    with pytest.raises(DataError, match=r"could not be downloaded .*With no network, copy .*digits"):
        load(settings(dataset="mnist", data_root=str(tmp_path), download=True), "classification")


def test_a_damaged_file_is_named_as_unreadable(tmp_path: Path) -> None:
    write_idx(tmp_path, "MNIST", train=20, test=20)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03junk")
    with pytest.raises(DataError, match="cannot be read"):
        load(settings(dataset="mnist", data_root=str(tmp_path)), "classification")


def test_an_unknown_data_set_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"no data set 'digitz'; did you mean 'digits'\?"):
        load(settings(dataset="digitz"), "classification")


def test_a_regression_set_points_to_the_regressor() -> None:
    with pytest.raises(DataError, match=r"diabetes is a regression data set; use .*objectives\.regressor"):
        classify(dataset="diabetes")
    with pytest.raises(DataError, match=r"objectives\.classifier"):
        regress(dataset="digits")


def test_the_data_set_is_read_once_for_many_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    classify()

    def again(*_: Any) -> DataSet:
        raise AssertionError("read twice")

    monkeypatch.setattr("objectives.datasets.load._load", again)
    classify(lr=0.02)
    classify(split_seed=3)  # another split of the same data


def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    cache, made = Cache(2), []

    def make(key: str) -> str:
        return cache.get(key, lambda: made.append(key) or key)  # type: ignore[func-returns-value]

    for key in ("a", "b", "a", "c", "a", "b"):
        make(key)
    assert made == ["a", "b", "c", "b"]


# ------------------------------------------------------------------------------------- image folders


def write_pictures(root: Path, counts: dict[str, int], size: tuple[int, int] = (10, 10)) -> None:
    generator = np.random.default_rng(0)
    for shade, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(0, 60, (*size, 3)) + shade * 90
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:03d}.png")


@pytest.mark.parametrize("storage", ["memory", "loader"])
def test_a_folder_of_images_is_trained_on(tmp_path: Path, storage: str) -> None:
    write_pictures(tmp_path, {"dark": 30, "light": 30})
    value, trial = classify(
        dataset="image_folder",
        data_root=str(tmp_path),
        train_limit=None,
        storage=storage,
        loader_workers=0,
        image_size=8,
        model="cnn",
        channels=4,
    )
    assert value > 0.8
    assert b'"classes": ["dark", "light"]' in trial.read_artifact("evaluation.json")


def test_a_folder_may_bring_its_own_split(tmp_path: Path) -> None:
    for part, count in (("train", 8), ("val", 3), ("test", 4)):
        write_pictures(tmp_path / part, {"a": count, "b": count})
    data = prepare(settings(dataset="image_folder", data_root=str(tmp_path)), "classification", CPU)
    assert (len(data.train), len(data.validation), len(data.test)) == (16, 6, 8)


def test_images_of_different_sizes_ask_for_image_size(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"a": 8, "b": 8})
    write_pictures(tmp_path / "b", {"nested": 2}, size=(12, 9))
    with pytest.raises(DataError, match=r"shape \[3, 12, 9\], the first \[3, 10, 10\].*set image_size"):
        load(settings(dataset="image_folder", data_root=str(tmp_path)), "classification")


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"a": 8, "b": 8})
    (tmp_path / "b" / "003.png").write_bytes(b"this is no picture")
    with pytest.raises(DataError, match=r"003\.png is not an image that can be read"):
        load(settings(dataset="image_folder", data_root=str(tmp_path)), "classification")


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"a": 8, "b": 8}, size=(64, 64))
    path = tmp_path / "a" / "002.png"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"002\.png is not an image"):
        load(settings(dataset="image_folder", data_root=str(tmp_path)), "classification")


@pytest.mark.parametrize("make", ["nothing", "no classes", "an empty class"])
def test_an_empty_folder_says_what_it_should_hold(tmp_path: Path, make: str) -> None:
    root = tmp_path / "pictures"
    if make != "nothing":
        root.mkdir()
    if make == "an empty class":
        write_pictures(root, {"a": 4})
        (root / "b").mkdir()
    with pytest.raises(DataError, match=r"there is no directory|one subdirectory of images per class"):
        load(settings(dataset="image_folder", data_root=str(root)), "classification")


# ------------------------------------------------------------------------------- the user's own sets

OWN = """
import numpy as np
import torch
from torch.utils.data import TensorDataset

def blobs(count=120, classes=3, bad=None):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    inputs = torch.randn(count, 4, generator=generator) + labels[:, None] * 3
    if bad == "nan":
        inputs[5, 2] = float("nan")
    if bad == "label":
        labels[7] = -1
    data = TensorDataset(inputs, labels)
    if bad == "classes":
        data.classes = ["only", "two"]
    return data

def line(count=100):
    x = torch.linspace(-1, 1, count)[:, None]
    return TensorDataset(x, 300 + 50 * x[:, 0])

def parts():
    return {"train": blobs(60), "validation": blobs(30), "test": blobs(30)}

def odd_parts():
    return {"training": blobs(60)}

class Pairs:
    def __init__(self, n=40): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i): return np.full((4,), i % 2, dtype=np.float64), i % 2

class Growing(Pairs):
    def __getitem__(self, i): return [0.0] * (3 if i == 9 else 2), i % 2

class Wrong(Pairs):
    def __getitem__(self, i): return 1 / (i - 3), i % 2, "and more"

class Empty(Pairs):
    def __init__(self): super().__init__(0)

def number(): return 3
def lonely():
    data = blobs(41, 2)
    data.tensors[1][:] = 0
    data.tensors[1][0] = 1
    return data
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "own_data.py"
    path.write_text(OWN)
    return str(path)


@pytest.mark.parametrize("storage", ["auto", "loader"])
@pytest.mark.parametrize("name", ["blobs", "Pairs"])
def test_a_data_set_of_the_users_own_is_trained_on(own: str, name: str, storage: str) -> None:
    value, _ = classify(
        dataset=f"{own}:{name}", storage=storage, loader_workers=0, train_limit=None, epochs=30
    )
    assert value > 0.9


def test_a_regression_of_ones_own_is_measured_in_its_units(own: str) -> None:
    value, _ = regress(dataset=f"{own}:line", model="linear", epochs=40, lr=0.1)
    assert value < 5.0  # of targets from 250 to 350


def test_arguments_and_own_parts_are_used(own: str) -> None:
    config = settings(dataset=f"{own}:blobs", count=90, **{"dataset_args.classes": 2})
    data = load(config, "classification")
    assert (len(data.train), data.classes) == (90, ("0", "1"))
    own_parts = prepare(settings(dataset=f"{own}:parts"), "classification", CPU)
    assert (len(own_parts.train), len(own_parts.validation), len(own_parts.test)) == (60, 30, 30)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Growing", r"sample 9 has the shape \[3\], the first \[2\]"),
        ("Wrong", r"sample 0 cannot be read as \(input, target\)"),
        ("Empty", "empty data set"),
        ("number", "returned int, not a Dataset"),
        ("odd_parts", r"returned the parts \['training'\]; train, validation and test"),
        ("lonely", r"class '1' is missing from the .* data \(it has 1 samples in all\)"),
        ("absent", "has no 'absent'"),
        ("line", "a classification needs whole numbers from 0"),
    ],
)
def test_a_data_set_of_ones_own_that_cannot_be_used_says_why(own: str, name: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        prepare(settings(dataset=f"{own}:{name}"), "classification", CPU)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("nan", "a value that is NaN or infinite: sample 5, feature 2"),
        ("label", "has the label -1, but 3 classes have the labels 0 to 2"),
        ("classes", "has the label 2, but 2 classes have the labels 0 to 1"),
    ],
)
def test_bad_values_are_found_before_training(own: str, bad: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(settings(dataset=f"{own}:blobs", bad=bad), "classification")


def test_inputs_and_targets_must_agree_in_number_and_shape() -> None:
    labels = torch.zeros(4, dtype=torch.int64)
    for inputs, targets, message in (
        (torch.zeros(3, 2), labels, "3 inputs but 4 targets"),
        (torch.zeros(4, 2, 2), labels, r"inputs of shape \[2, 2\]; a sample is \[features\] or an image"),
        (torch.zeros(4, 2), labels[:, None], r"targets of shape \[4, 1\]"),
        (torch.zeros(0, 2), labels[:0], "is empty"),
    ):
        with pytest.raises(DataError, match=message):
            check(DataSet("mine", "classification", Samples(inputs, targets), classes=("a",)))
    test = Samples(torch.zeros(4, 3), labels)
    with pytest.raises(DataError, match=r"the test data has inputs of shape \[3\], the training data \[2\]"):
        check(DataSet("mine", "classification", Samples(torch.zeros(4, 2), labels), test, classes=("a",)))


@pytest.mark.parametrize("kind", ["standardize", "minmax", "none"])
def test_scaling_is_learnt_from_the_training_data_alone(kind: str) -> None:
    config = settings(dataset="wine", preparation=kind)
    data = prepare(config, "classification", CPU)
    assert isinstance(data.train, Samples)
    train = data.train.inputs
    if kind == "standardize":
        torch.testing.assert_close(train.mean(0), torch.zeros(13), atol=1e-5, rtol=0)
        torch.testing.assert_close(train.std(0, correction=0), torch.ones(13))
    elif kind == "minmax":
        torch.testing.assert_close(train.amin(0), torch.zeros(13))
        torch.testing.assert_close(train.amax(0), torch.ones(13))
    else:
        assert float(train.max()) > 1000
    assert isinstance(data.test, Samples)
    if kind != "none":  # other data do not fall exactly on the training data's numbers
        assert not torch.allclose(data.test.inputs.mean(0), train.mean(0), atol=1e-3)


def test_a_feature_without_variation_is_only_shifted() -> None:
    from objectives.datasets.prepare import learn

    inputs = torch.tensor([[5.0, 1.0], [5.0, 3.0]])
    for kind in ("standardize", "minmax"):
        assert learn(inputs, kind).apply(inputs)[:, 0].tolist() == [0.0, 0.0]  # type: ignore[arg-type]


def test_images_are_scaled_per_channel() -> None:
    from objectives.datasets.prepare import learn

    images = torch.randint(0, 255, (50, 3, 4, 4), dtype=torch.uint8)
    scaled = learn(images, "standardize", chunk=7).apply(images)
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std((0, 2, 3), correction=0), torch.ones(3))


def test_train_limit_keeps_the_shares_of_the_classes() -> None:
    data = prepare(settings(**{**QUICK, "train_limit": 100}), "classification", CPU)
    counts = torch.bincount(data.train.targets)
    assert len(data.train) == 100
    assert counts.min() >= 9
