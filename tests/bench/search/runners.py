"""What further runners cost in epochs: `python -m tests.bench.search.runners --runners 1,4 --seeds 14`.

The digits search through `hpo run`, with `rungs` and promotion, until a complete trial has 440 of 450 images
right or 1,000 epochs are spent. A line for each search: runners, seed, epochs that were reported in all (also
those that were under way when it ended), and whether it came to the 440.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import optuna
import torch
from torch.nn.functional import cross_entropy

from hpo.errors import ExitCode
from tests.bench.search.tasks import TASKS, digits, network

ROOT = Path(__file__).resolve().parents[3]
RIGHT, EPOCHS = 440, 1000  # of 450 images; the budget


def train(trial: Any) -> float:
    """The objective: a plain loop that goes on from its checkpoint."""
    setting, parts = trial.config, digits()
    inputs, labels = parts["train"].tensors
    torch.manual_seed(trial.seed % 2**32)
    model = network(setting["arch"], setting["width"], setting["dropout"])
    optimizer = torch.optim.SGD(
        model.parameters(),
        setting["lr"],
        momentum=setting["momentum"],
        weight_decay=setting["weight_decay"],
        fused=True,
    )
    accuracy, begun = 0.0, 0
    if (saved := trial.checkpoint.load()) is not None:
        begun, accuracy = saved["epoch"], saved["accuracy"]
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random"])
    for epoch in range(begun + 1, setting["epochs"] + 1):
        model.train()
        for batch in torch.randperm(len(inputs)).split(setting["batch_size"]):
            optimizer.zero_grad()
            cross_entropy(model(inputs[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            images, truth = parts["validation"].tensors
            accuracy = (model(images).argmax(1) == truth).float().mean().item()
        trial.report(accuracy, epoch)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        trial.checkpoint.save(
            {"epoch": epoch, "accuracy": accuracy, "random": torch.get_rng_state(), **state}, epoch
        )
        if trial.should_prune():
            raise optuna.TrialPruned
    return accuracy


def search(runners: int, seed: int) -> dict[str, Any]:
    """Run one study in a database of its own."""
    task = next(task for task in TASKS if task.name == "digits")
    with tempfile.TemporaryDirectory() as folder:
        storage, file = f"sqlite:///{folder}/hpo.db", Path(folder, "study.json")
        study = {
            "study": "digits",
            "objective": f"{__spec__.name}:train",  # not __main__
            "direction": "maximize",
            "sampler": {"name": "rungs", "seed": seed},
            "pruner": {"name": "asha", "min_epochs": 1, "max_epochs": task.epochs, "mode": "promote"},
            "budget": {"epochs": EPOCHS, "target": (RIGHT - 0.5) / 450},
            "threads": 1,
            "space": task.space,
            "fixed": {"epochs": task.epochs},
        }
        file.write_text(json.dumps(study))
        command = [sys.executable, "-m", "hpo", "run", str(file), "--runners", str(runners), "--quiet"]
        done = subprocess.run(
            [*command, "--storage", storage],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )
        if done.returncode != ExitCode.FAILED:  # which says that nothing is complete: an answer, too
            done.check_returncode()
        trials = optuna.load_study(study_name="digits", storage=storage).trials
    ended = [trial.value for trial in trials if trial.state is optuna.trial.TrialState.COMPLETE]
    return {
        "runners": runners,
        "seed": seed,
        "epochs": sum(len(trial.intermediate_values) for trial in trials),
        "reached": any(value is not None and value * 450 > RIGHT - 0.5 for value in ended),
    }


def main() -> None:
    """A line for each search, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runners", default="1,4")
    parser.add_argument("--seeds", type=int, default=14)
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = []
    for seed in range(options.first, options.first + options.seeds):
        for runners in map(int, options.runners.split(",")):
            found.append(search(runners, seed))
            print(json.dumps(found[-1]), flush=True)
    for runners in map(int, options.runners.split(",")):
        some = [one for one in found if one["runners"] == runners]
        epochs = [one["epochs"] if one["reached"] else float("inf") for one in some]
        print(f"{runners} runners: {len(some)} searches, median {statistics.median(epochs):.0f} epochs")


if __name__ == "__main__":
    main()
