"""Whole searches in lanes against the same one by one: `python -m tests.bench.bench_tickets_in_lanes`.

`hpo run` of 192 trials of an MLP on digits, of at most 20 epochs, whose space has rates and optimisers alone:
with `lanes: auto` and with `lanes: 1`, random search and promoting ASHA, one runner, all of it on one core,
from the start of the command to its end. And the demo's space, which mixes models and sizes, with both.

Rounds of both sides alternate; the CPU seconds of the command and all it has started are compared, which on
one core are its time and which other work on the machine disturbs least. Python keeps what it compiles, as
wherever hpo is installed, and the first run is not counted.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from hpo.settings import Settings
from hpo.wiring import open_storage
from storage.database.engine import Database
from tests.bench.bench_training import Row, table

STUDY: dict[str, Any] = {
    "study": "lanes",
    "objective": "objectives.classifier",
    "direction": "maximize",
    "sampler": {"name": "random", "seed": 0},
    "pruner": {"name": "none"},
    "space": {
        "lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True},
        "optimizer": {"type": "categorical", "choices": ["sgd", "momentum", "adam", "adamw"]},
        "weight_decay": {"type": "float", "low": 1e-6, "high": 0.01, "log": True},
    },
    "fixed": {"dataset": "digits", "model": "mlp", "hidden": 32, "epochs": 20, "batch_size": 64},
}
PROMOTING = {"name": "asha", "min_epochs": 1, "max_epochs": 20, "reduction_factor": 3, "mode": "promote"}
IMAGE = 1 / 288  # of the validation set


def run(study: dict[str, Any], lanes: int | str, folder: Path, *more: str) -> tuple[float, dict[int, float]]:
    """CPU seconds of `hpo run`, and the values of its trials by ticket order."""
    file, url = folder / "study.yaml", f"sqlite:///{folder / f'{lanes}.db'}"
    file.write_text(yaml.safe_dump({**study, "lanes": lanes}))
    Path(folder / f"{lanes}.db").unlink(missing_ok=True)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    core = {min(os.sched_getaffinity(0))}
    subprocess.run(
        [sys.executable, "-m", "hpo", "run", str(file), "--runners", "1", "--quiet", "--storage", url, *more],
        check=True,
        cwd=folder,
        env=kept,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, core),
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    database: Database = open_storage(Settings(storage=url))
    study_id = 1
    values = {
        trial.number: trial.value
        for trial in database.rdb.get_all_trials(study_id)
        if trial.value is not None
    }
    database.close()
    return spent, values


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each side (default 3)")
    parser.add_argument("--trials", type=int, default=192, help="of a search (default 192)")
    parser.add_argument("--only", help="a part of a row's name")
    options = parser.parse_args()
    demo = yaml.safe_load(Path("objectives/studies/digits.yaml").read_text()) | {"study": "lanes"}
    ours = STUDY | {"budget": {"trials": options.trials}}
    search = ("--no-report", "--no-evaluate")
    cases: list[tuple[str, dict[str, Any], tuple[str, ...], float]] = [
        (f"{options.trials} random trials", ours, search, 3),
        (f"{options.trials} random trials, with report and test set", ours, (), 2.5),
        (f"{options.trials} trials, promoting ASHA", ours | {"pruner": PROMOTING}, search, 3),
        ("the demo's space", demo, search, 0.95),
    ]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run(ours | {"budget": {"trials": 2}}, "auto", Path(folder))
    for name, study, more, goal in cases:
        if options.only is not None and options.only not in name:
            continue
        sides: dict[int | str, list[float]] = {1: [], "auto": []}
        values: dict[int | str, dict[int, float]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(options.rounds):
                for lanes, spent in sides.items():
                    seconds, values[lanes] = run(study, lanes, Path(folder), *more)
                    spent.append(seconds)
        one, many = (sorted(spent)[len(spent) // 2] for spent in sides.values())
        rows.append(Row(name, one, many, "ms", goal))
        print(table(rows[-1:]).splitlines()[1], flush=True)
        apart = [abs(value - values["auto"].get(key, value)) / IMAGE for key, value in values[1].items()]
        print(
            f"  {sum(one > 2.5 for one in apart)} of {len(apart)} values differ by more than two images",
            flush=True,
        )
    print(table(rows))


if __name__ == "__main__":
    main()
