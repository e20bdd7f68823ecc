"""The winner as others use it: the same predictions, in a process that knows nothing of us."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits

from objectives import classifier, regressor, text_classifier
from objectives.config import TrainingConfig
from objectives.datasets.load import prepare
from objectives.errors import TrainingError
from objectives.setup import assemble
from objectives.standalone import LocalTrial
from objectives.task import predictions
from objectives.winner import predict_file
from tests.objectives.helpers import prepared

LINES = Path("objectives/studies/comparisons/lines.csv").absolute()
ALONE = """
import json, sys
import numpy as np, onnxruntime, torch
sys.modules["objectives"] = sys.modules["hpo"] = None  # an import of them would raise
raw = np.load("raw.npy")
extra = {"hpo.json": ""}
model = torch.export.load("model.pt2", extra_files=extra).module()
np.save("pt2.npy", model(torch.from_numpy(raw)).detach().numpy())
session = onnxruntime.InferenceSession("model.onnx")
np.save("onnx.npy", session.run(None, {"inputs": raw})[0])
about = session.get_modelmeta().custom_metadata_map["hpo.json"]
assert json.loads(about) == json.loads(extra["hpo.json"])
print(about)
"""


def fitted(module: Any, **settings: Any) -> tuple[LocalTrial, dict[str, Any]]:
    trial = LocalTrial({"epochs": 2, "lr": 0.01, **settings})
    module.objective(trial)
    state = torch.load(io.BytesIO(trial.read_artifact("model.pt")), weights_only=True)
    return trial, state


def test_an_exported_model_predicts_the_same_in_a_process_without_us(tmp_path: Path) -> None:
    """.pt2 and .onnx, from raw digits to probabilities, class names inside; three seeds as one model."""
    settings = {"dataset": "digits", "hidden": 16, "train_limit": 200, "seeds": 2}
    trial, state = fitted(classifier, **settings)
    for name in ("model.pt2", "model.onnx"):
        classifier.export(trial, state, tmp_path / name)
    raw = load_digits().images[:50].astype(np.uint8)[:, None]
    np.save(tmp_path / "raw.npy", raw)
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["classes"] == list("0123456789")
    setups = classifier.READY.trained(trial, state)
    expected = []
    for setup in setups:
        with torch.no_grad():
            ready = setup.data.inputs.apply(torch.from_numpy(raw))
            expected.append(setup.loss.scores(setup.model.eval()(ready)))
    for name in ("pt2.npy", "onnx.npy"):
        np.testing.assert_allclose(np.load(tmp_path / name), torch.stack(expected).mean(0), atol=1e-5)
    (tmp_path / "pictures" / "new").mkdir(parents=True)
    Image.fromarray(raw[3, 0]).save(tmp_path / "pictures" / "new" / "3.png")
    found = predict_file(tmp_path / "model.pt2", tmp_path / "pictures")
    assert found.file.tolist() == ["new/3.png"]
    assert found.p_3[0] == pytest.approx(np.load(tmp_path / "pt2.npy")[3, 3], abs=1e-5)


def test_a_table_is_predicted_from_its_file_as_it_was_measured(tmp_path: Path) -> None:
    frame = load_diabetes(as_frame=True, scaled=False).frame
    frame["sex"] = frame.sex.map({1.0: "f", 2.0: "m"})
    frame.loc[::9, ["bmi"]] = np.nan
    frame.loc[::9, ["sex"]] = None
    frame.to_csv(tmp_path / "patients.csv", index=False)
    trial, state = fitted(
        regressor,
        dataset="table",
        file=str(tmp_path / "patients.csv"),
        target_column="target",
        encoding="embedding",
    )
    regressor.export(trial, state, tmp_path / "model.pt2")
    setups = regressor.READY.trained(trial, state)
    _, scores, truth = predictions(setups, [setups[0].validation])
    own = frame[frame.target.round().isin(truth.round().int().tolist())]
    own.drop(columns="target").to_csv(tmp_path / "new.csv", index=False)
    found = predict_file(tmp_path / "model.pt2", tmp_path / "new.csv")
    for value in scores.tolist():
        assert found.predicted.sub(value).abs().min() < 1e-2
    own.drop(columns="bmi").to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(TrainingError, match="the file has no column 'bmi'"):
        predict_file(tmp_path / "model.pt2", tmp_path / "new.csv")


def test_a_text_is_predicted_from_its_file_at_the_threshold(tmp_path: Path) -> None:
    """A text has the score that it was measured with; words that training lacks are unknown."""
    trial, state = fitted(
        text_classifier, file=str(LINES), model="rnn", threshold=0.9, positive_class="sonnet", hidden=8
    )
    text_classifier.export(trial, state, tmp_path / "model.pt2")
    texts = [*pd.read_csv(LINES).text.tolist()[:40], "Zweihundert Zwiebeln"]
    pd.DataFrame({"text": texts}).to_csv(tmp_path / "new.csv", index=False)
    found = predict_file(tmp_path / "model.pt2", tmp_path / "new.csv")
    assert ((found.p_sonnet >= 0.9) == (found.predicted == "sonnet")).all()
    setups = text_classifier.READY.trained(trial, state)
    _, scores, _ = predictions(setups, [setups[0].validation])
    close = np.abs(scores[:, 1].numpy()[:, None] - found.p_sonnet.to_numpy()[None]).min(1)
    assert (close < 1e-5).sum() >= 3  # the validation texts among the forty


def test_a_refit_trains_on_training_and_validation_data_and_ends_where_the_winner_counted() -> None:
    trial, _ = fitted(classifier, dataset="wine", epochs=6, patience=2, schedule="cosine", folds=3)
    training = {**trial.user_attrs["training"], "counted_epoch": 4}
    config = classifier.refit(trial.config, training)
    again = LocalTrial(config, seed=trial.seed)
    classifier.objective(again)
    assert again.user_attrs["training"]["epochs"] == 4
    one = prepared(dataset="wine", train_limit=None)
    both = prepare(TrainingConfig.read(config), "classification", torch.device("cpu"))
    assert len(both.train) == len(one.data.train) + len(one.data.validation)
    assert len(both.test) == len(one.data.test)
    rates = [log["lr"] for log in again.logs.values()]
    setup = assemble(again, TrainingConfig.read({**config, "epochs": 6}), "classification")
    steps = setup.steps_per_epoch
    assert rates == pytest.approx([setup.learning_rate(epoch * steps - 1) for epoch in range(1, 5)])


def test_what_cannot_be_exported_is_told(tmp_path: Path) -> None:
    trial, state = fitted(classifier, dataset="wine", epochs=1)
    with pytest.raises(TrainingError, match=r"ends in .pt2 or .onnx, not 'model.h5'"):
        classifier.export(trial, state, tmp_path / "model.h5")
    (tmp_path / "no.pt2").write_text("no model")
    with pytest.raises(TrainingError, match="is no model that `hpo best --export` wrote"):
        predict_file(tmp_path / "no.pt2", LINES)
