"""A lane of a stack is the same training as alone, within 1e-5 of every loss over 20 epochs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objectives import checkpoints, classifier, lanes
from objectives import train as alone
from objectives.config import TrainingConfig
from objectives.datasets.records import Task
from objectives.errors import DivergedError
from objectives.setup import Setup, assemble
from objectives.stack import lane_key, obstacle
from objectives.standalone import LocalCheckpoint, LocalTrial
from tests.objectives.helpers import same_tensors

SMALL: dict[str, Any] = {
    "dataset": "digits",
    "epochs": 20,
    "lr": 0.01,
    "hidden": 16,
    "train_limit": 200,
    "checkpoint_every": 0,
}
OPTIMIZERS = ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw"]
TOLERANCE = 1e-5


def assembled(
    settings: Sequence[dict[str, Any]], task: Task = "classification"
) -> tuple[list[LocalTrial], list[Setup]]:
    trials = [LocalTrial({**SMALL, **each}, seed=seed) for seed, each in enumerate(settings)]
    return trials, [assemble(trial, TrainingConfig.read(trial.config), task) for trial in trials]


def compare(
    settings: Sequence[dict[str, Any]], task: Task = "classification", stacks: int = 1
) -> list[lanes.Run]:
    """Train `settings` in lanes and alone; every loss of every epoch must agree."""
    trials, setups = assembled(settings, task)
    assert len({lane_key(setup) for setup in setups}) == stacks
    runs = lanes.train(trials, setups)
    others, again = assembled(settings, task)
    for run, other, setup in zip(runs, others, again, strict=True):
        assert run.lanes > 1
        progress, best = alone.train(other, setup)
        assert run.ending is None
        assert (run.progress.stopped, run.progress.epoch) == (progress.stopped, progress.epoch)
        here, there = run.trial.logs, other.logs  # type: ignore[attr-defined]
        assert here.keys() == there.keys()
        for epoch, named in there.items():
            assert here[epoch]["lr"] == pytest.approx(named["lr"])
            for name in ("train_loss", "validation_loss"):
                assert here[epoch][name] == pytest.approx(named[name], abs=TOLERANCE), (setup.config, epoch)
        if best and run.progress.best_epoch == progress.best_epoch:
            for name, tensor in best.items():
                torch.testing.assert_close(run.best[name], tensor, atol=1e-3, rtol=1e-3)
    return runs


def test_every_optimiser_with_hyperparameters_of_its_own() -> None:
    compare(
        [{"optimizer": name, "lr": 0.02} for name in OPTIMIZERS]
        + [
            {"optimizer": "momentum", "momentum": 0.5, "weight_decay": 0.01},
            {"optimizer": "nesterov", "momentum": 0.8, "weight_decay": 0.01, "decay_all": False},
            {"optimizer": "rmsprop", "momentum": 0.5, "rho": 0.95, "lr": 0.002},
            {"optimizer": "adam", "beta1": 0.8, "beta2": 0.99, "eps": 1e-4, "weight_decay": 0.01},
            {"optimizer": "adamw", "weight_decay": 0.1, "decay_all": False, "lr": 0.003},
            {"optimizer": "adadelta", "rho": 0.8, "eps": 1e-5, "lr": 1.0},
            {"optimizer": "adagrad", "weight_decay": 0.01},
        ]
    )


def test_every_schedule() -> None:
    names = ["constant", "step", "exponential", "polynomial", "cosine", "cosine_restarts", "one_cycle"]
    own: list[dict[str, Any]] = [{"schedule": name, "gamma": 0.8} for name in names]
    compare(
        [
            *own,
            {"schedule": "multistep", "milestones": (2, 5)},
            {"schedule": "plateau", "plateau_patience": 0},
            {"schedule": "cosine", "warmup_epochs": 2.5, "min_lr": 1e-4},
        ]
    )


def test_every_regulariser() -> None:
    """Each lane draws its own masks, mixtures and order; what it shares with another changes nothing."""
    compare(
        [
            {},
            {"dropout": 0.3},
            {"dropout": 0.5, "hidden": 9},
            {"l1": 1e-3},
            {"l2": 1e-2, "l1": 1e-4},
            {"label_smoothing": 0.1},
            {"class_weights": "balanced", "label_smoothing": 0.05},
            {"class_weights": (1.0, 2.0, 0.5, 1.0, 1.0, 3.0, 1.0, 1.0, 0.1, 1.0)},
            {"mixup": 0.4},
            {"mixup": 0.2, "class_weights": "balanced", "dropout": 0.2},
            {"clip_norm": 0.5},
            {"clip_value": 0.01, "clip_norm": 0.1},
        ]
    )


@pytest.mark.parametrize(
    "shared",
    [
        {"model": "linear"},
        {"depth": 2, "activation": "gelu"},
        {"accumulate": 3, "batch_size": 32, "clip_norm": 1.0, "class_weights": "balanced"},
        {"loss": "binary_cross_entropy"},
        {"loss": "hinge", "class_weights": "balanced"},
        # The bias before a batch norm has a gradient of mere rounding, which Adam would make a step of.
        {"batch_norm": True, "batch_size": 199, "eps": 1e-4, "activation": "tanh"},
    ],
    ids=["linear", "deep", "accumulated", "binary cross-entropy", "hinge", "batch norm"],
)
def test_models_and_losses(shared: dict[str, Any]) -> None:
    compare([{**shared, "lr": 0.01}, {**shared, "lr": 0.003, "optimizer": "nesterov", "hidden": 12}])


def test_convolutions_padded_pooled_normalised_and_augmented_for_each_lane() -> None:
    """A lane's pictures are moved, turned and erased by its own random numbers."""
    own: dict[str, Any] = {"model": "cnn", "channels": 4, "batch_norm": True, "eps": 1e-4, "epochs": 8}
    compare(
        [
            own,
            {**own, "channels": 3, "crop": 1, "flip": 0.5, "dropout": 0.2},
            {**own, "optimizer": "nesterov", "rotation": 15, "mixup": 0.3},
            {**own, "hidden": 9, "erasing": 0.5},
        ]
    )
    compare([{"model": "cnn", "channels": width, "pooling": "avg", "epochs": 4} for width in (2, 4)])


def test_what_cannot_be_stacked_is_trained_in_turn_and_beside_it() -> None:
    """Large models on a CPU, autocast, and models that are no plain sequence: no lanes, the same results."""
    settings = [{"epochs": 2, "depth": 3, "hidden": 256}] * 2 + [{"epochs": 2}] * 2
    trials, setups = assembled(settings)
    runs = lanes.train(trials, setups)
    assert [run.lanes for run in runs] == [1, 1, 2, 2]
    other, again = assembled(settings)
    alone.train(other[1], again[1])
    assert trials[1].logs == other[1].logs
    assert obstacle(assembled([{"amp": "bf16"}])[1][0])


class Gated(nn.Module):
    """A model that is no plain sequence: two ways that meet, with noise, or a batch norm, if asked for."""

    def __init__(
        self, sample_shape: Sequence[int], outputs: int, width: int = 12, kind: str = "plain"
    ) -> None:
        super().__init__()
        features = math.prod(sample_shape)
        self.left, self.right = nn.Linear(features, width), nn.Linear(features, width)
        self.norm: nn.Module = nn.BatchNorm1d(width) if kind == "normalised" else nn.LayerNorm(width)
        self.out = nn.Linear(width, outputs)
        self.kind = kind

    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs.flatten(1)
        x = self.norm(torch.sigmoid(self.left(x)) * self.right(x))
        if self.kind == "branching" and x.mean() > 1e9:
            return self.out(-x)
        return self.out(F.dropout(x, 0.1, self.training and self.kind == "noisy"))


OWN = {"model": f"{__name__}:Gated", "train_limit": 400}


def test_a_model_of_your_own_is_a_lane_by_vmap() -> None:
    optimizers = [
        {"optimizer": name, "lr": 0.01, "weight_decay": 0.01} for name in ("adam", "nesterov", "sgd")
    ]
    runs = compare([OWN | own for own in optimizers] + [OWN | {"mixup": 0.2, "l2": 0.01, "patience": 2}])
    assert [run.lanes for run in runs] == [4] * 4


@pytest.mark.parametrize(
    ("kind", "why"),
    [("normalised", "buffers"), ("noisy", "random"), ("branching", "vmap cannot run the model")],
)
def test_a_model_that_vmap_would_change_is_trained_in_turn_and_the_log_says_why(
    kind: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    trials, setups = assembled([OWN | {"epochs": 1, "model_args.kind": kind}] * 2)
    state = torch.get_rng_state()
    assert all(run.lanes == 1 for run in lanes.train(trials, setups))
    assert why in caplog.text
    torch.set_rng_state(state)
    assert why in str(obstacle(setups[0]))
    assert torch.equal(state, torch.get_rng_state())


def test_narrower_lanes_are_padded_and_a_sigmoid_is_not() -> None:
    compare(
        [{"hidden": 5}, {"hidden": 16}, {"hidden": 31, "dropout": 0.2}, {"hidden": 8, "optimizer": "sgd"}]
    )
    sigmoids = [{"hidden": width, "activation": "sigmoid"} for width in (8, 8, 16, 16)]
    compare(sigmoids, stacks=2)


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_a_regression(loss: str) -> None:
    own = {"dataset": "diabetes", "loss": loss, "objective": "rmse"}
    compare([{**own}, {**own, "hidden": 8, "dropout": 0.1}, {**own, "optimizer": "sgd"}], task="regression")


def test_lanes_of_different_data_sizes_and_lengths() -> None:
    """Batches of one size are trained together, whatever lanes they are of; who has ended makes room."""
    runs = compare(
        [
            {"epochs": 4, "split_seed": 1},
            {"epochs": 9, "split_seed": 2, "patience": 2},
            {"target": 0.6, "preparation": "minmax"},
            {"epochs": 12, "keep": "last"},
        ]
    )
    assert {run.progress.stopped for run in runs} >= {"target", "epochs"}


def test_a_lane_that_diverges_or_is_pruned_ends_alone() -> None:
    trials, setups = assembled([{"lr": 1e30, "optimizer": "sgd"}, {}, {}])
    trials[1]._prune = lambda step, value: step == 3
    runs = lanes.train(trials, setups)
    assert [type(run.ending).__name__ for run in runs] == ["DivergedError", "TrialPruned", "NoneType"]
    other, (setup,) = assembled([{}, {}, {}])[0][2], assembled([{}, {}, {}])[1][2:]
    alone.train(other, setup)
    assert trials[2].logs[20]["train_loss"] == pytest.approx(other.logs[20]["train_loss"], abs=TOLERANCE)
    assert max(trials[1].reports) == 3
    assert not trials[0].reports


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_checkpoint_of_a_lane_goes_on_alone_and_in_lanes(optimizer: str) -> None:
    """It has the format of a training alone: the interrupted lane ends where the unbroken one does."""
    settings = [
        {"optimizer": optimizer, "epochs": 8, "checkpoint_every": 4, "dropout": 0.1, "hidden": width}
        for width in (16, 12)
    ]
    unbroken, _ = assembled(settings)
    whole = lanes.train(unbroken, assembled(settings)[1])

    class Stop(BaseException):
        pass

    def at_epoch_6(trial: LocalTrial) -> None:
        if len(trial.reports) == 5:
            raise Stop

    broken, setups = assembled(settings)
    for trial in broken:
        trial._on_check = lambda trial=trial: at_epoch_6(trial)  # type: ignore[misc]
    with pytest.raises(Stop):
        lanes.train(broken, setups)
    assert [trial.checkpoint.latest for trial in broken] == [4, 4]
    for trial in broken:
        trial._on_check = None
        trial.reports.clear()
    contents = [trial.checkpoint._content for trial in broken]
    resumed = lanes.train(broken, assembled(settings)[1])
    for run, other in zip(resumed, whole, strict=True):
        assert run.progress.train_losses == pytest.approx(other.progress.train_losses, abs=TOLERANCE)
    assert [min(trial.reports) for trial in broken] == [5, 5], "they go on, and do not begin anew"

    trial, setup = LocalTrial(broken[0].config, seed=0), assembled(settings)[1][0]
    trial.checkpoint.latest, trial.checkpoint._content = 4, contents[0]
    progress, _ = alone.train(trial, setup)
    assert progress.train_losses == pytest.approx(whole[0].progress.train_losses, abs=TOLERANCE)
    assert min(trial.reports) == 5


def test_a_lane_interrupted_while_it_reports_loses_no_epoch_of_any_lane() -> None:
    class Stop(BaseException):
        pass

    trials, setups = assembled([{"epochs": 3, "checkpoint_every": "auto"}] * 3)

    def refuse(value: float, step: int) -> None:
        raise Stop

    trials[1].report = refuse  # type: ignore[method-assign]
    with pytest.raises(Stop):
        lanes.train(trials, setups)
    assert [trial.checkpoint.latest for trial in trials] == [1, 1, 1]
    del trials[1].report  # type: ignore[method-assign]
    lanes.train(trials, assembled([{"epochs": 3}] * 3)[1])
    assert [sorted(trial.reports) for trial in trials] == [[1, 2, 3]] * 3


def test_the_function_and_its_records() -> None:
    own = {**SMALL, "epochs": 2}
    settings = [own, {**own, "lr": 0.1}, {**own, "batch_size": 50}]
    first, second, third = lanes.train_settings(settings, training_seeds=[3, 4, 5])
    assert (first["seed"], first["lanes"], second["lanes"], third["lanes"]) == (3, 2, 2, 1)
    assert list(first["reports"]) == [1, 2]
    assert first["values"] == [max(first["reports"].values())]
    again = lanes.train_settings(settings[:2], training_seeds=[3, 4])
    assert [each["logs"] for each in again] == [first["logs"], second["logs"]]


def test_the_command_prints_a_line_for_each_setting_and_names_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps([{**SMALL, "epochs": 1, "seed": seed} for seed in (1, 2)]))
    threads = str(torch.get_num_threads())
    monkeypatch.setattr("sys.argv", ["lanes", str(path), "--threads", threads])
    lanes.main()
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(record["seed"], record["lanes"]) for record in records] == [(1, 2), (2, 2)]
    path.write_text(json.dumps([{"lr": -1}]))
    with pytest.raises(SystemExit):
        lanes.main()
    assert "lr: input should be greater than 0 (got -1)" in capsys.readouterr().err


def test_the_same_lanes_twice_give_the_same_bits() -> None:
    own: list[dict[str, Any]] = [{"epochs": 2, "dropout": 0.2}, {"epochs": 2, "mixup": 0.3}]
    one, other = (lanes.train(*assembled(own)) for _ in range(2))
    for left, right in zip(one, other, strict=True):
        assert same_tensors(left.best, right.best)


class LocalLanes:
    """The `Lanes` protocol in memory: `waiting` trials take the places of those that have ended."""

    def __init__(self, trials: Sequence[LocalTrial], waiting: Sequence[LocalTrial] = ()) -> None:
        self.going = dict.fromkeys(trials)
        self.came, self.waiting, self.places = list(trials), list(waiting), len(trials)
        self.ends: dict[LocalTrial, Any] = {}  # values, or what was raised
        self.together: list[int] = []  # at each look for others

    def __len__(self) -> int:
        return len(self.going)

    def __iter__(self) -> Iterator[LocalTrial]:
        return iter(list(self.going))

    def __contains__(self, trial: object) -> bool:
        return trial in self.going

    def joined(self) -> list[LocalTrial]:
        while self.waiting and len(self.going) < self.places:
            self.came.append(self.waiting.pop(0))
            self.going[self.came[-1]] = None
        came, self.came = self.came, []
        self.together.append(len(self))
        return came

    @contextmanager
    def only(self, trial: LocalTrial) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.end(trial, error)

    def done(self, trial: LocalTrial, value: Any) -> None:
        self.end(trial, value())

    def end(self, trial: LocalTrial, how: Any) -> None:
        if trial in self.going:
            del self.going[trial]
            self.ends[trial] = how

    def check(self) -> None:
        for trial in self:
            with self.only(trial):
                trial.check()


def test_trials_come_and_go_at_an_epochs_end_and_each_is_what_it_would_be_alone() -> None:
    """One is pruned, one diverges, one is interrupted between batches, and others take their places: one of
    another optimiser, then one that is wider."""
    gone = iter(range(30))  # batches

    def interrupted() -> None:
        if next(gone) > 10:
            raise KeyboardInterrupt

    own: list[dict[str, Any]] = [
        {"on_check": interrupted},
        {"prune": lambda step, value: step == 2},
        *[{}] * 5,
    ]
    configs = [{**SMALL, "epochs": 4, "lr": 1e30 if i == 2 else 0.01 + i / 100} for i in range(7)]
    configs[5]["optimizer"] = "adamw"  # another place in the stack
    configs[6]["hidden"] = 24  # longer rows
    trials = [LocalTrial(config, seed=i, **own[i]) for i, config in enumerate(configs)]
    several = LocalLanes(trials[:4], trials[4:])
    classifier.objective_many(several)
    ends = [several.ends[trial] for trial in trials]
    assert [type(end) for end in ends[:3]] == [KeyboardInterrupt, optuna.TrialPruned, DivergedError]
    assert trials[1].checkpoint.latest == 2, "what is pruned may be promoted: it leaves its state"
    assert several.together[0] == 4
    for i in range(3, 7):
        alone_ = LocalTrial(configs[i], seed=i)
        assert ends[i] == pytest.approx(classifier.objective(alone_), abs=0.03)
        for epoch, named in alone_.logs.items():
            assert trials[i].logs[epoch]["train_loss"] == pytest.approx(named["train_loss"], abs=TOLERANCE)
        assert trials[i].artifacts.keys() == alone_.artifacts.keys()
    later = LocalTrial(configs[1], seed=1)
    later.checkpoint = trials[1].checkpoint
    classifier.objective_many(LocalLanes([later]))
    assert sorted(later.reports) == [3, 4], "it goes on from there"


class Holding(LocalCheckpoint):
    """Holds what a service's runner holds."""

    saved = None

    resting: Any = None

    def hold(self, resting: Any, step: int) -> None:
        self.latest, self.resting = step, resting

    def load(self) -> dict[str, Any] | None:
        return self.resting.state() if self.latest else None


class Living(Holding):
    """And goes on with what it was trained with."""

    @property
    def held(self) -> Any:
        return self.resting


def test_what_is_pruned_is_held_where_saving_it_costs_more_and_goes_on_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoints, "LEAST_COST", math.inf)
    logs = {}
    for kind in (LocalCheckpoint, Holding, Living):
        settings = [
            {**SMALL, "epochs": 4, "optimizer": name, "checkpoint_every": "auto"} for name in OPTIMIZERS
        ]
        rounds = [
            [LocalTrial(each, seed=i, prune=prune) for i, each in enumerate(settings)]
            for prune in (lambda step, _value: step == 2, None)
        ]
        for trial, later in zip(*rounds, strict=True):
            trial.checkpoint = later.checkpoint = kind()
        for trials in rounds:
            classifier.objective_many(LocalLanes(trials))
        assert all(sorted(later.reports) == [3, 4] for later in rounds[1])
        logs[kind] = [later.logs for later in rounds[1]]
        assert kind is LocalCheckpoint or not any(trial.checkpoint._content for trial in rounds[0])
    assert logs[Living] == logs[Holding] == logs[LocalCheckpoint]


def test_what_trials_must_share_is_told_by_their_settings() -> None:
    def key(**own: Any) -> Any:
        return classifier.lane_key({**SMALL, **own})

    assert key() == key(lr=0.3, optimizer="momentum", momentum=0.5, dropout=0.2) == key(hidden=20)
    assert len({key(), key(batch_size=32), key(hidden=100), key(depth=2), key(train_limit=100)}) == 5
    assert key(folds=3) is key(seeds=2) is key(hidden=4000) is None
