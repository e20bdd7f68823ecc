"""Successive halving that parks and promotes: where a run stops, and which parked run goes on.

A run stops at each rung and is parked there with its checkpoint; none is dropped. Whoever is free asks
`promotion` first and begins a new run only where it finds none (Li et al. 2020, Algorithm 2).

    ladder = Ladder.of(min_epochs=1, max_epochs=20, reduction_factor=3)    # epochs 1, 3, 9, 20
    ladder.parking                                                         # 1, 3, 9: where runs are parked
    promotion([(values_at_1, parked_at_1), (values_at_3, parked_at_3), (values_at_9, parked_at_9)],
              reduction_factor=3, maximize=True)                           # (1, 4): the fifth run at epoch 3
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from storage.queue.rungs import Rung

Found = tuple[int, int]  # position of a rung, position of a run there


@dataclass(frozen=True)
class Ladder:
    """The epochs at which runs stop; the last one ends a run, which is complete then."""

    epochs: tuple[int, ...]

    @classmethod
    def of(cls, min_epochs: int, max_epochs: int, reduction_factor: int, skip: int = 0) -> Ladder:
        """From `min_epochs` on by the factor, as long as it is below `max_epochs`, the last.

        `skip`: rungs left out at the start, as Hyperband's bracket of this number does.
        """
        epochs, epoch = [], min_epochs * reduction_factor**skip
        while epoch < max_epochs:
            epochs.append(epoch)
            epoch *= reduction_factor
        return cls((*epochs, max_epochs))

    @property
    def parking(self) -> tuple[int, ...]:
        """The epochs at which runs are parked: all but the last."""
        return self.epochs[:-1]

    def reached(self, before: int, now: int) -> range:
        """The rungs at which runs are parked that one comes to with epoch `now`, having done `before`."""
        return range(
            sum(epoch <= before for epoch in self.parking), sum(epoch <= now for epoch in self.parking)
        )


class Standing:
    """Who came to which rung with what value, kept up by what is new, and who goes on from there.

    Args:
        ladders: of each bracket.
        reduction_factor: one in so many goes on.
        maximize: whether the higher value is the better one.
    """

    def __init__(self, ladders: Sequence[Ladder], reduction_factor: int, *, maximize: bool) -> None:
        self.ladders = ladders
        self._factor = reduction_factor
        self._maximize = maximize
        self._at: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)  # by bracket and rung, by trial

    def learn(self, rungs: Iterable[Rung]) -> None:
        """Learn which rungs are stored that were not, or have another value; the same again does no harm."""
        for rung in rungs:
            there = self._at[rung.bracket, rung.rung]
            if rung.value is None:
                there.pop(rung.trial_id, None)
            else:
                there[rung.trial_id] = rung.value

    def promotion(self, parked: Collection[int], room: float = math.inf) -> tuple[int, int, int] | None:
        """Of the trials that are parked, by their ids, the one that goes on, the epoch at which it is parked
        next, and how many epochs that is, `room` at most.

        Of several brackets the rung of the most epochs comes first.
        """
        order = sorted(self._at, key=lambda key: self.ladders[key[0]].epochs[key[1]])
        waiting, places, rungs, trials = set(parked), [], [], []
        for bracket, rung in order:
            if self._further(bracket, rung) > room:
                continue
            places.append((bracket, rung))
            there = sorted(self._at[bracket, rung].items())
            above = self._at.get((bracket, rung + 1), {})
            trials.append([trial for trial, _ in there])
            rungs.append(([v for _, v in there], [t in waiting and t not in above for t, _ in there]))
        found = promotion(rungs, self._factor, maximize=self._maximize)
        if found is None:
            return None
        (bracket, rung), trial = places[found[0]], trials[found[0]][found[1]]
        return trial, self.ladders[bracket].epochs[rung + 1], self._further(bracket, rung)

    def _further(self, bracket: int, rung: int) -> int:
        epochs = self.ladders[bracket].epochs
        return epochs[rung + 1] - epochs[rung]


def promotion(
    rungs: Sequence[tuple[ArrayLike, ArrayLike]], reduction_factor: int, *, maximize: bool
) -> Found | None:
    """The run to promote: from the highest of these rungs down, the best parked one that is among the best
    1/`reduction_factor` of all that came to its rung. None: begin a new run, or wait.

    It takes a pass over the values, about 0.1 ms for three rungs and 10,000 runs.

    Args:
        rungs: those at which runs are parked, the lowest first (without the last epoch), each with
            the values of all runs that came to it, whatever became of them, the earliest run first: of equal
            ones the earlier is the better. A run that diverged there has the worst value, infinite or NaN.
            Then, for each of these runs, whether it is parked there now.
        reduction_factor: one in so many goes on.
        maximize: whether the higher value is the better one.
    """
    for position in reversed(range(len(rungs))):
        values, parked = (np.asarray(one) for one in rungs[position])
        best = _best_parked(values if maximize else -values, parked.astype(bool), reduction_factor)
        if best is not None:
            return position, best
    return None


def _best_parked(values: np.ndarray, parked: np.ndarray, reduction_factor: int) -> int | None:
    """The position of the best parked run, where it is among the best; the higher value is the better one."""
    may = len(values) // reduction_factor
    if not may or not parked.any():
        return None
    known = np.where(np.isnan(values), -np.inf, values)
    waiting = np.flatnonzero(parked)
    best = int(waiting[np.argmax(known[waiting])])
    better = np.count_nonzero(known > known[best]) + np.count_nonzero(known[:best] == known[best])
    return best if better < may and known[best] > -np.inf else None
