"""The kinds of objectives that people bring from Optuna, each a file in `kinds/`; how they are compared."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml

from tests.objectives_foreign.plain import outcome

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Kind:
    """One objective file and the study around it."""

    file: str
    trials: int = 4
    directions: tuple[str, ...] = ("minimize",)
    upper: float | None = None  # reports above it are pruned

    @property
    def name(self) -> str:
        """Of the study."""
        return Path(self.file).stem

    @property
    def spec(self) -> dict[str, Any]:
        """The study file."""
        return {
            "study": self.name,
            "objective": self.file,
            "directions": list(self.directions),
            "sampler": {"name": "random", "seed": 0},
            "pruner": {"name": "none"} if self.upper is None else {"name": "threshold", "upper": self.upper},
            "budget": {"trials": self.trials},
        }


_SLOW = 2  # trials of kinds that start other interpreters
KINDS = (
    Kind("define_by_run.py", 6),
    Kind("branches.py", 6),
    Kind("odd_ranges.py"),
    Kind("training_loop.py", 6, upper=3.0),
    Kind("callback_object.py", 6, upper=3.0),
    Kind("cross_validation.py", _SLOW, ("maximize",)),
    Kind("joblib_functions.py", _SLOW),
    Kind("spawned_pool.py", _SLOW),
    Kind("forkserver_pool.py", _SLOW),
    Kind("forked_pool.py"),
    Kind("data_loader.py", _SLOW),
    Kind("numpy_values.py"),
    Kind("torch_module.py", _SLOW),
    Kind("pickled.py", _SLOW),
    Kind("artifacts.py"),
    Kind("several_directions.py", 4, ("minimize", "maximize")),
    Kind("subprocesses.py", _SLOW),
    Kind("arguments.py"),
    Kind("threads.py"),
    Kind("attributes.py"),
    Kind("reads_the_study.py"),
    Kind("study_attributes.py"),
    Kind("errors.py", 8),
    Kind("constraints.py"),
    Kind("infinite.py", 6),
    Kind("callable_object.py"),
    Kind("partial_function.py"),
    Kind("sibling_modules.py"),
    Kind("prints_and_logs.py"),
    Kind("asynchronous.py"),
    Kind("elsewhere.py"),
    Kind("apart/storage.py", _SLOW),
    Kind("named/random.py", _SLOW),
    Kind("apart/beside_storage.py", _SLOW),
)


def lay_out(folder: Path) -> None:
    """The objectives and a study file for each, in a folder that is nobody's."""
    shutil.copytree(HERE / "kinds", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for kind in KINDS:
        (folder / f"{kind.name}.yaml").write_text(yaml.safe_dump(kind.spec, sort_keys=False))


def ours(url: str, kind: Kind) -> list[dict[str, Any]]:
    """What `hpo` left in the database, as plain Optuna reads it."""
    return outcome(optuna.load_study(study_name=kind.name, storage=url))


def theirs(
    folder: Path, asked: Mapping[Kind, Iterable[Mapping[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """What plain Optuna has in memory after the same points, by study."""
    request = {
        kind.name: {
            "file": kind.file,
            "directions": list(kind.directions),
            "upper": kind.upper,
            "points": list(points),
        }
        for kind, points in asked.items()
    }
    answer, said = folder / "plain.json", folder / "plain.txt"
    with said.open("w") as log:  # no pipe: joblib's processes outlive the script, and would hold it open
        process = subprocess.Popen(
            [sys.executable, HERE / "plain.py", answer],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            cwd=folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("HPO_")},
            start_new_session=True,
        )
        try:
            process.communicate(json.dumps(request), timeout=300)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said.read_text()[-4000:]
    found: dict[str, list[dict[str, Any]]] = json.loads(answer.read_text())
    return found


def comparable(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what JSON makes of tuples; NaN is equal to NaN."""

    def plain(value: Any) -> Any:
        return "nan" if isinstance(value, float) and math.isnan(value) else value

    return [
        {**trial, "values": trial["values"] and [plain(value) for value in trial["values"]]}
        for trial in json.loads(json.dumps(trials))
    ]
