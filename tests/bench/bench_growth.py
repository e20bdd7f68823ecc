"""What each step of a trial costs as its study grows, beside bare Optuna in the same run.

`make bench`, or `python -m tests.bench.bench_growth [--only postgresql] [--sweep running] [--no-bare]`.

Three sweeps, each of one number while the others stay: finished trials, running ones, queued tickets. The
verbs are those of a worker and its broker, in this one process, on a study that was written in bulk. Of a
pruner it is the time that its decision adds to the commit of a report (the look at what others did, and the
decision itself), at the slowest of the steps 1, 3 and 9 of a trial. A first suggestion is that of a worker
that knows nothing of the study yet. Bare Optuna reads the same study, through `RDBStorage` as `load_study`
makes it; what would take it more than a minute is left out and shown as `-`.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hpo.spec import StudySpec
from hpo.worker.desk import Held
from hpo.worker.study import ServedStudy
from storage.database.records import Claim, StudyRow, TicketState
from storage.queue import attempts, rungs, studies
from storage.queue.attempts import Delivery, Report, Write
from storage.queue.optuna_rows import Trial
from tests.bench.big_study import PARAMETERS, RUNGS, grow
from tests.support.claims import claim_next
from tests.support.shared import LEASE, Party

PRUNERS: Mapping[str, Mapping[str, Any]] = {
    "median": {"name": "median"},
    "percentile": {"name": "percentile", "percentile": 25.0},
    "asha": {"name": "asha", "max_epochs": 10},
    "hyperband": {"name": "hyperband", "max_epochs": 10},
}
ROWS = ("claim", "first", "further", "report", *PRUNERS, "deliver")
BARE_ROWS = ("first", "further", "report", *PRUNERS, "deliver")
BARE_SECONDS = 60.0  # what bare Optuna may take for one column; what is left then is left out
ROUNDS = 9  # of what is measured; medians are shown
BARE_ROUNDS = 3  # of bare Optuna's suggestions and prunings


@dataclass(frozen=True)
class Size:
    """How far a study has come."""

    finished: int
    running: int
    queued: int


SWEEPS: Mapping[str, list[Size]] = {
    "finished": [Size(n, 10, 1000) for n in (10, 100, 1000, 10_000)],
    "running": [Size(1000, n, 1000) for n in (10, 100, 1000)],
    "queued": [Size(100, 10, n) for n in (10, 100, 1000, 10_000, 100_000)],
}
SHORT: Mapping[str, list[Size]] = {
    "finished": [Size(10, 2, 30), Size(50, 2, 30)],
    "running": [Size(20, 5, 30)],
    "queued": [Size(20, 2, 20)],
}


def spec_with(pruner: Mapping[str, Any]) -> StudySpec:
    """Eight parameters for TPE, and this pruner."""
    return StudySpec.model_validate(
        {
            "study": "growing",
            "objective": "tests/bench/objectives.py:ten_reports",
            "direction": "maximize",
            "sampler": {"name": "tpe", "seed": 0},
            "pruner": pruner,
            "budget": {"trials": 1},
            "space": {name: {"type": "float", "low": 0.0, "high": 1.0} for name in PARAMETERS},
        }
    )


@dataclass
class Times:
    """Milliseconds of each step."""

    taken: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Measure one."""
        began = time.perf_counter()
        yield
        self.add(step, time.perf_counter() - began)

    def add(self, step: str, seconds: float) -> None:
        """Add one that was measured."""
        self.taken.setdefault(step, []).append(1000 * seconds)

    def median(self, step: str) -> float | None:
        """Of the rounds; None where it was left out."""
        return statistics.median(self.taken[step]) if step in self.taken else None


class Ours:
    """One worker at a study that others work at too."""

    def __init__(self, url: str, study: StudyRow) -> None:
        self.party = Party(url, study)
        self.study = study
        self.times = Times()
        self._runner = 0
        self._none_waits = 0
        self._held: list[tuple[Claim, Trial, dict[str, Any]]] = []

    def measure(self, rounds: int) -> Times:
        """Every step, as often as `rounds` says or as the queue lasts."""
        self._try_out()
        rounds = min(rounds, len(self._held))
        self._suggest(min(3, rounds), rounds)
        self._report()
        for pruner in PRUNERS:
            self._prune(pruner, rounds)
        self._deliver()
        return self.times

    def _write(self, verb: Callable[[Any], Any]) -> Any:
        return self.party.database.write(verb)

    def _claim(self) -> Claim | None:
        self._runner += 1
        asks = (self.study.id, self.party.id, self._runner, "cpu", LEASE)
        found = self._write(lambda c: claim_next(c, *asks, none_waits=self._none_waits))
        if not isinstance(found, Claim):
            return None
        self._none_waits = found.none_waits
        return found

    def _try_out(self) -> None:
        """Claim; what was claimed runs from now on. The first of all is not counted."""
        served = ServedStudy(self.party.database, self.study, spec_with(PRUNERS["median"]))
        while len(self._held) < ROUNDS:
            began = time.perf_counter()
            claim = self._claim()
            taken = time.perf_counter() - began
            if claim is None:
                return
            if self._runner > 1:
                self.times.add("claim", taken)
            params = dict.fromkeys(PARAMETERS, 0.5)
            start = partial(
                attempts.start_trial,
                lease=claim.lease,
                optuna_study_id=self.study.optuna_study_id,
                params=params,
                distributions=served.distributions,
                sampler_saw={},
            )
            (trial,) = attempts.commit(self._write, [Write(claim.lease, start)])
            self._held.append((claim, trial, params))

    def _suggest(self, first: int, further: int) -> None:
        claim, *_ = self._held[0]
        for number in range(first):
            served = ServedStudy(self.party.database, self.study, spec_with(PRUNERS["median"]))
            gc.collect()
            with self.times.of("first"):
                served.suggested(claim, None, _forget)
            if number == 0:  # what is made once in a process
                self.times.taken["first"].clear()
                again = ServedStudy(self.party.database, self.study, spec_with(PRUNERS["median"]))
                with self.times.of("first"):
                    again.suggested(claim, None, _forget)
        for _ in range(further):
            with self.times.of("further"):
                served.suggested(claim, None, _forget)

    def _report(self) -> None:
        for claim, trial, _ in self._held:
            for step in (1, 2):
                with self.times.of("report"):
                    attempts.commit(self._write, [Report(claim.lease, trial.id, step, 0.5, {})])

    def _prune(self, pruner: str, rounds: int) -> None:
        """As the clerk does it: a report is committed with a look at what others did, and is decided on there
        (successive halving) or after it.
        """
        served = ServedStudy(self.party.database, self.study, spec_with(PRUNERS[pruner]))
        self.party.database.read(served.look)
        for number, (claim, trial, params) in enumerate(self._held[:rounds]):
            served.begin(claim, trial, params)
            slowest = 0.0
            for step in RUNGS:
                value = (number + 0.5) / rounds * (1 - 0.8**step)
                slowest = max(slowest, self._decide(served, claim, trial, step, value))
            self.times.add(pruner, slowest)

    def _decide(self, served: ServedStudy, claim: Claim, trial: Trial, step: int, value: float) -> float:
        """Seconds that the decision takes."""
        spent = []

        @contextmanager
        def timed() -> Iterator[None]:
            began = time.perf_counter()
            yield
            spent.append(time.perf_counter() - began)

        def look(connection: Any) -> None:
            with timed():
                served.look(connection)

        desk: Any = None  # nobody is told

        def reach(connection: Any) -> None:
            with timed():
                _, reached = served.pruning.at_report(Held(desk, claim, 1, trial), step, value)
                rungs.write(connection, self.study.id, reached)

        entries: list[Report | Write] = [Report(claim.lease, trial.id, step, value, {})]
        if served.pruning.keeps_rungs:
            entries.append(Write(claim.lease, reach))
        attempts.commit(self._write, entries, look)
        served.reported(trial, step, value)
        if not served.pruning.keeps_rungs:
            with timed():
                served.pruning.prunes(trial)
        return sum(spent)

    def _deliver(self) -> None:
        for number, (claim, trial, _) in enumerate(self._held):
            its = claim.lease, trial.id, TicketState.COMPLETE, (0.5,)
            began = time.perf_counter()
            (said,) = attempts.commit(self._write, [Delivery(*its, agree=self._same_code)])
            assert said is None, said
            if number:
                self.times.add("deliver", time.perf_counter() - began)

    def _same_code(self, connection: Any) -> None:
        studies.pinned_code(connection, self.study.id, {"code": "the same"})

    def close(self) -> None:
        """Close the connections."""
        self.party.close()


def _forget(_of: Any, _key: str, _value: str) -> None:
    """Note nothing."""


def measure_bare(url: str, rounds: int, seconds: float = BARE_SECONDS) -> Times:
    """Bare Optuna's steps on the same study; those for which no time is left are left out."""
    import optuna

    from hpo.search.pruners import make_pruner

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    times, over = Times(), time.monotonic() + seconds

    def load(pruner: str) -> optuna.Study:
        return optuna.load_study(
            study_name="growing",
            storage=url,
            sampler=optuna.samplers.TPESampler(seed=0),
            pruner=make_pruner(spec_with(PRUNERS[pruner])),
        )

    def ask(study: optuna.Study, step: str) -> optuna.Trial:
        with times.of(step):
            trial = study.ask()
            for name in PARAMETERS:
                trial.suggest_float(name, 0.0, 1.0)
        return trial

    asked = [ask(load("median"), "first")]
    study = load("median")
    ask(study, "first")
    for _ in range(min(rounds, BARE_ROUNDS)):
        if time.monotonic() > over:
            return times
        asked.append(ask(study, "further"))
    for trial in asked:
        with times.of("report"):
            trial.report(0.5, 2)
    for pruner in PRUNERS:
        study = load(pruner)
        for number in range(BARE_ROUNDS):
            if time.monotonic() > over:
                break
            trial = study.ask()  # new, so that it has none of another pruner's marks
            slowest = 0.0
            for step in RUNGS:
                trial.report((number + 0.5) / BARE_ROUNDS * (1 - 0.8**step), step)
                began = time.perf_counter()
                trial.should_prune()
                slowest = max(slowest, time.perf_counter() - began)
            times.add(pruner, slowest)
    for trial in asked:
        with times.of("deliver"):
            study.tell(trial, 0.5)
    return times


def measure(url: str, size: Size, *, rounds: int = ROUNDS, bare: bool = True) -> tuple[Times, Times]:
    """The times of ours and of bare Optuna on a study of this size, in an empty database."""
    study = grow(url, spec_with(PRUNERS["median"]), size.finished, size.running, size.queued)
    ours = Ours(url, study)
    try:
        found = ours.measure(rounds)
    finally:
        ours.close()
    return found, measure_bare(url, rounds) if bare else Times()


def table(sweep: str, sizes: list[Size], columns: list[tuple[Times, Times]]) -> str:
    """One line a step: ours, then bare Optuna's where it was measured."""
    heads = [f"{getattr(size, sweep):,}" for size in sizes]
    lines = [f"{sweep:<16}" + "".join(f"{head:>9}" for head in heads) + "   growth"]
    for whose, steps in enumerate((ROWS, BARE_ROWS)):
        for step in steps:
            medians = [column[whose].median(step) for column in columns]
            if not any(medians):
                continue
            shown = "".join(f"{'-' if one is None else f'{one:.1f}':>9}" for one in medians)
            there = [one for one in medians if one is not None]
            name = f"bare {step}" if whose else step
            lines.append(f"{name:<16}{shown}{there[-1] / there[0]:>8.1f}x")
    return "\n".join(lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--sweep", choices=list(SWEEPS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--short", action="store_true", help="small studies, to see that it works")
    parser.add_argument("--no-bare", action="store_true", help="leave bare Optuna out")
    options = parser.parse_args()
    sweeps = SHORT if options.short else SWEEPS
    for backend in [options.only] if options.only else ["sqlite", "postgresql"]:
        with databases(backend) as make:
            if make is None:
                continue
            for sweep in [options.sweep] if options.sweep else sweeps:
                columns = [
                    measure(make(), size, rounds=options.rounds, bare=not options.no_bare)
                    for size in sweeps[sweep]
                ]
                print(f"\n{backend}, ms, medians; by trials or tickets that are {sweep}")
                print(table(sweep, sweeps[sweep], columns), flush=True)
    return 0


@contextmanager
def databases(backend: str) -> Iterator[Callable[[], str] | None]:
    """Makes empty databases; None where this machine has no server."""
    from tests.support.pg import NoPostgresError, PgServer

    with tempfile.TemporaryDirectory() as folder:
        if backend == "sqlite":
            made = iter(range(1_000_000))
            yield lambda: f"sqlite:///{Path(folder) / f'{next(made)}.db'}"
            return
        try:
            server = PgServer().start()
        except NoPostgresError as error:
            print(f"{backend} is left out: {error}")
            yield None
            return
        try:
            yield server.create_database
        finally:
            server.close()


if __name__ == "__main__":
    sys.exit(main())
