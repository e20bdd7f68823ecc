"""Files of the user's own: where their paths begin, and what they are called once imported."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch

from objectives import imports
from objectives.config import TrainingConfig
from objectives.datasets import load
from objectives.errors import ConfigError, DataError
from objectives.models.build import build

DATA = """
from pathlib import Path
import torch
from torch.utils.data import TensorDataset

class Mine(TensorDataset):
    pass

def table(path: Path, other: "Path | None" = None, kind: str = "a"):
    assert kind == "a" and (other is None or other.is_absolute())
    rows = torch.tensor([[float(x) for x in line.split(",")] for line in path.read_text().split()])
    return Mine(rows[:, :-1], rows[:, -1].long())
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's folder; the test's working directory is another."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "data_of_mine.py").write_text(DATA)
    (folder / "table.csv").write_text("1,2,0\n2,3,1\n" * 10)
    monkeypatch.chdir(elsewhere)
    return folder


def test_a_file_and_a_path_among_its_arguments_begin_at_the_study_file(place: Path) -> None:
    config = TrainingConfig.read(
        {"dataset": "data_of_mine.py:table", "dataset_args": {"path": "table.csv", "other": "x", "kind": "a"}}
    )
    with imports.at(imports.Home(place)):
        data = load.load(config.model_copy(update={"storage": "loader"}), "classification")
    assert len(data.train) == 20
    with pytest.raises(ConfigError, match=r"there is no file 'data_of_mine.py' .*elsewhere.*--code DIR"):
        load.load(config, "classification")


@pytest.mark.parametrize("dataset", ["image_folder", "mnist"])
def test_a_data_root_begins_at_the_study_file(place: Path, dataset: str) -> None:
    config = TrainingConfig.read({"dataset": dataset, "data_root": "pictures"})
    with imports.at(imports.Home(place)), pytest.raises(DataError, match=str(place / "pictures")):
        load.load(config, "classification")


def test_two_studies_of_one_process_read_their_own_files(place: Path, tmp_path: Path) -> None:
    """Data sets are kept from trial to trial, but not those of another folder's study."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "data_of_mine.py").write_text(DATA.replace("rows[:, :-1]", "rows[:, :1]"))
    (other / "table.csv").write_text("1,2,0\n2,3,1\n" * 15)
    config = TrainingConfig.read({"dataset": "data_of_mine.py:table", "dataset_args": {"path": "table.csv"}})
    shapes = []
    for folder in (place, other, place):
        with imports.at(imports.Home(folder)):
            train = load.load(config, "classification").train
            shapes.append((len(train), train.sample_shape))
    assert shapes == [(20, (2,)), (30, (1,)), (20, (2,))]


def test_a_pickle_of_what_a_file_defines_names_no_directory(place: Path) -> None:
    with imports.at(imports.Home(place)):
        make = imports.load_callable("data_of_mine.py:table", "dataset")
    content = pickle.dumps(make(place / "table.csv"))
    assert b"data_of_mine" in content
    assert str(place).encode() not in content
    assert b"_user" not in content
    assert len(pickle.loads(content)) == 20


def test_a_file_imported_by_another_is_not_imported_twice(place: Path) -> None:
    (place / "first_of_two.py").write_text("import second_of_two\n")
    (place / "second_of_two.py").write_text("def make(outputs):\n    pass\n")
    first = imports.import_file(place / "first_of_two.py")
    assert imports.import_file(place / "second_of_two.py") is first.second_of_two


@pytest.mark.parametrize(
    "name", ["storage", "torch", "code", "hpo", "objectives", "__main__", "my.net", "a-b"]
)
def test_a_file_named_as_another_module_is_imported_and_shadows_nothing(place: Path, name: str) -> None:
    before = sys.modules.get(name)
    (place / f"{name}.py").write_text(
        "from torch import nn\ndef make(outputs):\n    return nn.LazyLinear(outputs)\n"
    )
    with imports.at(imports.Home(place)):
        config = TrainingConfig.read({"model": f"{name}.py:make"})
        assert build(config, (4,), 2)(torch.zeros(1, 4)).shape == (1, 2)
    assert sys.modules.get(name) is before or name == "a-b"


def test_a_file_whose_import_fails_is_imported_again_once_mended(place: Path) -> None:
    (place / "broken_net.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"cannot import .*ZeroDivisionError"):
        imports.load_callable(f"{place}/broken_net.py:make", "model")
    (place / "broken_net.py").write_text("def make(): pass\n")
    assert callable(imports.load_callable(f"{place}/broken_net.py:make", "model"))
