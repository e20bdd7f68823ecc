"""Cost of one trial beside bare Optuna: same database, same run, 8 float parameters, 10 reports.

`make bench`, or `python -m tests.bench.bench_overhead --trials 40 --rounds 3`.

Bare is what a script on Optuna does: `ask`, eight `suggest_float`, ten `report`, `tell`. Ours is all that
a runner does for a trial: claim and lease a ticket, choose the point, ten fenced reports, the attempt's
log, the result. Both use random search, in processes that stay alive; blocks of both alternate, so that a
machine that slows down slows both. A trial's time is taken in its process, from its start to its end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.objectives import REPORTS

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = [f"p{i}" for i in range(8)]
WARM_UP = 3  # trials of each process that are not counted


def bare(url: str, name: str, trials: int, seed: int) -> list[float]:
    """Seconds of each trial of one process on Optuna alone."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name=name, storage=url, sampler=optuna.samplers.RandomSampler(seed=seed))
    _ready()
    taken = []
    for _ in range(trials + WARM_UP):
        start = time.perf_counter()
        trial = study.ask()
        value = sum(trial.suggest_float(parameter, 0.0, 1.0) for parameter in PARAMETERS)
        for step in range(1, REPORTS + 1):
            trial.report(value + step, step)
        study.tell(trial, value)
        taken.append(time.perf_counter() - start)
    return taken[WARM_UP:]


def ours(url: str, name: str, trials: int, seed: int) -> list[float]:
    """Seconds of each trial of one runner."""
    from hpo.runner.interrupt import StopFlag
    from hpo.runner.messages import Boot
    from hpo.runner.session import StudySession
    from storage.database.migrate import open_database
    from storage.queue import studies, workers
    from storage.queue.attempts import AttemptWriter

    database = open_database(url)
    worker = f"bench-{seed}-{time.time_ns()}"[:32]

    def register(connection: Any) -> None:
        workers.register(
            connection,
            database.clock,
            worker_id=worker,
            name=worker,
            host="bench",
            host_key="bench",
            pid=1,
            pid_started=0.0,
            lease_seconds=15.0,
            study_id=studies.get(connection, name).id,
            devices=["cpu"],
            versions={},
        )

    database.write(register)
    boot = Boot(worker, 0, "cpu", "cpu", url, str(ROOT), lease=3600.0)
    session = StudySession(database, AttemptWriter(database), boot, name)
    stop = StopFlag()
    _ready()
    taken = []
    for _ in range(trials + WARM_UP):
        start = time.perf_counter()
        session.run_one(stop, lambda _message: None)
        taken.append(time.perf_counter() - start)
    return taken[WARM_UP:]


def _ready() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def block(kind: str, url: str, name: str, trials: int, processes: int, seed: int) -> list[float]:
    """One block: `processes` processes begin together; seconds of all their trials."""
    family = [
        subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--process", kind, url, name, str(trials), str(seed + i)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    for process in family:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"a process of the benchmark did not start ({kind})")
    answers = []
    for process in family:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in family:
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"a process of the benchmark failed ({kind})")
        answers += json.loads(out)
    return answers


def measure(url: str, artifacts: str, processes: int, trials: int, rounds: int) -> tuple[float, float]:
    """Median seconds of a trial on bare Optuna and on ours."""
    import optuna

    from hpo.settings import Settings
    from hpo.spec import StudySpec
    from hpo.studies.creation import create
    from storage.database.migrate import open_database

    database = open_database(url)
    name = f"ours-{processes}"
    spec = StudySpec.model_validate(
        {
            "study": name,
            "objective": "tests.bench.objectives:ten_reports",
            "direction": "maximize",
            "sampler": {"name": "random", "seed": 0},
            "budget": {"trials": (trials + WARM_UP) * processes * rounds},
            "space": {p: {"type": "float", "low": 0.0, "high": 1.0} for p in PARAMETERS},
        }
    )
    create(database, spec, Settings(storage=url, artifacts=artifacts))
    optuna.create_study(study_name=f"bare-{processes}", storage=database.rdb, direction="maximize")
    database.close()
    seconds: dict[str, list[float]] = {"bare": [], "ours": []}
    for number in range(rounds):
        for kind in ("bare", "ours") if number % 2 == 0 else ("ours", "bare"):
            seconds[kind] += block(kind, url, f"{kind}-{processes}", trials, processes, 100 * number)
    return statistics.median(seconds["bare"]), statistics.median(seconds["ours"])


def main() -> int:
    """Measure and print; exit status 1 when a trial of ours costs more than bare Optuna's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=30, help="trials of each process in a block")
    parser.add_argument("--rounds", type=int, default=4, help="blocks of each kind")
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--process", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        kind, url, name, trials, seed = options.process
        run = bare if kind == "bare" else ours
        print(json.dumps(run(url, name, int(trials), int(seed))))
        return 0
    from tests.support.pg import NoPostgresError, PgServer

    slower = False
    print(f"{'database':<12}{'processes':>10}{'bare ms':>10}{'hpo ms':>10}{'hpo/bare':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for backend in [options.only] if options.only else ["sqlite", "postgresql"]:
            server = None
            if backend == "postgresql":
                try:
                    server = PgServer().start()
                except NoPostgresError as error:
                    print(f"postgresql is left out: {error}")
                    continue
            try:
                for processes in (1, 4):
                    url = server.create_database() if server else f"sqlite:///{folder}/{processes}.db"
                    base, own = measure(
                        url, str(Path(folder) / "artifacts"), processes, options.trials, options.rounds
                    )
                    slower |= own > base
                    print(
                        f"{backend:<12}{processes:>10}{1000 * base:>10.1f}{1000 * own:>10.1f}"
                        f"{own / base:>10.2f}",
                        flush=True,
                    )
            finally:
                if server:
                    server.close()
    return int(slower)


if __name__ == "__main__":
    sys.exit(main())
