"""A study on a real database with real workers, and hands that break things."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import sqlalchemy as sa
import yaml
from optuna.trial import FrozenTrial

from hpo.settings import Settings
from hpo.spec import load_spec
from hpo.studies import creation
from storage.database.engine import Database
from storage.database.migrate import open_database
from storage.database.records import StudyRow
from storage.database.tables import attempt, ticket
from storage.history.audit import Audit, audit
from tests.support.command import HpoProcess
from tests.support.waiting import LONGEST, wait_until

ROOT = Path(__file__).resolve().parents[2]
INJECT = Path(__file__).parent / "inject"
LEASE = 2.0  # seconds, instead of 15
GRACE = 6.0  # seconds, instead of 20
STARVED = "30"  # seconds; the lease where none may expire, however long a worker gets no CPU

OBJECTIVE = '''
import os
import time


def note(trial, word):
    """One line of the journal: what really ran, whatever the database says."""
    file = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{word} {trial.params.get('x')} {trial.number} {trial.attempt}\\n".encode())
    os.close(file)


def quick(trial):
    note(trial, "began")
    for step in range(1, int(trial.config.get("steps", 3)) + 1):
        time.sleep(float(trial.config.get("step_seconds", 0.01)))
        trial.report(step * 0.01, step)
        trial.check()
    note(trial, "ended")
    return float(trial.params["x"])


def silent(trial):
    """Reports nothing, so that its result is its first write; trial 0's, when it is told to go on."""
    note(trial, "began")
    while trial.number == 0 and not os.path.exists(f"go-{trial.attempt}"):
        time.sleep(0.02)
    note(trial, "ended")
    return float(trial.params["x"])


def saving(trial):
    """Goes on from its checkpoint; waits while it is told to."""
    state = trial.checkpoint.load() or {"step": 0}
    note(trial, f"from-{state['step']}")
    for step in range(state["step"] + 1, int(trial.config["steps"]) + 1):
        time.sleep(float(trial.config["step_seconds"]))
        while os.path.exists("hold"):
            time.sleep(0.02)
        trial.report(step * 0.01, step)
        trial.checkpoint.save({"step": step}, step)
        note(trial, f"saved-{step}")
        trial.should_prune()
    return float(trial.params["x"])


def climbing(trial):
    """Stops where it is told to, and goes on from there."""
    import optuna

    state = trial.checkpoint.load() or {"step": 0}
    worth = trial.params["x"] * 101 % 1009
    for step in range(state["step"] + 1, 10):
        time.sleep(float(trial.config["step_seconds"]))
        note(trial, "trained")
        trial.report(worth + step / 100, step)
        trial.checkpoint.save({"step": step}, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return float(worth)


def lane_key(config):
    return 0


class Resting:
    nbytes = 8

    def __init__(self, step):
        self.step = step

    def state(self):
        return {"step": self.step}


def objective_many(lanes):
    """As `saving`, several at once; or as `climbing`, where every second trial that is parked is held."""
    import optuna

    at = {}
    while lanes:
        for trial in lanes.joined():
            at[trial] = (trial.checkpoint.load() or {"step": 0})["step"]
        lanes.check()
        for trial in lanes:
            note(trial, f"beside-{len(lanes) - 1}")
        time.sleep(float(next(iter(lanes)).config["step_seconds"]))
        for trial in lanes:
            with lanes.only(trial):
                at[trial] += 1
                worth = trial.params["x"] * 101 % 1009 if "climbs" in trial.config else 0
                trial.report(worth + at[trial] * 0.01, at[trial])
        for trial in lanes:
            with lanes.only(trial):
                if at[trial] == trial.config["steps"]:
                    lanes.done(trial, float(trial.params["x"]))
                    continue
                stops = trial.should_prune()
                if stops and trial.number % 2:
                    trial.checkpoint.hold(Resting(at[trial]), at[trial])
                else:
                    trial.checkpoint.save({"step": at[trial]}, at[trial])
                if stops:
                    raise optuna.TrialPruned


def with_child(trial):
    """Waits for a process of its own, in a session of its own; says its pid."""
    import subprocess

    child = subprocess.Popen(["sleep", str(trial.config["step_seconds"])], start_new_session=True)
    note(trial, "began")
    with open(os.environ["JOURNAL"], "a") as journal:
        journal.write(f"child {child.pid}\\n")
    while child.poll() is None:
        time.sleep(0.05)
        trial.check()
        trial.should_prune()
    raise RuntimeError(f"the child died with status {child.returncode}")


def tick(word):
    """One line of the journal: which process did what, and when."""
    with open(os.environ["JOURNAL"], "a") as journal:
        journal.write(f"{word} {os.getpid()} {time.monotonic()}\\n")


def chatty(trial):
    """Says a lot, some of it long, and hears long answers."""
    note(trial, "began")
    for step in range(1, int(trial.config["steps"]) + 1):
        time.sleep(float(trial.config["step_seconds"]))
        tick("says")
        trial.set_user_attr("long", "x" * 900_000)
        tick("said")
        trial.report(step * 0.01, step)
        trial.should_prune()
        len(trial.study.trials)
    note(trial, "ended")
    return float(trial.params["x"])


def forking(trial):
    """Its children take themselves for it."""
    import multiprocessing

    fork = multiprocessing.get_context("fork")
    note(trial, "began")
    for step in range(1, int(trial.config["steps"]) + 1):
        trial.report(step * 0.01, step)
        child = fork.Process(target=trial.report, args=(99.0, 100 + step))
        child.start()
        child.join()
        if os.fork() == 0:
            trial.report(99.0, 200 + step)
            os._exit(0)
        os.wait()
        trial.should_prune()
    note(trial, "ended")
    return float(trial.params["x"])


def late(trial):
    """Its last report and its result come when it is told to go on."""
    note(trial, "began")
    for step in (1, 2, 3):
        trial.report(step * 0.01, step)
    trial.checkpoint.save({"step": 3}, 3)  # what was reported is committed now
    note(trial, "waits")
    while not os.path.exists("go-on"):
        time.sleep(0.02)
    trial.report(0.04, 4)
    trial.log(loss=0.5)
    note(trial, "ended")
    return float(trial.params["x"])


def bad(trial):
    """Each way in which an objective can go wrong."""
    import ctypes
    import resource

    kind = trial.params["kind"]
    note(trial, kind)
    if kind == "raise":
        raise ValueError("boom")
    if kind == "exit":
        os._exit(3)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        return float(len(bytearray(4 << 30)))
    if kind == "hang":
        time.sleep(600)
    return {"nan": float("nan"), "inf": float("inf")}.get(kind, 1.0)
'''


MIXED = {"runner": 6, "worker": 2, "frozen": 2}  # how often what is broken, relative to each other


class Lab:
    """One study in one directory.

    Args:
        folder: everything is kept here.
        url: the database, as workers see it.
        direct_url: the database, as the one who checks sees it (past a proxy).
        seed: of every random choice; printed.
    """

    def __init__(self, folder: Path, url: str, seed: int, direct_url: str | None = None) -> None:
        self.folder = folder
        self.url = url
        self.direct_url = direct_url or url
        self.seed = seed
        self.random = random.Random(seed)
        self.journal = folder / "journal.txt"
        self.kill_log = folder / "kills.txt"
        self.faults: dict[str, Any] = {}
        self.env: dict[str, str] = {"HPO_LEASE": str(LEASE), "HPO_GRACE": str(GRACE)}
        self.workers: list[HpoProcess] = []
        self.kills: Counter[str] = Counter()
        self.database: Database | None = None
        self.row: StudyRow | None = None
        self._started = 0
        (folder / "objective.py").write_text(OBJECTIVE)

    # -- the study

    def spec(
        self, *, name: str = "study", trials: int | None = None, cells: int | None = None, **more: Any
    ) -> Path:
        """Write a study file: a grid of `cells`, or random search with so many trials."""
        content: dict[str, Any] = {
            "study": name,
            "objective": "objective.py:quick",
            "direction": "maximize",
            "sampler": {"name": "grid" if cells else "random", "seed": self.seed},
            "retry": {"lost": 1000, "failed": 0},
            "space": {"x": {"type": "int", "low": 0, "high": (cells or 1000) - 1}},
        }
        if trials is not None:
            content["budget"] = {"trials": trials}
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**content, **more}))
        return file

    def create(self, **spec: Any) -> StudyRow:
        """Store the study and remember it."""
        settings = Settings(storage=self.direct_url, artifacts=str(self.folder / "artifacts"))
        self.row = creation.create(self.open(), load_spec(self.spec(**spec)), settings)
        return self.row

    def open(self) -> Database:
        """This process's own connection."""
        if self.database is None:
            self.database = open_database(self.direct_url)
        return self.database

    # -- workers

    def environment(self, **more: Any) -> dict[str, str]:
        """What a worker of this lab finds in its environment."""
        plan = {"seed": self.seed, "log": str(self.kill_log), **self.faults}
        return {
            **self.env,
            "JOURNAL": str(self.journal),
            "HPO_STORAGE": self.url,
            "HPO_FAULTS": json.dumps(plan),
            "PYTHONPATH": f"{INJECT}{os.pathsep}{ROOT}",
            **{name: str(value) for name, value in more.items()},
        }

    def start(self, *args: str, **env: Any) -> HpoProcess:
        """Start an `hpo` command here."""
        anew = bool(self.faults.get("off"))  # what is switched off must be so before it is imported
        process = HpoProcess(*args, cwd=self.folder, env=self.environment(**env), anew=anew)
        self.workers.append(process)
        return process

    def worker(self, *args: str, study: str = "study", **env: Any) -> HpoProcess:
        """Start a worker."""
        self._started += 1
        return self.start("worker", study, "--gpus", "none", "--quiet", "--runners", "1", *args, **env)

    def runners(self) -> list[psutil.Process]:
        """Every living runner of every worker."""
        return [child for worker in self.workers for child in worker.children("hpo.runner.process")]

    def close(self) -> None:
        """End whatever is left."""
        for process in self.workers:
            with contextlib.suppress(psutil.Error):
                for child in process.children():
                    with contextlib.suppress(psutil.Error):
                        child.resume()
            process.__exit__()
        if self.database is not None:
            self.database.close()

    @contextmanager
    def keeping(self, count: int, **env: Any) -> Iterator[None]:
        """Meanwhile there are `count` workers: one that dies is followed by another until the study ends."""
        done = threading.Event()

        def keep() -> None:
            while not done.is_set():
                living = sum(process.running for process in self.workers)
                for _ in range(count - living):
                    if not self.ended():
                        self.worker(**env)
                done.wait(0.2)

        thread = threading.Thread(target=keep, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(120)

    # -- breaking things

    def break_at_random(
        self, times: int, every: float, chances: Mapping[str, float] = MappingProxyType(MIXED)
    ) -> None:
        """While the study runs, `times` times: SIGKILL a runner or a worker, or freeze one past its lease.

        Between two something is run: else a busy machine would only start and kill.
        """
        while self.kills.total() < times and not self.ended():
            time.sleep(every)
            before = self._journaled()
            what = self.random.choices(list(chances), list(chances.values()))[0]
            living = [process for process in self.workers if process.running]
            runners = self.runners() if what == "runner" else []
            with contextlib.suppress(psutil.Error, IndexError):
                if what == "runner":
                    self.random.choice(runners).kill()
                elif what == "worker":
                    self.random.choice(living).signal(signal.SIGKILL)
                else:
                    self.freeze(self.random.choice(living), 1.6 * LEASE)
                self.kills[what] += 1
            wait_until(
                lambda n=before: self._journaled() > n or self.ended(), every=0.1, what="something runs"
            )

    def _journaled(self) -> int:
        return self.journal.stat().st_size if self.journal.exists() else 0

    def freeze(self, worker: HpoProcess, seconds: float) -> None:
        """SIGSTOP a worker and its runners; SIGCONT after so many seconds."""
        family = [psutil.Process(worker.pid), *worker.children()]
        for process in family:
            process.suspend()

        def thaw() -> None:
            for process in reversed(family):
                with contextlib.suppress(psutil.Error):
                    process.resume()

        threading.Timer(seconds, thaw).start()

    def suspend(self, family: Sequence[psutil.Process]) -> None:
        """SIGSTOP them, but not while one of them holds SQLite's lock: then nobody else could go on."""
        for _ in range(100):
            for process in family:
                process.suspend()
            if self.is_writable():
                return
            for process in reversed(family):
                process.resume()
        raise AssertionError("whenever they are stopped one of them holds the lock")

    def failpoint_kills(self) -> Counter[str]:
        """How often a failpoint killed, by place."""
        if not self.kill_log.exists():
            return Counter()
        return Counter(line.strip() for line in self.kill_log.read_text().splitlines())

    # -- looking

    def is_writable(self) -> bool:
        """Whether SQLite's lock is free; PostgreSQL has none for all."""
        if self.open().engine.dialect.name != "sqlite":
            return True
        path = sa.make_url(self.direct_url).database
        with closing(sqlite3.connect(str(path), timeout=0.2)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
        return True

    def ended(self) -> bool:
        """Whether the study has ended."""
        if self.row is None:
            return False
        return creation.find(self.open(), self.row.name).state.ended  # type: ignore[union-attr]

    def wait_for_end(self, timeout: float = LONGEST) -> None:
        """Until the study has ended."""
        try:
            wait_until(self.ended, timeout, every=0.2, what="the study ends")
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.states()}, {self.attempts()}") from None

    def wait(
        self, predicate: Callable[[], Any], what: str, timeout: float = LONGEST, every: float = 0.05
    ) -> Any:
        """Until something is so."""
        return wait_until(predicate, timeout, every=every, what=what)

    def audit(self) -> Audit:
        """What `hpo audit` says."""
        assert self.row is not None
        row = creation.find(self.open(), self.row.name)
        assert row is not None
        return self.open().read(lambda connection: audit(connection, row))

    def states(self) -> Mapping[str, int]:
        """Tickets by state."""
        return self._count(ticket.c.state)

    def attempts(self) -> Mapping[str, int]:
        """Attempts by state."""
        return self._count(attempt.c.state)

    def ended_why(self, state: str) -> list[str]:
        """What is written beside the attempts that ended so."""
        query = sa.select(attempt.c.error).where(attempt.c.state == state)
        return self.open().read(lambda c: [str(error) for error in c.scalars(query)])

    def _count(self, column: Any) -> Mapping[str, int]:
        query = sa.select(column, sa.func.count()).group_by(column)
        return self.open().read(lambda c: {str(row[0]): int(row[1]) for row in c.execute(query)})

    def journal_lines(self, word: str) -> list[list[str]]:
        """What really ran: [x, trial, attempt] of each line that says `word`."""
        if not self.journal.exists():
            return []
        lines = [line.split() for line in self.journal.read_text().splitlines()]
        return [line[1:] for line in lines if line[0] == word]

    def trials(self) -> list[FrozenTrial]:
        """What Optuna has."""
        assert self.row is not None
        return self.open().rdb.get_all_trials(self.row.optuna_study_id)

    def completed_points(self) -> list[Any]:
        """`x` of every trial that Optuna has as complete."""
        return sorted(trial.params["x"] for trial in self.trials() if trial.state.name == "COMPLETE")
