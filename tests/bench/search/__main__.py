"""Compare ways to search on recorded trainings: `make search`, or `python -m tests.bench.search --full`.

For each task and method, after 100, 300 and 1,000 epochs: the true regret of the setting that is returned
(best mean over fresh seeds minus its own, 95 % interval), epochs to a complete run among the best 5 % and 1 %
(median, and the share of searches that came to it), simulated seconds to the best 1 %, and CPU milliseconds
of a decision. Then how ours compares with each rival: the ratio of mean regrets, in the mean of the tasks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import optuna

from tests.bench.search.methods import METHODS, OURS, QUICK
from tests.bench.search.record import Recorded, load, recorded
from tests.bench.search.replay import (
    CONFIRMED,
    LOOKS,
    Truth,
    World,
    confirmed,
    interval,
    replay,
    spent_to,
)
from tests.bench.search.tasks import TASKS


@dataclass(frozen=True)
class Result:
    """What one search came to."""

    task: str
    method: str
    workers: int
    seed: int
    regret: dict[int, float]  # by epochs spent
    epochs: dict[int, float]  # to a run among the best so many per cent
    seconds: dict[int, float]
    ms: float  # of a decision


@cache
def _recorded(task: str) -> tuple[Recorded, Truth]:
    found = load(next(one for one in TASKS if one.name == task))
    return found, Truth.of(found)


def search(task: str, method: str, workers: int, seed: int) -> Result:
    """Replay one search."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    found, truth = _recorded(task)
    budgets = LOOKS if method.startswith("one epoch") else LOOKS[-1:]  # that one must know its budget
    returned: dict[int, int] = {}
    for budget in budgets:
        world = World(found, seed)
        trace = replay(METHODS[method](world, budget), world, workers, budget)
        returned |= trace.returned if len(budgets) == 1 else {budget: trace.returned[budget]}
    if method.endswith(", confirmed"):
        returned |= {look: confirmed(trace, world, look) for look in CONFIRMED}
    spent = {
        share: spent_to(trace, value, maximize=found.task.maximize) for share, value in truth.top.items()
    }
    return Result(
        task,
        method,
        workers,
        seed,
        {look: float(truth.regret[setting]) for look, setting in returned.items()},
        {share: epochs for share, (epochs, _) in spent.items()},
        {share: seconds for share, (_, seconds) in spent.items()},
        1000 * statistics.mean(trace.decisions),
    )


def _search(job: tuple[str, str, int, int]) -> Result:
    return search(*job)


def table(results: Sequence[Result]) -> str:
    """A row for each task, number of workers and method."""
    lines = [
        "| task | workers | method | regret: 100 | at 300 | at 1,000 | best 5 % | best 1 % | seconds | ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (task, workers, method), some in _grouped(results).items():
        regrets = [_mean([one.regret[look] for one in some]) for look in LOOKS]
        reached = [_median([one.epochs[share] for one in some]) for share in (5, 1)]
        seconds = statistics.median(one.seconds[1] for one in some)
        shown = "-" if np.isinf(seconds) else f"{seconds:.1f}"
        ms = statistics.mean(one.ms for one in some)
        lines.append(
            f"| {task} | {workers} | {method} | {' | '.join([*regrets, *reached])} | {shown} | {ms:.1f} |"
        )
    return "\n".join(lines)


def ratios(results: Sequence[Result], ours: str = OURS) -> str:
    """Of our regret and each rival's, in the mean of the tasks; and of the best rival of each task."""
    grouped = _grouped(results)
    held_out = {task.name for task in TASKS if task.held_out}
    lines = [
        f"| {ours}, against | workers | at 100 | at 300 | at 1,000 | held out: at 100 | at 300 | at 1,000 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    tasks = list(dict.fromkeys(one.task for one in results))
    for workers in sorted({one.workers for one in results}):
        rivals = [m for m in dict.fromkeys(one.method for one in results) if m != ours]
        of = {
            (task, method, look): np.array([one.regret[look] for one in grouped[task, workers, method]])
            for task in tasks
            for method in (*rivals, ours)
            for look in LOOKS
        }
        for rival in (*rivals, "the best of Optuna's on each task"):
            cells = []
            for some in ([t for t in tasks if t not in held_out], [t for t in tasks if t in held_out]):
                for look in LOOKS:
                    pairs = []
                    for task in some:
                        against = (
                            [rival] if rival in rivals else [r for r in rivals if r.startswith("Optuna")]
                        )
                        theirs = best_of([of[task, one, look] for one in against])
                        pairs.append((of[task, ours, look], theirs))
                    cells.append(_ratio(pairs) if pairs else "-")
            lines.append(f"| {rival} | {workers} | {' | '.join(cells)} |")
    return "\n".join(lines)


def best_of(regrets: Sequence[np.ndarray]) -> np.ndarray:
    """What the best of several ways came to: of each half of its searches, the way that was best in the other
    half. The least of several means is less than the mean of any of them by luck alone."""
    even, odd = slice(0, None, 2), slice(1, None, 2)
    if len(regrets) == 1 or min(map(len, regrets)) < 2:
        return min(regrets, key=np.mean)
    halves = ((even, odd), (odd, even))
    return np.concatenate([min(regrets, key=lambda x: x[other].mean())[own] for own, other in halves])


def _grouped(results: Sequence[Result]) -> dict[tuple[str, int, str], list[Result]]:
    groups: dict[tuple[str, int, str], list[Result]] = {}
    for one in results:
        groups.setdefault((one.task, one.workers, one.method), []).append(one)
    return groups


def _mean(values: Sequence[float]) -> str:
    mean, low, high = interval(values)
    return f"{mean:.3g} [{low:.3g}, {high:.3g}]"


def _median(epochs: Sequence[float]) -> str:
    share = sum(np.isfinite(epochs)) / len(epochs)
    median = statistics.median(epochs)
    return f"{'-' if np.isinf(median) else f'{median:.0f}'}, {share:.0%}"


def _ratio(pairs: Sequence[tuple[np.ndarray, np.ndarray]], rounds: int = 1000) -> str:
    """The ratio of means, in the mean of the pairs, with its 95 % interval by bootstrap over the searches."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(rounds):
        chosen = [(rng.choice(a, len(a)).mean(), rng.choice(b, len(b)).mean()) for a, b in pairs]
        drawn.append(np.mean([a / max(b, 1e-9) for a, b in chosen]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{np.mean([a.mean() / max(b.mean(), 1e-9) for a, b in pairs]):.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Replay, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--full", action="store_true", help="all methods, 1, 8 and 32 workers, 60 searches of each"
    )
    parser.add_argument("--seeds", type=int, help="searches of each kind (default 20; 60 with --full)")
    parser.add_argument("--workers", help="numbers of simulated workers (default 1; 1,8,32 with --full)")
    parser.add_argument("--tasks", help="default: all that are recorded")
    parser.add_argument("--methods", help="beginnings of names, by semicolons")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: the machine's cores")
    parser.add_argument("-o", "--output", type=Path, help="write the results there, as JSON")
    options = parser.parse_args()
    tasks = options.tasks.split(",") if options.tasks else [task.name for task in recorded()]
    chosen = tuple(options.methods.split(";")) if options.methods else ("",)
    methods = [name for name in (METHODS if options.full else QUICK) if name.startswith(chosen)]
    counts = options.workers or ("1,8,32" if options.full else "1")
    seeds = range(options.seeds or (60 if options.full else 20))
    jobs = [
        (task, method, int(workers), seed)
        for task in tasks
        for workers in counts.split(",")
        for method in methods
        for seed in seeds
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        results = list(pool.map(_search, jobs, chunksize=5))
    print(table(results))
    if OURS in methods:
        print(ratios(results))
    if options.output:
        options.output.write_text(json.dumps([asdict(one) for one in results]))


if __name__ == "__main__":
    main()
