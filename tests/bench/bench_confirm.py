"""Does a confirmed result hold? `python -m tests.bench.bench_confirm --searches 10 --trials 100`.

Each search draws random settings of a ready study file and trains them one after another, as trials are. Its
five best, and the first, are then confirmed as `hpo confirm` does: fresh seeds at once as lanes, dropped
by the same race, judged by the same functions. The truth is the mean of 30 further seeds of each. In one
thread; times are CPU seconds, which other work disturbs least.

    covered   the winner's stated 90 % interval holds the mean of its 30 further seeds
    named     the truly best of the settings is the winner, or stated to be tied with it
    share     of the search's time that the confirmation took
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpo.search import confirming
from hpo.search.draws import repeat_seed, training_seed
from hpo.search.space import random_point
from hpo.spec import StudySpec, load_spec, resolve
from hpo.studies.confirming import SIDE_BY_SIDE
from objectives import classifier
from objectives.errors import DivergedError
from objectives.lanes import train_settings
from objectives.standalone import LocalTrial

STUDY = Path(__file__).parents[2] / "objectives" / "studies" / "digits-random.yaml"
FURTHER = 30  # seeds
_HEAD = (
    "search  reported  confirmed  truth   +-      of reported best  covered  named  tied   trainings  share"
)


@dataclass(frozen=True)
class Search:
    """One search, its confirmation, and what is true."""

    reported: float  # what the search saw of the best
    confirmed: float  # the winner's mean
    truth: float  # of the winner
    of_reported: float  # the truth of the setting that the search had taken for the best
    half: float  # of the winner's interval
    covered: bool
    named: bool  # the truly best one is the winner
    tied: bool  # ... or is stated to be tied
    share: float
    trainings: int


def search(spec: StudySpec, seed: int, trials: int, top: int = 5, seeds: int = 10) -> Search:
    """Search, confirm, and look what is true."""
    began = time.process_time()
    points = [random_point(spec, seed, number) for number in range(trials)]
    configs = [resolve(spec, point) for point in points]
    values = [
        max(_trained(config, training_seed(seed, number), 1), default=-np.inf)
        for number, config in enumerate(configs)
    ]
    searched = time.process_time() - began
    order = sorted(range(trials), key=lambda number: (-values[number], number))[:top]
    chosen = list(dict.fromkeys([*order, 0]))
    began = time.process_time()
    found, dropped = _confirmed(configs, chosen, seed, seeds)
    confirmed = time.process_time() - began
    winner = confirming.winner(found, dropped)
    assert winner is not None
    estimate = confirming.estimates(found, set())[winner]
    assert estimate.low is not None
    assert estimate.high is not None
    truth = {number: _truth(configs[number], seed + 1) for number in chosen}
    best = max(truth, key=lambda number: truth[number])
    return Search(
        reported=values[order[0]],
        confirmed=estimate.mean,
        truth=truth[winner],
        of_reported=truth[order[0]],
        half=(estimate.high - estimate.low) / 2,
        covered=estimate.low <= truth[winner] <= estimate.high,
        named=best == winner,
        tied=best in confirming.tied(found, winner, set()),
        share=confirmed / searched,
        trainings=sum(map(len, found.values())),
    )


def _confirmed(
    configs: list[dict[str, Any]], chosen: list[int], seed: int, seeds: int
) -> tuple[confirming.Values, set[int]]:
    """What each setting had with each seed, and those that were dropped, round by round."""
    found: dict[int, dict[tuple[int, int], float]] = {number: {} for number in chosen}
    dropped: set[int] = set()
    done = group = 0
    while done < seeds:
        first, many = repeat_seed(seed, group), min(SIDE_BY_SIDE[bool(group)], seeds - done)
        for number in chosen:
            if number not in dropped:
                values = _trained(configs[number], first, many)
                found[number].update({(first, place): value for place, value in enumerate(values)})
                if not values:
                    dropped.add(number)
                    found[number].clear()
        dropped |= confirming.losers({n: own for n, own in found.items() if n not in dropped})
        done, group = done + many, group + 1
    return found, dropped


def _trained(config: Mapping[str, Any], seed: int, seeds: int) -> list[float]:
    """The value with each of so many seeds; none where it diverged."""
    trial = LocalTrial({**config, "checkpoint_every": 0, "seeds": seeds}, seed=seed)
    try:
        value = classifier.objective(trial)
    except DivergedError:
        return []
    assert isinstance(value, float)
    if seeds == 1:
        return [value]
    return [float(next(iter(one.values()))) for one in trial.user_attrs["training"]["members"]]


def _truth(config: Mapping[str, Any], seed: int) -> float:
    """The mean over further seeds; a training that diverges counts as nothing right."""
    further = [training_seed(10_000 + seed, number) for number in range(FURTHER)]
    records = train_settings([config] * FURTHER, "classification", further)
    return float(np.mean([one["values"][0] if one["values"] else 0.0 for one in records]))


def table(found: list[Search]) -> str:
    """A line a search, and the counts."""
    lines = [_HEAD]
    for number, one in enumerate(found):
        lines.append(
            f"{number:6}  {one.reported:8.4f}  {one.confirmed:9.4f}  {one.truth:.4f}  {one.half:.4f}  "
            f"{one.of_reported:16.4f}  {one.covered!s:7}  {one.named!s:5}  {one.tied!s:5} {one.trainings:9}  "
            f"{100 * one.share:.0f} %"
        )
    n = len(found)
    lines.append(
        f"covered {sum(one.covered for one in found)}/{n}; named or tied "
        f"{sum(one.named or one.tied for one in found)}/{n} (named {sum(one.named for one in found)}); share "
        f"at most {100 * max(one.share for one in found):.0f} %; the search overstated "
        f"{np.mean([one.reported - one.of_reported for one in found]):.4f}, the confirmation "
        f"{np.mean([one.confirmed - one.truth for one in found]):.4f} on average"
    )
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--searches", type=int, default=10)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first search")
    options = parser.parse_args()
    torch.set_num_threads(1)
    spec = load_spec(STUDY, ())
    found: list[Search] = []
    for number in range(options.searches):
        found.append(search(spec, options.first + number, options.trials))
        print(table(found), flush=True)


if __name__ == "__main__":
    main()
