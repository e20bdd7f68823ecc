"""The same objectives in plain Optuna, in memory: `python plain.py ANSWER < KINDS`, in their folder.

Reads {kind: {"file", "directions", "upper", "points"}}, answers {kind: [trial, ...]}; both are JSON. A file
that is named like another module is copied to a free name first, since plain Python would not find it.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import optuna


def run(file: Path, directions: list[str], upper: float | None, points: list[dict[str, Any]]) -> Any:
    """Every point in turn, as plain Optuna's users do it."""
    folder = Path.cwd()
    sys.path.insert(0, str(file.parent))
    sys.argv = [str(file)]
    module = importlib.import_module(file.stem)
    pruner = optuna.pruners.NopPruner() if upper is None else optuna.pruners.ThresholdPruner(upper=upper)
    study = optuna.create_study(
        directions=directions, sampler=optuna.samplers.RandomSampler(seed=1), pruner=pruner
    )
    for point in points:
        study.enqueue_trial(point)
    study.optimize(module.objective, n_trials=len(points), catch=(Exception,))
    os.chdir(folder)
    sys.path.remove(str(file.parent))
    return outcome(study)


def outcome(study: optuna.Study) -> list[dict[str, Any]]:
    """What has come of each trial, as far as it must be the same."""
    return [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "values": trial.values,
            "params": trial.params,
            "user_attrs": trial.user_attrs,
            "reports": sorted(trial.intermediate_values.items()),
            "constraints": {
                key: value for key, value in trial.system_attrs.items() if key.startswith("constraints:")
            },
        }
        for trial in study.get_trials(deepcopy=False)
    ]


def free(file: Path) -> Path:
    """The file under a name that no other module has."""
    if file.stem not in (*sys.stdlib_module_names, "storage"):
        return file
    copy = Path.cwd() / f"free_{file.name}"
    shutil.copyfile(file, copy)
    return copy


if __name__ == "__main__":
    ANSWER = sys.argv[1]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = {
        kind: run(free(Path.cwd() / asked.pop("file")), **asked)
        for kind, asked in json.load(sys.stdin).items()
    }
    Path(ANSWER).write_text(json.dumps(found, default=lambda value: value.tolist()))
    os._exit(0)  # threads that an objective left behind
