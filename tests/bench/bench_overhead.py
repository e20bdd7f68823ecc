"""Cost of one trial beside bare Optuna, on the same database in the same run: 8 parameters, 10 reports.

`make bench`, or `python -m tests.bench.bench_overhead --trials 100 --rounds 3 [--also 0.1=another/hpo]`.

Bare is what a script on Optuna does, in N processes: `ask`, eight `suggest_float`, ten `report` and
`should_prune`, `tell`. Ours is a whole study by `hpo run --runners N`, with all that a trial has there: claim
and lease, attempt's log, result. Nothing is trained, so only the service is measured. Counted is the time of
the study a trial: from the start of the first counted trial to the end of the last, over their number; what a
process needs to start is left out of both. Blocks alternate, so that a machine that slows down slows all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = [f"p{i}" for i in range(8)]
WARM_UP = 5  # trials that are not counted
PRUNERS = ("none", "median")


def bare(url: str, name: str, trials: int, pruner: str) -> tuple[float, float]:
    """When one process on Optuna alone began its first counted trial, and when it ended its last."""
    import optuna

    from tests.bench.objectives import ten_reports

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(
        study_name=name,
        storage=url,
        sampler=optuna.samplers.RandomSampler(),
        pruner=optuna.pruners.NopPruner() if pruner == "none" else optuna.pruners.MedianPruner(),
    )
    print("ready", flush=True)
    sys.stdin.readline()
    began = 0.0
    for number in range(trials + WARM_UP):
        if number == WARM_UP:
            began = time.time()
        trial = study.ask()
        study.tell(trial, ten_reports(trial))
    return began, time.time()


def time_bare(url: str, name: str, trials: int, processes: int, pruner: str) -> float:
    """Seconds of the study a trial, with so many processes of so many trials."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(study_name=name, storage=url, direction="maximize")
    each = trials // processes
    family = [
        subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--process", url, name, str(each), pruner],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    for process in family:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise SystemExit("a process of the benchmark did not start")
    for process in family:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    spans = [json.loads(process.communicate()[0]) for process in family]
    return float((max(span[1] for span in spans) - min(span[0] for span in spans)) / (each * processes))


def time_hpo(
    hpo: list[str], url: str, folder: Path, name: str, trials: int, runners: int, pruner: str
) -> float:
    """Seconds of the study a trial, by the whole command."""
    spec: Mapping[str, Any] = {
        "study": name,
        "objective": f"{ROOT / 'tests' / 'bench' / 'objectives.py'}:ten_reports",
        "direction": "maximize",
        "sampler": {"name": "random", "seed": 0},
        "pruner": pruner,
        "budget": {"trials": trials + WARM_UP * runners},
        "space": {p: {"type": "float", "low": 0.0, "high": 1.0} for p in PARAMETERS},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(spec))
    subprocess.run(
        [*hpo, "run", str(file), "--runners", str(runners), "--quiet", "--no-report"],
        env={**os.environ, "HPO_STORAGE": url, "HPO_ARTIFACTS": str(folder / "artifacts")},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    query = sa.text(
        "SELECT a.started_at, a.ended_at FROM hpo_attempt a JOIN hpo_ticket t ON a.ticket_id = t.id "
        "JOIN hpo_study s ON t.study_id = s.id WHERE s.name = :name ORDER BY a.started_at"
    )
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        spans = connection.execute(query, {"name": name}).all()[WARM_UP * runners :]
    engine.dispose()
    return float((max(span[1] for span in spans) - spans[0][0]) / len(spans))


def main() -> int:
    """Measure and print; exit status 1 when a trial of ours costs more than bare Optuna's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=100, help="trials that are counted, in a block")
    parser.add_argument("--rounds", type=int, default=3, help="blocks of each kind")
    parser.add_argument("--only", choices=["sqlite", "postgresql", "durable"])
    parser.add_argument("--also", action="append", default=[], metavar="NAME=HPO", help="another hpo command")
    parser.add_argument("--process", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        url, name, trials, pruner = options.process
        print(json.dumps(bare(url, name, int(trials), pruner)))
        return 0
    others = dict(one.split("=", 1) for one in options.also)
    systems = {"hpo": [sys.executable, "-m", "hpo"], **{name: [path] for name, path in others.items()}}
    print("ms of study time a trial, medians; in brackets its share of bare Optuna's")
    print(f"{'database':<12}{'pruner':<8}{'processes':>10}{'bare':>9}" + "".join(f"{n:>16}" for n in systems))
    slower = False
    for backend in [options.only] if options.only else ["sqlite", "postgresql", "durable"]:
        slower |= _rows(backend, systems, options.trials, options.rounds)
    return int(slower)


def _rows(backend: str, systems: Mapping[str, list[str]], trials: int, rounds: int) -> bool:
    """The lines of one database; whether one of ours is slower than bare Optuna."""
    from tests.support.pg import NoPostgresError, PgServer

    server = None
    slower = False
    with tempfile.TemporaryDirectory() as folder:
        if backend != "sqlite":
            try:
                server = PgServer(durable=backend == "durable").start()
            except NoPostgresError as error:
                print(f"{backend} is left out: {error}")
                return False
        try:
            for pruner in PRUNERS:
                for processes in (1, 4):
                    taken: dict[str, list[float]] = {name: [] for name in ("bare", *systems)}
                    for number in range(rounds):
                        for kind in taken:
                            place = Path(folder) / f"{pruner}-{processes}-{number}-{kind}"
                            place.mkdir()
                            url = server.create_database() if server else f"sqlite:///{place / 'study.db'}"
                            if kind == "bare":
                                spent = time_bare(url, "s", trials, processes, pruner)
                            else:
                                spent = time_hpo(systems[kind], url, place, "s", trials, processes, pruner)
                            taken[kind].append(spent)
                    median = {kind: statistics.median(times) for kind, times in taken.items()}
                    slower |= median["hpo"] > median["bare"]
                    shown = "".join(
                        f"{1000 * median[kind]:>9.1f} ({median[kind] / median['bare']:.2f})"
                        for kind in systems
                    )
                    print(
                        f"{backend:<12}{pruner:<8}{processes:>10}{1000 * median['bare']:>9.1f}{shown}",
                        flush=True,
                    )
        finally:
            if server:
                server.close()
    return slower


if __name__ == "__main__":
    sys.exit(main())
