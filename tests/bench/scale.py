"""How many workers one PostgreSQL bears: real ones first, then simulated ones through the same verbs.

`make scale`, or `python -m tests.bench.scale [--real 24] [--simulated 100,300,1000] [--durable]`.

Real: `hpo worker` with one runner each, whose trials sleep; one of eight runners on a paused study; and what
a copy of 10,000 trials takes. Simulated: a worker is a lease keeper's beat every 5 s and a trial of 30 s: a
claim with its start, ten reports and a delivery, each a transaction as the broker makes it. A few processes
make them all over a few connections, as behind a pooler. Each call has its moment, and how late it starts is
shown, so that it can be told whether this machine or the database is the limit. The ceiling: claims and
deliveries of one study as fast as they go.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
import sqlalchemy as sa
from optuna.distributions import FloatDistribution

from hpo.worker.lease_keeper import LeaseKeeper
from storage.database.engine import Database
from storage.database.records import AttemptState, Claim, StudyRow, StudyState, TicketState
from storage.database.tables import attempt, worker
from storage.queue import attempts, studies, workers
from storage.queue.attempts import Delivery, Entry, Report
from tests.bench.big_study import PARAMETERS
from tests.support.claims import claim_next
from tests.support.pg import PgServer
from tests.support.shared import make_study, reopen, steer

ROOT = Path(__file__).resolve().parents[2]
LEASE, BEAT = 15.0, 5.0  # seconds, as hpo has them
TRIAL, REPORTS = 30.0, 10  # seconds of a trial, and its reports
SPACE = dict.fromkeys(PARAMETERS, FloatDistribution(0.0, 1.0))
THREADS = 5  # of a process that simulates: as many as connections stay open


@dataclass
class Seen:
    """What simulated workers met."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    late: list[float] = field(default_factory=list)  # seconds between when a call was due and its start
    lost: int = 0

    def add(self, verb: str, seconds: float) -> None:
        self.seconds.setdefault(verb, []).append(seconds)


class Simulated:
    """One worker with one runner: a beat in time, and one trial after the other."""

    def __init__(self, database: Database, study: StudyRow, pace: float, seen: Seen) -> None:
        self.id = uuid.uuid4().hex
        self._database, self._study, self._pace, self._seen = database, study, pace, seen
        self._claim: Claim | None = None
        self._trial_id = 0
        self._none_waits = 0
        self._step = 0
        self._first_step = random.randrange(REPORTS)  # the first trial ends early: not all at one time
        database.write(
            lambda c: workers.register(
                c,
                worker_id=self.id,
                name=f"simulated:{self.id[:6]}",
                host="simulated",
                host_key=self.id,  # a machine of its own
                pid=1,
                pid_started=0.0,
                lease_seconds=LEASE,
                study_id=study.id,
                devices=["cpu"],
                versions={},
            )
        )
        self._keeper = LeaseKeeper(
            database, self.id, study.name, lease=LEASE, interval=BEAT, status=lambda: {}, wake=-1
        )

    def beat(self) -> float:
        """Renew, look, reap; returns the seconds until the next."""
        with self._timed("beat"):
            self._keeper.beat()
        return BEAT

    def go_on(self) -> float:
        """The next step of its trial; returns the seconds until the one after."""
        if self._claim is None:
            self._begin()
        elif self._step < REPORTS:
            self._step += 1
            with self._timed("report"):
                self._commit(Report(self._claim.lease, self._trial_id, self._step, 0.1 * self._step, {}))
        else:
            self._deliver(self._claim)
            return 0.0
        return TRIAL / (REPORTS + 0.5) / self._pace

    def _begin(self) -> None:
        def verb(connection: Any) -> Any:
            asks = (connection, self._study.id, self.id, 0, "cpu", LEASE)
            claim = claim_next(*asks, none_waits=self._none_waits)
            assert isinstance(claim, Claim), claim
            point = {name: random.random() for name in PARAMETERS}
            optuna_study = self._study.optuna_study_id
            return claim, attempts.start_trial(connection, claim.lease, optuna_study, point, SPACE, {})

        with self._timed("claim"):
            self._claim, trial = self._database.write(verb)
        self._none_waits = self._claim.none_waits
        self._trial_id, self._step = trial.id, self._first_step
        self._first_step = 0

    def _deliver(self, claim: Claim) -> None:
        its = claim.lease, self._trial_id, TicketState.COMPLETE, (random.random(),)
        with self._timed("deliver"):
            self._commit(Delivery(*its, agree=self._same_code))
        self._claim = None

    def _same_code(self, connection: Any) -> None:
        studies.pinned_code(connection, self._study.id, {"code": "the same"})

    def _commit(self, entry: Entry) -> None:
        (answer,) = attempts.commit(self._database.write, [entry])
        if isinstance(answer, Exception):
            self._seen.lost += 1
            self._claim = None

    @contextmanager
    def _timed(self, verb: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._seen.add(verb, time.perf_counter() - began)


def simulate(
    url: str, name: str, count: int, seconds: float, pace: float, verbs: Collection[str] = ()
) -> Seen:
    """So many workers in this process; counted once all of them have begun, until each of `verbs` was.

    What is due stands in one queue, from which a few threads take it.
    """
    database, seen = reopen(url), Seen()
    study = database.read(lambda c: studies.get(c, name))
    due: list[tuple[float, int, Callable[[], float]]] = []
    lock = threading.Lock()
    family = [Simulated(database, study, pace, seen) for _ in range(count)]
    began = time.monotonic()
    ramp = min(10.0, TRIAL / pace)
    for number, one in enumerate(family):
        heapq.heappush(due, (began + random.random() * BEAT, 2 * number, one.beat))
        heapq.heappush(due, (began + random.random() * ramp, 2 * number + 1, one.go_on))
    counts_from, over = began + ramp, began + ramp + seconds

    def work() -> None:
        while True:
            with lock:
                at, number, call = due[0]
                now = time.monotonic()
                if now >= over and all(seen.seconds.get(verb) for verb in verbs):
                    return
                if at <= now:
                    heapq.heappop(due)
            if at > now:
                time.sleep(min(at - now, 0.02))
                continue
            if now >= counts_from:
                seen.late.append(now - at)
            wait = call()
            with lock:
                heapq.heappush(due, (max(at + wait, time.monotonic() - 1.0), number, call))

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, counts_from - time.monotonic()))
    seen.seconds.clear()
    for thread in threads:
        thread.join()
    database.close()
    return seen


def hurry(url: str, name: str, seconds: float) -> int:
    """Claims and deliveries one after the other, by one worker; returns how many trials."""
    database, seen = reopen(url), Seen()
    one = Simulated(database, database.read(lambda c: studies.get(c, name)), 1.0, seen)
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        one._begin()
        assert one._claim is not None
        one._deliver(one._claim)
    database.close()
    return len(seen.seconds["deliver"])


@dataclass
class Counted:
    """What PostgreSQL counted in a span of time."""

    commits: float  # a second
    rollbacks: float
    connections: int  # the most that were open
    busy: float  # processors that the server used


class Watch:
    """Counts what happens in a database, over a connection to another one."""

    def __init__(self, server: PgServer, url: str) -> None:
        self._server = server
        self._name = sa.make_url(url).database
        self._connection = psycopg.connect(
            server.url().replace("+psycopg", ""), autocommit=True, application_name="watch"
        )

    def during(self, seconds: float, meanwhile: Callable[[], Any] = lambda: None) -> Counted:
        """Count for so long."""
        time.sleep(1.2)  # what backends have counted reaches the view a second later
        before, spent, began = self._counts(), self._spent(), time.monotonic()
        most = 0
        while time.monotonic() - began < seconds:
            time.sleep(0.5)
            meanwhile()
            most = max(most, self._connections())
        span = time.monotonic() - began
        time.sleep(1.2)
        after = self._counts()
        whole = time.monotonic() - began
        commits, rollbacks = ((one - other) / whole for one, other in zip(after, before, strict=True))
        return Counted(commits, rollbacks, most, (self._spent() - spent) / span)

    def _counts(self) -> tuple[int, int]:
        query = "SELECT xact_commit, xact_rollback FROM pg_stat_database WHERE datname = %s"
        row = self._connection.execute(query, (self._name,)).fetchone()
        assert row is not None
        return row[0], row[1]

    def _connections(self) -> int:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        row = self._connection.execute(query, (self._name,)).fetchone()
        assert row is not None
        return int(row[0])

    def _spent(self) -> float:
        total = 0.0
        family = self._server.family()
        for process in family:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
            if process.pid == family[0].pid:  # with what ended backends used
                total += times.children_user + times.children_system
        return total


OBJECTIVE = """
import time
def objective(trial):
    x = trial.suggest_float("x", 0.0, 1.0)
    for step in range(1, 11):
        time.sleep({pause})
        trial.report(x * step, step)
    return x
"""
COPY = """
import gc, sys, psutil
from storage.history.known import KnownTrials
from tests.support.shared import reopen
database = reopen(sys.argv[1])
for study in (0, int(sys.argv[2])):  # none first, so that what is imported late is not counted
    gc.collect()
    known, before = KnownTrials(study), psutil.Process().memory_info().rss
    database.read(known.refresh)
print(len(known.trials()), (psutil.Process().memory_info().rss - before) / 2**20)
"""


class Studies:
    """Real studies for real workers, in a folder of their own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.environment = {**os.environ, "HPO_STORAGE": url, "HPO_ARTIFACTS": str(folder / "artifacts")}

    def create(self, name: str, pause: float) -> None:
        """A study of many trials of ten reports each."""
        (self.folder / f"{name}.py").write_text(OBJECTIVE.format(pause=pause))
        spec = {
            "study": name,
            "objective": f"{name}.py",
            "direction": "maximize",
            "sampler": {"name": "random"},
            "budget": {"trials": 100_000},
        }
        (self.folder / f"{name}.yaml").write_text(json.dumps(spec))
        subprocess.run(
            [sys.executable, "-m", "hpo", "create", f"{name}.yaml"], check=True, **self._where(quiet=True)
        )

    @contextmanager
    def workers(self, name: str, count: int, runners: int) -> Iterator[None]:
        """So many `hpo worker`."""
        command = [sys.executable, "-m", "hpo", "worker", name, "--runners", str(runners)]
        family = [subprocess.Popen(command, **self._where(quiet=True)) for _ in range(count)]
        try:
            yield
        finally:
            for process in family:
                process.send_signal(signal.SIGTERM)
            for process in family:
                process.wait(60)

    def _where(self, *, quiet: bool) -> dict[str, Any]:
        out = subprocess.DEVNULL if quiet else None
        return {"cwd": self.folder, "env": self.environment, "stdout": out, "stderr": out}


def real(server: PgServer, folder: Path, count: int, seconds: float) -> None:
    """Real workers, one runner each, with trials of 3 s and 10 reports."""
    url = server.create_database()
    made = Studies(url, folder)
    made.create("sleeping", 0.3)
    database = reopen(url)
    with made.workers("sleeping", count, 1):
        began = time.monotonic()
        while _running(database) < count and time.monotonic() - began < 120:
            time.sleep(1.0)
        at_work, ready = _running(database), time.monotonic() - began
        done = _ended(database, AttemptState.COMPLETE)
        counted = Watch(server, url).during(seconds)
        rate = (_ended(database, AttemptState.COMPLETE) - done) / (seconds + 2.4)
    print(
        f"real: {at_work} of {count} workers of 1 runner at work after {ready:.0f} s; trials of 3 s, "
        f"10 reports: {rate:.1f} trials/s, {counted.commits:.0f} transactions/s, "
        f"{counted.connections} connections ({counted.connections / count:.1f} a worker), "
        f"server {counted.busy:.2f} cores, {_ended(database, AttemptState.LOST)} leases lost",
        flush=True,
    )
    database.close()


def idle(server: PgServer, folder: Path, seconds: float) -> None:
    """One worker of eight runners on a study that is paused."""
    url = server.create_database()
    made = Studies(url, folder)
    made.create("paused", 0.1)
    database = reopen(url)
    row = database.read(lambda c: studies.get(c, "paused"))
    with made.workers("paused", 1, 8):
        began = time.monotonic()
        while _running(database) < 8 and time.monotonic() - began < 60:
            time.sleep(0.5)
        steer(database, row, StudyState.PAUSED)
        while _running(database) and time.monotonic() - began < 90:
            time.sleep(0.5)
        time.sleep(20.0)  # idle workers look less and less often
        database.close()  # its own connections are not counted
        counted = Watch(server, url).during(seconds)
    print(
        f"idle: one worker of 8 runners on a paused study: {counted.commits:.1f} transactions/s committed, "
        f"{counted.rollbacks:.1f} rolled back, {counted.connections} connections, "
        f"server {counted.busy:.3f} cores",
        flush=True,
    )


def memory(server: PgServer) -> None:
    """What a worker's copy of a study of 10,000 trials takes: 8 parameters, 10 reports."""
    from tests.bench.bench_growth import PRUNERS, spec_with
    from tests.bench.big_study import grow

    url = server.create_database()
    row = grow(url, spec_with(PRUNERS["median"]), 10_000, 0, 10)
    done = subprocess.run(
        [sys.executable, "-c", COPY, url, str(row.optuna_study_id)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    trials, mebibytes = done.stdout.split()
    print(f"memory: {trials} trials, 8 parameters and 10 reports each: {float(mebibytes):.0f} MiB a worker")


def ceiling(server: PgServer, seconds: float, how: str) -> None:
    """Claims and deliveries of one study as fast as they go, by 1 worker and by 4 at once."""
    for count in (1, 4):
        url = server.create_database()
        database = _with_study(url, 20_000)
        trials = sum(int(said) for said in _family("hurry", [[url, "simulated", seconds]] * count))
        print(
            f"ceiling, {how}: {count} workers do nothing but claim and deliver: "
            f"{trials / seconds:.0f} trials/s of one study, {1000 * seconds / trials:.1f} ms each",
            flush=True,
        )
        database.close()


def simulated(server: PgServer, count: int, seconds: float, pace: float, processes: int) -> None:
    """So many simulated workers."""
    url = server.create_database()
    database = _with_study(url, 3 * count + int(count * (seconds + 20) * pace / TRIAL))
    share = [count // processes + (number < count % processes) for number in range(processes)]
    counted: list[Counted] = []
    watch = Watch(server, url)

    def look() -> None:
        while not at_work.is_set():
            if _registered(database) >= count:
                time.sleep(min(10.0, TRIAL / pace))
                counted.append(watch.during(seconds - 6))
                return
            time.sleep(0.2)

    at_work = threading.Event()
    looking = threading.Thread(target=look)
    looking.start()
    told = _family("simulate", [[url, "simulated", one, seconds, pace] for one in share if one])
    at_work.set()
    looking.join()
    seen = [json.loads(said) for said in told]
    (one,) = counted
    lost = sum(each["lost"] for each in seen) + _ended(database, AttemptState.LOST)
    late = [value for each in seen for value in each["late"]]
    print(
        f"\nsimulated: {count} workers of 1 runner, trials of {TRIAL / pace:g} s and {REPORTS} reports"
        + ("" if pace == 1 else f" (time compressed {pace:g} times; beats are not)")
        + f": {one.commits:.0f} transactions/s, server {one.busy:.2f} cores, {one.connections} connections, "
        f"{lost} leases lost; calls started late by {1000 * statistics.median(late):.0f} ms "
        f"(p99 {1000 * _p99(late):.0f} ms)"
    )
    print(f"{'ms':<10}{'calls/s':>9}{'p50':>8}{'p99':>8}")
    for verb in ("claim", "report", "beat", "deliver"):
        taken = [1000 * value for each in seen for value in each["seconds"].get(verb, [])]
        if taken:
            print(
                f"{verb:<10}{len(taken) / seconds:>9.1f}{statistics.median(taken):>8.1f}{_p99(taken):>8.1f}"
            )
    sys.stdout.flush()
    database.close()


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]


def _with_study(url: str, trials: int) -> Database:
    from storage.database.migrate import open_database

    database = open_database(url)
    make_study(database, trials, name="simulated")
    return database


def _family(verb: str, calls: Sequence[Sequence[Any]]) -> list[str]:
    """Each call in a process of its own; what each prints."""
    family = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.scale", "--call", verb, json.dumps(call)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for call in calls
    ]
    return [process.communicate()[0] for process in family]


def _call(verb: str, given: str) -> None:
    if verb == "simulate":
        seen = simulate(*json.loads(given))
        found: Mapping[str, Any] = {"seconds": seen.seconds, "late": seen.late, "lost": seen.lost}
        print(json.dumps(found))
    else:
        print(hurry(*json.loads(given)))


def _running(database: Database) -> int:
    return _count(database, sa.select(attempt.c.id).where(attempt.c.state == AttemptState.RUNNING))


def _ended(database: Database, state: AttemptState) -> int:
    return _count(database, sa.select(attempt.c.id).where(attempt.c.state == state))


def _registered(database: Database) -> int:
    return _count(database, sa.select(worker.c.id))


def _count(database: Database, found: sa.Select[Any]) -> int:
    query = sa.select(sa.func.count()).select_from(found.subquery())
    return int(database.read(lambda c: c.scalar(query)) or 0)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--real", type=int, default=24, help="real workers; 0: none")
    parser.add_argument("--simulated", default="100,300,1000", help="simulated workers, in turn; empty: none")
    parser.add_argument("--no-idle", action="store_true", help="leave the idle worker and the memory out")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each measurement")
    parser.add_argument("--pace", type=float, default=1.0, help="how much faster than 30 s trials go")
    parser.add_argument("--processes", type=int, default=2, help="that simulate")
    parser.add_argument("--durable", action="store_true", help="each commit waits for the disk")
    parser.add_argument("--call", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        _call(*options.call)
        return 0
    server = PgServer(durable=options.durable).start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            if not options.no_idle:
                memory(server)
                idle(server, Path(folder), 20.0)
            if options.real:
                real(server, Path(folder), options.real, min(20.0, options.seconds))
        ceiling(server, min(5.0, options.seconds), "with fsync" if options.durable else "without fsync")
        for count in filter(None, options.simulated.split(",")):
            simulated(server, int(count), options.seconds, options.pace, options.processes)
    finally:
        server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
