"""What `hpo run` promises: budget, order, seeds, carrying on, and other people's objectives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.workplace import PARABOLA, SECONDS, Workplace
from tests.support.command import hpo_environment

NOISY = """
    import random

    def objective(trial):
        total = 0.0
        for step in range(1, 6):
            total += random.gauss(trial.params["x"], 1.0) + trial.suggest_float("late", 0, 1e-3)
            trial.report(total, step)
            trial.log(step, drawn=random.random(), seed=float(trial.seed % 1000))
        return total
"""
COMPARED = ("ticket", "state", "values", "params", "reports", "metrics")


def by_ticket(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must not depend on how many runners there were, in order of tickets."""
    return sorted(
        ({key: trial[key] for key in COMPARED} for trial in trials), key=lambda trial: trial["ticket"]
    )


def test_one_and_three_runners_find_the_same_parameters_and_bit_identical_reports(place: Workplace) -> None:
    """Random numbers belong to the ticket; who claims it, and when, must not matter."""
    spec = place.study("noisy", NOISY, budget={"trials": 9})
    found = []
    for runners in (1, 3):
        storage = f"sqlite:///with-{runners}.db"
        place.run(spec, "--storage", storage, runners=runners).check()
        trials = place.look("trials", "noisy", "--storage", storage, "--format", "json").check().json
        found.append(by_ticket(trials))
    assert [trial["ticket"] for trial in found[0]] == list(range(9))
    assert len({str(trial["params"]) for trial in found[0]}) == 9
    assert found[0] == found[1]


def test_running_again_shows_the_result_and_tries_nothing_more(place: Workplace) -> None:
    spec = place.study("s")
    first = place.run(spec).check()
    again = place.run(spec).check()
    assert again.out == first.out
    assert "s is finished: all trials done" in again.err
    assert "hpo extend s --trials +N" in again.err
    trials = place.trials("s")
    assert len(trials) == 6
    assert {trial["attempts"] for trial in trials} == {1}


def test_a_command_that_has_imported_torch_leaves_the_database_in_one_file(place: Workplace) -> None:
    """It ends without taking torch apart; what is printed or done at its exit is so nevertheless."""
    objective = """
        import atexit
        import torch

        def objective(trial):
            trial.checkpoint.save({}, 1)
            return trial.params["x"]

        def evaluate(trial, checkpoint):
            atexit.register(print, "at exit", flush=False)
            return {"torch": torch.__version__}
    """
    result = place.run(
        place.study("s", objective, budget={"trials": 1}), "--storage", "sqlite:///s.db"
    ).check()
    assert result.out.splitlines()[-1] == "at exit"
    assert not list(place.path.glob("s.db-*"))


def test_an_extended_study_goes_on_with_the_same_command(place: Workplace) -> None:
    spec = place.study("s", budget={"trials": 2})
    place.run(spec).check()
    before = by_ticket(place.trials("s"))
    place.look("extend", "s", "--trials", "+2").check()
    refused = place.run(spec, "--set", "budget.trials=9").check(2)
    assert "budget.trials: 9 here, 4 in the stored study" in refused.err
    assert "hpo extend" in refused.err
    place.run(spec, "--set", "budget.trials=4").check()
    assert by_ticket(place.trials("s"))[:2] == before
    assert place.show("s")["trials"]["complete"] == 4


def test_a_different_spec_under_the_same_name_is_refused_with_what_differs(place: Workplace) -> None:
    spec = place.study("s", budget={"trials": 1}, fixed={"epochs": 5})
    place.run(spec).check()
    other = place.spec(
        "s",
        budget={"trials": 1},
        fixed={"epochs": 6},
        sampler={"name": "tpe", "seed": 1},
        space={"x": {"type": "float", "low": -10.0, "high": 20.0}},
    )
    result = place.run(other).check(2)
    for part in (
        "another study named s",
        "fixed.epochs: 6 here, 5 in the stored study",
        "sampler.name: 'tpe' here, 'random' in the stored study",
        "space.x.high: 20.0 here, 10.0 in the stored study",
        "--set study=",
    ):
        assert part in result.err
    assert len(place.trials("s")) == 1
    place.run(other, "--set", "study=s2").check()
    assert [row["name"] for row in place.look("ls", "--format", "json").check().json] == ["s", "s2"]


def test_set_overrides_any_field(place: Workplace) -> None:
    spec = place.study("s", "def objective(trial):\n    return trial.config['base'] + trial.params['x']\n")
    overrides = [
        "budget.trials=2",
        "fixed.base=100",
        "sampler.seed=7",
        "space.x={type: int, low: 3, high: 4}",
    ]
    place.run(spec, *(word for override in overrides for word in ("--set", override))).check()
    assert {trial["values"][0] for trial in place.trials("s")} <= {103.0, 104.0}
    assert len(place.trials("s")) == 2
    assert place.show("s")["sampler"]["seed"] == 7


def test_enqueued_points_come_first_and_the_budget_stays_exact(place: Workplace) -> None:
    spec = place.study("s", enqueue=[{"x": 2.0}], budget={"trials": 4})
    place.hpo("create", spec.name).check()
    told = place.hpo("enqueue", "s", "x=1.5", "--format", "json").check().json
    assert told["point"] == {"x": 1.5}
    assert "space.x" not in place.hpo("enqueue", "s", "x=99").check(2).out
    assert "did you mean" in place.hpo("enqueue", "s", "xx=1").check(2).err
    place.run(spec, runners=1).check()
    trials = place.trials("s")
    assert len(trials) == 4
    assert {trial["params"]["x"] for trial in trials[:2]} == {2.0, 1.5}
    full = place.hpo("enqueue", "s", "x=1").check(2)
    assert "hpo extend s --trials +1" in full.err


def test_several_directions_give_a_pareto_front(place: Workplace) -> None:
    spec = place.study(
        "front",
        "def objective(trial):\n    x = trial.params['x']\n    return x * x, (x - 2) ** 2\n",
        direction=None,
        directions=["minimize", "minimize"],
        sampler={"name": "grid"},
        budget=None,
        space={"x": {"type": "int", "low": -2, "high": 4, "step": 1}},
    )
    result = place.run(spec).check()
    assert "Pareto front of front" in result.out
    assert sorted(best["params"]["x"] for best in place.show("front")["best"]) == [0, 1, 2]
    params = place.look("best", "front", "--params").check().json
    assert sorted(point["x"] for point in params) == [0, 1, 2]
    assert "no single winner" in place.look("best", "front", "--checkpoint", "best.pt").check(2).err


def test_labelled_list_choices_reach_the_objective_as_lists(place: Workplace) -> None:
    spec = place.study(
        "layers",
        """
        def objective(trial):
            layers = trial.config["layers"]
            assert isinstance(layers, list), layers
            return sum(layers) + trial.suggest_categorical("layers", ["small", "large"]).count(8)
        """,
        sampler={"name": "grid"},
        budget=None,
        space={"layers": {"type": "categorical", "choices": {"small": [8, 8], "large": [64, 32]}}},
    )
    result = place.hpo("check", spec.name)
    if result.code == 2:
        pytest.fail(result.err)
    place.run(spec).check()
    values = {trial["params"]["layers"]: trial["values"] for trial in place.trials("layers")}
    assert values == {"small": [18.0], "large": [96.0]}


def test_conditional_parameters_reach_only_the_trials_they_belong_to(place: Workplace) -> None:
    spec = place.study(
        "when",
        "def objective(trial):\n    return trial.config.get('momentum', 0.0)\n",
        sampler={"name": "grid"},
        budget=None,
        space={
            "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
            "momentum": {
                "type": "float",
                "low": 0.5,
                "high": 0.9,
                "points": 2,
                "when": {"optimizer": ["sgd"]},
            },
        },
    )
    place.run(spec).check()
    params = [trial["params"] for trial in place.trials("when")]
    assert len(params) == 3, "two momenta for sgd, and adam once"
    assert {"optimizer": "adam"} in params


def test_files_of_the_user_named_as_our_packages_shadow_nothing(place: Workplace) -> None:
    """Neither where the command runs nor beside the objective, in the worker or in its runners."""
    for name in ("storage", "hpo", "objectives", "report"):
        place.write(f"{name}.py", "raise RuntimeError('the wrong module')\n")
    place.write("helper.py", "LIMIT = 5\n")
    spec = place.study(
        "s", "import helper\n" + "def objective(trial):\n    return trial.params['x'] + helper.LIMIT\n"
    )
    command = Path(sys.executable).with_name("hpo")
    found = subprocess.run(
        [command, "run", spec.name, "--runners", "1", "--no-report"],
        cwd=place.path,
        env=hpo_environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert found.returncode == 0, found.stderr
    assert "6/6 done" in found.stderr


OPTUNA_EXAMPLE = """
    import optuna
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    import torch.optim as optim

    CLASSES = 3
    EPOCHS = 4
    BATCHES = 6

    def define_model(trial):
        n_layers = trial.suggest_int("n_layers", 1, 3)
        layers = []
        in_features = 8
        for i in range(n_layers):
            out_features = trial.suggest_int("n_units_l{}".format(i), 4, 64)
            layers.append(nn.Linear(in_features, out_features))
            layers.append(nn.ReLU())
            layers.append(nn.Dropout(trial.suggest_float("dropout_l{}".format(i), 0.2, 0.5)))
            in_features = out_features
        layers.append(nn.Linear(in_features, CLASSES))
        layers.append(nn.LogSoftmax(dim=1))
        return nn.Sequential(*layers)

    def batches():
        for _ in range(BATCHES):
            target = torch.randint(CLASSES, (32,))
            yield torch.randn(32, 8) + target[:, None], target

    def objective(trial):
        model = define_model(trial)
        optimizer_name = trial.suggest_categorical("optimizer", ["Adam", "RMSprop", "SGD"])
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        optimizer = getattr(optim, optimizer_name)(model.parameters(), lr=lr)
        for epoch in range(EPOCHS):
            model.train()
            for data, target in batches():
                optimizer.zero_grad()
                loss = F.nll_loss(model(data), target)
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                correct = sum((model(data).argmax(1) == target).sum().item() for data, target in batches())
            accuracy = correct / (32 * BATCHES)
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise optuna.exceptions.TrialPruned()
        return accuracy

    if __name__ == "__main__":
        study = optuna.create_study(direction="maximize")
        study.optimize(objective, n_trials=100, timeout=600)
"""


def test_an_objective_written_for_optuna_runs_unmodified_with_two_runners(place: Workplace) -> None:
    """No `space`: it suggests for itself, reports from step 0 and raises Optuna's own TrialPruned."""
    spec = place.study(
        "pytorch_simple",
        OPTUNA_EXAMPLE,
        direction="maximize",
        sampler={"name": "tpe", "seed": 1},
        pruner={"name": "threshold", "lower": 0.45, "n_warmup_steps": 1},
        budget={"trials": 8},
        space=None,
    )
    place.run(spec, runners=2).check()
    trials = place.trials("pytorch_simple")
    assert len(trials) == 8
    assert {trial["state"] for trial in trials} == {"complete", "pruned"}
    for trial in trials:
        assert {"n_layers", "n_units_l0", "dropout_l0", "optimizer", "lr"} <= set(trial["params"])
        assert f"n_units_l{trial['params']['n_layers']}" not in trial["params"]
        steps = [report["step"] for report in trial["reports"]]
        assert steps == list(range(len(steps)))
        assert len(steps) == 4 if trial["state"] == "complete" else len(steps) < 4
    assert place.show("pytorch_simple")["best"]["values"][0] == max(
        trial["values"][0] for trial in trials if trial["state"] == "complete"
    )


def test_a_study_file_with_an_objective_elsewhere_runs_from_any_directory(place: Workplace) -> None:
    """An objective's path is relative to the study file, not to where the command is typed."""
    place.write("project/train.py", PARABOLA)
    spec = place.spec("project/far", study="far", objective="train.py", budget={"trials": 1})
    place.write("desk/note.txt", "")
    desk = Workplace(place.path / "desk")
    desk.hpo("run", os.path.relpath(spec, desk.path), "--runners", "1", "--no-report").check()
    assert desk.show("far")["trials"]["complete"] == 1


def test_the_grid_of_real_networks_runs_every_cell_once(place: Workplace) -> None:
    """The ready study of digits, its epochs cut to one."""
    import objectives

    spec = Path(objectives.__file__).parent / "studies" / "digits-grid.yaml"
    place.hpo(
        "run", spec, "--runners", "2", "--no-report", "--no-evaluate", "--set", "fixed.epochs=1"
    ).check()
    trials = place.trials("digits-grid")
    cells = [tuple(sorted(trial["params"].items())) for trial in trials]
    assert len(cells) == len(set(cells)) == 24
    assert {trial["state"] for trial in trials} == {"complete"}
    assert {trial["attempts"] for trial in trials} == {1}
