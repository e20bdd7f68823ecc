"""Metrics equal scikit-learn's on the same predictions."""

from __future__ import annotations

import io
import json
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from objectives import classifier, regressor
from objectives.errors import ConfigError
from objectives.evaluation import CURVE_POINTS, SCATTER_POINTS, document
from objectives.metrics import METRICS, How, compute, find
from tests.objectives.helpers import classify, prepared, regress

CLASSES = 4


@pytest.fixture
def predictions() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, CLASSES, (500,), generator=generator)
    logits = torch.randn(500, CLASSES, generator=generator)
    logits[torch.arange(500), labels] += 1.0
    return logits.softmax(1), labels


def test_classification_metrics(predictions: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, labels = predictions
    truth, guess, probabilities = labels.numpy(), scores.argmax(1).numpy(), scores.double().numpy()
    probabilities /= probabilities.sum(1, keepdims=True)
    one_hot = np.eye(CLASSES)[truth]
    expected = {
        "accuracy": sk.accuracy_score(truth, guess),
        "top_k": sk.top_k_accuracy_score(truth, probabilities, k=2),
        "auc": sk.roc_auc_score(truth, probabilities, multi_class="ovr", average="macro"),
        "average_precision": sk.average_precision_score(one_hot, probabilities, average="macro"),
        "log_loss": sk.log_loss(truth, probabilities),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, guess),
        "mcc": sk.matthews_corrcoef(truth, guess),
        "precision_positive": sk.precision_score(truth == 2, guess == 2),
        "recall_positive": sk.recall_score(truth == 2, guess == 2),
        "fbeta_positive": sk.fbeta_score(truth == 2, guess == 2, beta=2),
        "average_precision_positive": sk.average_precision_score(truth == 2, probabilities[:, 2]),
    }
    for average, suffix in (("macro", ""), ("micro", "_micro"), ("weighted", "_weighted")):
        expected["precision" + suffix] = sk.precision_score(truth, guess, average=average)
        expected["recall" + suffix] = sk.recall_score(truth, guess, average=average)
        expected["f1" + suffix] = sk.f1_score(truth, guess, average=average)
    assert compute(expected, scores, labels, How(top_k=2, positive=2, beta=2.0)) == pytest.approx(
        expected, rel=1e-5
    )


def test_calibration_error_follows_its_definition(predictions: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, labels = predictions
    confidence, guess = scores.max(1)
    bins = (confidence * 15).ceil().long() - 1
    error = 0.0
    for number in range(15):
        inside = bins == number
        if inside.any():
            accuracy = (guess[inside] == labels[inside]).float().mean()
            error += float(inside.float().mean() * (accuracy - confidence[inside].mean()).abs())
    assert compute(["calibration_error"], scores, labels)["calibration_error"] == pytest.approx(
        error, abs=1e-5
    )


def test_regression_metrics() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(200, generator=generator) * 50 + 150
    guess = truth + torch.randn(200, generator=generator) * 20
    y, p = truth.double().numpy(), guess.double().numpy()
    expected = {
        "mae": sk.mean_absolute_error(y, p),
        "mse": sk.mean_squared_error(y, p),
        "rmse": math.sqrt(sk.mean_squared_error(y, p)),
        "r2": sk.r2_score(y, p),
    }
    assert compute(expected, guess, truth) == pytest.approx(expected, rel=1e-5)
    same = torch.ones(3)
    for guess in (same, torch.tensor([1.0, 2.0, 1.0])):
        assert compute(["r2"], guess, same)["r2"] == sk.r2_score(same, guess), "of a target that is constant"


def test_every_metric_knows_which_way_is_better() -> None:
    assert find("accuracy", "classification").maximize
    assert not find("log_loss", "classification").maximize
    assert find("r2", "regression").maximize
    assert not find("rmse", "regression").maximize
    assert not find("parameters", "regression").maximize


@pytest.mark.parametrize("name", [n for n, m in METRICS.items() if m.task == "classification"])
def test_every_classification_metric_can_be_the_objective(name: str) -> None:
    value, trial = classify(objective=name, dataset="wine", train_limit=None, positive_class="class_1")
    best = max if METRICS[name].maximize else min
    assert value == best(trial.reports.values())


@pytest.mark.parametrize("name", ["r2", "mae", "mse", "rmse", "loss"])
def test_every_regression_metric_can_be_the_objective(name: str) -> None:
    value, trial = regress(objective=name)
    best = max if name == "r2" else min
    assert value == best(trial.reports.values())


def test_the_evaluation_document(predictions: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, labels = predictions
    names = ("a", "b", "c", "d")
    result = document("validation", "classification", scores, labels, 0.5, names, How(top_k=2))
    truth, guess = labels.numpy(), scores.argmax(1).numpy()
    assert result["confusion_matrix"] == sk.confusion_matrix(truth, guess).tolist()
    assert (result["split"], result["samples"], result["classes"]) == ("validation", 500, list(names))
    precision, recall, f1, support = sk.precision_recall_fscore_support(truth, guess)
    for i, row in enumerate(result["per_class"]):
        assert row == {
            "class": names[i],
            "precision": pytest.approx(precision[i]),
            "recall": pytest.approx(recall[i]),
            "f1": pytest.approx(f1[i]),
            "support": support[i],
        }
    for i, curve in enumerate(result["roc"]):
        assert curve["auc"] == pytest.approx(sk.roc_auc_score(truth == i, scores[:, i].numpy()), rel=1e-5)
        assert len(curve["fpr"]) == len(curve["tpr"]) <= CURVE_POINTS
        assert (curve["fpr"][0], curve["tpr"][0]) == (0.0, 0.0)
        assert (curve["fpr"][-1], curve["tpr"][-1]) == (1.0, 1.0)
        area = float(np.trapezoid(curve["tpr"], curve["fpr"]))
        assert area == pytest.approx(curve["auc"], abs=0.01)  # thinned, but still the same curve
    for i, curve in enumerate(result["pr"]):
        expected = sk.average_precision_score(truth == i, scores[:, i].numpy())
        assert curve["average_precision"] == pytest.approx(expected, rel=1e-5)
        assert len(curve["recall"]) <= CURVE_POINTS
    json.dumps(result, allow_nan=False)


def test_a_small_curve_is_kept_whole() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]])
    labels = torch.tensor([0, 1, 1, 0])
    curve = document("test", "classification", scores, labels, 0.0, ("n", "y"))["roc"][1]
    fpr, tpr, _ = sk.roc_curve(labels.numpy(), scores[:, 1].numpy(), drop_intermediate=False)
    assert curve["fpr"] == pytest.approx(fpr.tolist())
    assert curve["tpr"] == pytest.approx(tpr.tolist())


def test_a_regression_document_has_its_residuals() -> None:
    truth = torch.arange(2500.0)
    result = document("test", "regression", truth + torch.tensor([1.0, -1.0] * 1250), truth, 0.1)
    assert result["residual_std"] == pytest.approx(1.0)
    assert len(result["predicted"]) == len(result["actual"]) == SCATTER_POINTS
    assert (result["actual"][0], result["actual"][-1]) == (0.0, 2499.0)


def test_the_kept_evaluation_is_of_the_returned_value() -> None:
    value, trial = classify(epochs=6, lr=0.05)
    kept = json.loads(trial.read_artifact("evaluation.json"))
    assert kept["split"] == "validation"
    assert kept["metrics"]["accuracy"] == value
    assert sum(map(sum, kept["confusion_matrix"])) == kept["samples"] == 288


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_winner_is_evaluated_on_the_test_set_from_its_weights(task: str) -> None:
    _, trial = classify() if task == "classification" else regress()
    weights = torch.load(io.BytesIO(trial.read_artifact("model.pt")), weights_only=True)
    module: Any = classifier if task == "classification" else regressor
    result = module.evaluate(trial, weights)
    assert result["split"] == "test"
    assert result["samples"] == (359 if task == "classification" else 88)
    assert result == module.evaluate(trial, weights)
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_the_best_threshold_is_that_of_every_threshold_tried(
    beta: float, predictions: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """`threshold: best` has the largest F-beta that scikit-learn finds on the same predictions."""
    scores, labels = predictions
    truth, own = (labels == 1).numpy(), scores[:, 1].numpy()
    every = [sk.fbeta_score(truth, own >= limit, beta=beta) for limit in own]
    how = How(positive=1, beta=beta, threshold="best")
    assert compute(["fbeta_positive"], scores, labels, how)["fbeta_positive"] == pytest.approx(max(every))
    half = How(positive=1, beta=beta, threshold=0.5)
    expected = {
        "precision_positive": sk.precision_score(truth, own >= 0.5),
        "recall_positive": sk.recall_score(truth, own >= 0.5),
        "fbeta_positive": sk.fbeta_score(truth, own >= 0.5, beta=beta),
    }
    assert compute(expected, scores, labels, half) == pytest.approx(expected, rel=1e-5)


def test_the_test_set_is_measured_at_the_threshold_that_validation_chose() -> None:
    settings = {
        "dataset": "breast_cancer",
        "positive_class": "malignant",
        "objective": "fbeta_positive",
        "beta": 2.0,
        "threshold": "best",
    }
    value, trial = classify(**settings)
    kept = json.loads(trial.read_artifact("evaluation.json"))
    assert kept["metrics"]["fbeta_positive"] == pytest.approx(value)
    state = torch.load(io.BytesIO(trial.read_artifact("model.pt")), weights_only=True)
    found = classifier.evaluate(trial, state)
    assert found["positive"] == kept["positive"]
    assert found["positive"]["class"] == "malignant"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dataset": "wine", "objective": "recall_positive"}, "name it with positive_class, of class_0"),
        ({"dataset": "breast_cancer", "positive_class": "malignent"}, "did you mean 'malignant'"),
        ({"dataset": "wine", "threshold": 0.5}, "threshold is about one class"),
        ({"objective": "sklearn.metrics:confusion_matrix"}, "must return one number"),
        ({"loss": "torch.nn:Nothing"}, "'torch.nn' has no 'Nothing'"),
        ({"loss": "torch.nn:CTCLoss"}, "loss: torch.nn:CTCLoss fails on outputs"),
        ({"optimizer": "torch.optim:LBFGS"}, "wants a closure"),
        ({"optimizer": "torch.optim:RAdam", "betass": [0.5, 0.9]}, "unknown training setting 'betass'"),
        ({"schedule": "torch.optim.lr_scheduler:ReduceLROnPlateau"}, "say schedule: plateau"),
        ({"sampling": [1.0, 2.0]}, "10 weights from 0 are needed"),
    ],
)
def test_what_cannot_be_measured_or_made_is_told(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        classify(**{**settings, "epochs": 1})


def test_a_balanced_sampler_draws_each_class_as_often() -> None:
    """Of breast_cancer, 212 to 357; the order is the seed's and the epoch's alone."""
    for sampling, share in (("balanced", 0.5), ([3.0, 1.0], 0.36)):  # 3 * 212 to 357
        setup = prepared(dataset="breast_cancer", sampling=sampling, train_limit=None)
        drawn = torch.cat([setup.data.train.targets[setup.batches.order(epoch)] for epoch in range(1, 31)])
        assert drawn.float().mean().item() == pytest.approx(share, abs=0.02)
    assert torch.equal(setup.batches.order(3), setup.batches.order(3))


def test_a_metric_of_ones_own_counts_and_says_which_way() -> None:
    """Any callable of (scores, targets): here torchmetrics', equal to scikit-learn's on the evaluation."""
    value, trial = regress(objective="torchmetrics.functional:explained_variance", epochs=2)
    kept = json.loads(trial.read_artifact("evaluation.json"))
    assert value == pytest.approx(kept["metrics"]["explained_variance"])
    assert value == pytest.approx(sk.explained_variance_score(kept["actual"], kept["predicted"]), rel=1e-5)
    assert not find("torchmetrics.regression:MeanAbsoluteError", "regression").maximize


def test_own_parts_train_as_ours_of_the_same_name() -> None:
    """A loss, optimiser and schedule of torch by import path give the losses that ours give."""
    ours: dict[str, Any] = {
        "loss": "cross_entropy",
        "label_smoothing": 0.1,
        "optimizer": "rmsprop",
        "rho": 0.8,
    }
    theirs: dict[str, Any] = {"loss": "torch.nn:CrossEntropyLoss", "loss_args": {"label_smoothing": 0.1}}
    theirs |= {"optimizer": "torch.optim:RMSprop", "alpha": 0.8}
    step: dict[str, Any] = {"schedule": "torch.optim.lr_scheduler:StepLR", "step_size": 2}
    _, one = classify(**ours, schedule="step", step_epochs=2)
    _, other = classify(**theirs, **step)
    assert [log["train_loss"] for log in other.logs.values()] == pytest.approx(
        [log["train_loss"] for log in one.logs.values()], rel=1e-5
    )
