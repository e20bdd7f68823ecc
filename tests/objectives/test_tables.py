"""Tables and texts of a file: read, split and prepared as scikit-learn does, from the training data alone."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import datasets
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch.utils.data import TensorDataset

from objectives import classifier, regressor, text_classifier
from objectives.config import TrainingConfig
from objectives.datasets.load import forget, load, prepare
from objectives.errors import TrainingError
from objectives.models.text import TextModel, nearest
from objectives.standalone import LocalTrial
from tests.objectives.helpers import prepared

LINES = Path("objectives/studies/comparisons/lines.csv").absolute()


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """442 patients: ten measurements, two of them names of categories, holes, a clinic and a date."""
    forget()
    raw = datasets.load_diabetes(scaled=False, as_frame=True)
    frame = raw.frame.assign(
        sex=raw.frame.sex.map({1.0: "f", 2.0: "m"}),
        clinic=np.arange(442) % 17,
        day=pd.date_range("2020-01-01", periods=442).astype(str)[::-1],
        decade=(raw.frame.age // 10).astype(int),
    )
    frame.loc[::7, "bmi"] = np.nan
    frame.loc[::11, "sex"] = None
    frame["grave"] = np.where(frame.target > 140, "yes", "no")
    frame.to_csv(tmp_path / "patients.csv", index=False)
    frame.to_parquet(tmp_path / "patients.parquet")
    return tmp_path / "patients.csv"


COLUMNS = ["age", "bmi", "bp", "sex", "decade"]
TABLE: dict[str, Any] = {
    "dataset": "table",
    "columns": COLUMNS,
    "categorical": ["decade"],
    "epochs": 2,
    "lr": 0.01,
}


def read(path: Path, **settings: Any) -> tuple[Any, pd.DataFrame]:
    config = TrainingConfig.read({**TABLE, "target_column": "target", "file": str(path), **settings})
    return prepare(config, "regression", torch.device("cpu")), pd.read_csv(path.with_suffix(".csv"))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_prepared_as_scikit_learn_does_it_from_the_training_rows_alone(
    patients: Path, suffix: str
) -> None:
    data, frame = read(patients.with_suffix(suffix), split="time", time_column="day")
    ranked = frame.sort_values("day").reset_index(drop=True)  # rows of each part, by time
    first, second = 442 - 88, 442 - 88 - 71
    numbers, names = ["age", "bmi", "bp"], ["sex", "decade"]
    fill = make_pipeline(SimpleImputer(add_indicator=False), StandardScaler())
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    theirs = make_column_transformer((fill, numbers), (one_hot, names)).fit(
        ranked[:second].astype({"sex": "object"}).where(ranked[:second].notna(), None)
    )
    for part, rows in ((data.train, ranked[:second]), (data.validation, ranked[second:first])):
        part_rows = rows.astype({"sex": "object"}).where(rows.notna(), None)
        expected = pd.DataFrame(theirs.transform(part_rows), columns=theirs.get_feature_names_out())
        expected = expected.drop(columns=[name for name in expected if str(name).endswith("_None")])
        found = torch.cat([part.inputs[:, :3], part.inputs[:, 4:]], 1)  # without the gaps of bmi
        order, own = np.lexsort(expected.round(4).to_numpy().T), np.lexsort(found.numpy().round(4).T)
        np.testing.assert_allclose(found.numpy()[own], expected.to_numpy()[order], atol=1e-4)
        assert part.inputs[:, 3].sum() == rows.bmi.isna().sum()


def test_groups_stay_together_and_time_runs_forward(patients: Path) -> None:
    by_group = {"split_by": "clinic", "columns": ["clinic", "age"]}
    by_time = {"split": "time", "time_column": "day", "columns": ["bp"]}
    for folds in (None, 4):
        for settings in (by_group, by_time):
            config = TrainingConfig.read(
                {**TABLE, "categorical": [], "target_column": "target", "file": str(patients), "folds": folds}
                | {"preparation": "none"}
                | settings
            )
            frame = pd.read_csv(patients)
            for fold in [None] if folds is None else range(folds):
                data = prepare(config, "regression", torch.device("cpu"), fold)
                parts = (data.train, data.validation, data.test)
                if "split_by" in settings:
                    clinics = [set(part.inputs[:, 0].tolist()) for part in parts]
                    assert len(set.union(*clinics)) == sum(map(len, clinics)) == 17
                else:
                    days = frame.assign(key=frame.bp.astype(np.float32)).sort_values("day")
                    first = [torch.sort(part.inputs[:, 0]).values for part in parts]
                    sizes = [len(part) for part in first]
                    start = 0
                    for part, size in zip(first, sizes, strict=True):
                        if folds is None:
                            expected = np.sort(days.key.to_numpy()[start : start + size])
                            np.testing.assert_array_equal(part.numpy(), expected)
                        start += size
                    assert folds is None or sizes[0] >= 70 * (fold + 1)  # all that is earlier


@pytest.mark.parametrize("encoding", ["one_hot", "embedding"])
@pytest.mark.parametrize(("module", "target"), [(classifier, "grave"), (regressor, "target")])
def test_classifier_and_regressor_train_on_a_table(
    patients: Path, module: Any, target: str, encoding: str
) -> None:
    trial = LocalTrial({**TABLE, "file": str(patients), "target_column": target, "encoding": encoding})
    module.objective(trial)
    losses = [log["train_loss"] for log in trial.logs.values()]
    assert losses[-1] < losses[0]
    state = torch.load(io.BytesIO(trial.read_artifact("model.pt")), weights_only=True)
    assert module.evaluate(trial, state)["samples"] == 88


def test_the_vocabulary_is_that_of_the_training_texts_and_a_batch_is_as_long_as_its_longest() -> None:
    setup = prepared(dataset="text", file=str(LINES), model="bag", train_limit=None, min_count=2)
    raw = load(setup.config, "classification")
    counts = torch.zeros(len(raw.table.words)) if raw.table else torch.zeros(0)
    inputs: Any = setup.data.inputs
    words = inputs.words
    assert setup.data.train.inputs.dtype == torch.int64
    assert int(setup.data.train.inputs.max()) == len(words) - 1 < len(counts)
    known = torch.bincount(setup.data.train.inputs.flatten(), minlength=len(words))
    assert (known[2:] >= 2).all()  # each of them at least twice in training
    assert (known[2:].diff() <= 0).all()
    for tokens_BT, _ in setup.batches.shuffled(1):
        assert tokens_BT.shape[1] == int((tokens_BT != 0).sum(1).max())


@pytest.mark.parametrize("model", ["bag", "rnn", "lstm", "gru"])
def test_what_fills_up_a_text_changes_nothing(model: str) -> None:
    config = TrainingConfig.read({"dataset": "text", "model": model, "depth": 2})
    network = TextModel(config, ("", "<unknown>", "a", "b", "c"), 2).eval()
    short = torch.tensor([[2, 3, 4]])
    torch.testing.assert_close(network(short), network(torch.tensor([[2, 3, 4, 0, 0]])))


def test_word_vectors_are_read_frozen_and_told(tmp_path: Path) -> None:
    lines = ["king 1 1 0", "queen 1 0 1", "man 0 1 0", "woman 0 0 1", "the 9 9 9", "heaven 1 2 3"]
    (tmp_path / "glove.txt").write_text("\n".join(lines))
    (tmp_path / "word2vec.txt").write_text("\n".join([f"{len(lines)} 3", *lines]))
    for name in ("glove.txt", "word2vec.txt"):
        settings = {"file": str(LINES), "word_vectors": str(tmp_path / name), "freeze_embedding": True}
        trial = LocalTrial({**settings, "epochs": 1, "nearest": ["heaven", "nowhere"]})
        text_classifier.objective(trial)
        state = torch.load(io.BytesIO(trial.read_artifact("model.pt")), weights_only=True)
        found = text_classifier.evaluate(trial, state)["words"]
        assert found[1] == {"of": "nowhere", "unknown": ["nowhere"]}
        assert [1.0, 2.0, 3.0] in state["embedding.weight"].tolist()
    words = ("", "<unknown>", "king", "queen", "man", "woman")
    vectors = torch.tensor([[0.0] * 3, [0.0] * 3, [1, 1, 0], [1, 0, 1], [0, 1, 0], [0, 0, 1]])
    assert nearest(vectors, words, ("king - man + woman",), 1)[0]["nearest"][0][0] == "queen"


def tokens() -> TensorDataset:
    """A data set of the user's own with whole numbers."""
    labels = torch.arange(60) % 2
    return TensorDataset(torch.randint(1, 9, (60, 5)) + 9 * labels[:, None], labels)


def embedded(sample_shape: Any, outputs: int) -> torch.nn.Module:
    """A model of the user's own for them."""
    return torch.nn.Sequential(torch.nn.EmbeddingBag(18, 4), torch.nn.Linear(4, outputs))


def test_whole_numbers_stay_whole_numbers() -> None:
    own = {"dataset": f"{__file__}:tokens", "model": f"{__file__}:embedded", "train_limit": None}
    setup = prepared(**own, folds=2)
    assert setup.data.train.inputs.dtype == torch.int64
    assert 17 >= int(setup.data.train.inputs.max()) >= 10
    classifier.objective(LocalTrial({**own, "epochs": 1}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"file": None}, "needs the path of a CSV or Parquet file"),
        ({"file": "gone.csv"}, "there is no file"),
        ({"target_column": None}, "name the column to predict, of age"),
        ({"target_column": "targt"}, "target_column: the file has no column 'targt'; did you mean 'target'?"),
        ({"columns": ["age", "weight"]}, "columns: the file has no column 'weight'"),
        ({"categorical": ["agee"]}, "categorical: the file has no column 'agee'; did you mean 'age'?"),
        (
            {"columns": ["day"], "categorical": []},
            "day has 442 different values in 442 rows, which are no categories",
        ),
        ({"target_column": "bmi"}, "64 of 442 rows have no bmi (the first is row 0)"),
        ({"target_column": "grave"}, "grave has the value 'yes', no number"),
        ({"split": "time"}, "split: time needs time_column"),
        ({"split": "time", "time_column": "grave"}, "grave must hold numbers, or times as 2026-01-31"),
        ({"model": "lstm"}, "has no texts, and lstm is not for them"),
        ({"dataset": "text"}, "text_column: the file has no column 'text'"),
        ({"dataset": "text", "text_column": "grave", "model": "mlp"}, "has texts, and mlp is not for them"),
        ({"dataset": "text", "text_column": "grave", "model": "bag", "word_vectors": "no.txt"}, "no file"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(patients: Path, settings: dict[str, Any], said: str) -> None:
    config = {**TABLE, "file": str(patients), "target_column": "target", **settings}
    if config["dataset"] == "text":
        config |= {"columns": [], "categorical": []}
    with pytest.raises(TrainingError, match=re.escape(said)):
        regressor.objective(LocalTrial(config))
