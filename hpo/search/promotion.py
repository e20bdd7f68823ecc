"""Successive halving that parks and promotes: where a run stops, and which parked run goes on.

A run stops at each rung and is parked there with its checkpoint; none is dropped. Whoever is free asks
`Standing.promotion` first and begins a new run only where it finds none (Li et al. 2020, Algorithm 2).

    ladder = Ladder.of(min_epochs=1, max_epochs=20, reduction_factor=3)    # epochs 1, 3, 9, 20
    ladder.parking                                                         # 1, 3, 9: where runs are parked
    standing = Standing([ladder], 3, ["maximize"])
    standing.learn(rungs)                                                  # what runs had at them
    standing.promotion(parked.intersection)                                # (17, 9, 6): 17 goes on to epoch 9
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.queue.rungs import Rung


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
        directions: minimize or maximize; of several, runs are ranked by fronts.
    """

    def __init__(self, ladders: Sequence[Ladder], reduction_factor: int, directions: Sequence[str]) -> None:
        self.ladders = ladders
        self._factor = reduction_factor
        self._signs = [-1 if direction == "maximize" else 1 for direction in directions]
        kind = _Ranked if len(directions) == 1 else _Fronts
        self._at: dict[tuple[int, int], _Ranked | _Fronts] = defaultdict(kind)  # by bracket and rung

    def learn(self, rungs: Iterable[Rung]) -> None:
        """Learn which rungs are stored that were not, or have another value; the same again does no harm.

        Who diverged there has no finite value, and is the worst.
        """
        for rung in rungs:
            values = () if rung.value is None else (rung.value, *rung.further)
            losses = [sign * value for sign, value in zip(self._signs, values, strict=False)]
            losses = [math.inf if math.isnan(loss) else loss for loss in losses]
            self._at[rung.bracket, rung.rung].put(rung.trial_id, losses)

    def promotion(
        self, parked: Callable[[Sequence[int]], Collection[int]], room: float = math.inf
    ) -> tuple[int, int, int] | None:
        """The trial that goes on, the epoch at which it is parked next, and how many epochs that is; None:
        begin a new one, or wait.

        From the highest rung down (of several brackets that of the most epochs comes first) it is the best
        parked one that is among the best 1/`reduction_factor` of all that came to its rung, whatever became
        of them. With 10,000 trials it takes 0.7 ms.

        Args:
            parked: says of trials, by their ids, which ones are.
            room: the most epochs that it may need.
        """
        may: list[tuple[int, int, int]] = []
        for bracket, rung in sorted(self._at, key=self._epoch, reverse=True):
            epoch = self.ladders[bracket].epochs[rung + 1]
            further = epoch - self._epoch((bracket, rung))
            if further <= room:
                best = self._at[bracket, rung].best(self._factor, self._at.get((bracket, rung + 1), ()))
                may += [(trial, epoch, further) for trial in best]
        waiting = parked([trial for trial, _, _ in may]) if may else ()
        return next((one for one in may if one[0] in waiting), None)

    def goes_on(self, rung: Rung, bootstrap: int) -> bool:
        """Whether a run of several directions is among the best 1/`reduction_factor` at a rung it came to, of
        few the best one; where at least `bootstrap` others have come.
        """
        ranked = self._at[rung.bracket, rung.rung]
        assert isinstance(ranked, _Fronts)
        return len(ranked) > bootstrap and ranked.is_among(rung.trial_id, self._factor)

    def _epoch(self, place: tuple[int, int]) -> int:
        return self.ladders[place[0]].epochs[place[1]]


class _Ranked:
    """The runs that came to one rung, the best first; of equal ones the earlier is the better."""

    def __init__(self) -> None:
        self._order: list[tuple[float, int]] = []  # of loss and run
        self._place: dict[int, tuple[float, int]] = {}

    def __contains__(self, run: object) -> bool:
        return run in self._place

    def put(self, run: int, losses: Sequence[float]) -> None:
        """It had this loss there; none: it has not come here."""
        if (old := self._place.pop(run, None)) is not None:
            del self._order[bisect_left(self._order, old)]
        if losses:
            self._place[run] = losses[0], run
            insort(self._order, self._place[run])

    def best(self, factor: int, above: Container[int]) -> list[int]:
        """Of the best `1/factor` of all those that have not come to the rung above, the best first."""
        first = self._order[: len(self._order) // factor]
        return [run for loss, run in first if run not in above and loss < math.inf]


class _Fronts:
    """The runs that came to one rung, by several losses: front by front (Deb et al. 2002), and within one
    those first that have the most room around them, its ends before all.
    """

    def __init__(self) -> None:
        self._losses: dict[int, Sequence[float]] = {}
        self._ranks: dict[int, tuple[int, float]] = {}  # the best first; empty: to be found anew

    def __len__(self) -> int:
        return len(self._losses)

    def __contains__(self, run: object) -> bool:
        return run in self._losses

    def put(self, run: int, losses: Sequence[float]) -> None:
        """It had these losses there; none: it has not come here."""
        self._losses.pop(run, None)
        if losses:
            self._losses[run] = losses
        self._ranks.clear()

    def best(self, factor: int, above: Container[int]) -> list[int]:
        """As of `_Ranked`."""
        first = list(self._ranked())[: len(self) // factor]
        return [run for run in first if run not in above and math.inf not in self._losses[run]]

    def is_among(self, run: int, factor: int) -> bool:
        """Whether it is among the best `1/factor`, or as good as the last of them."""
        ranks = self._ranked()
        return ranks[run] <= list(ranks.values())[max(len(ranks) // factor, 1) - 1]

    def _ranked(self) -> dict[int, tuple[int, float]]:
        if not self._ranks and self._losses:
            runs = sorted(self._losses)
            found = zip(*by_fronts([self._losses[run] for run in runs]), strict=True)
            ranks = dict(zip(runs, found, strict=True))
            self._ranks = {run: ranks[run] for run in sorted(runs, key=lambda one: (ranks[one], one))}
        return self._ranks


def by_fronts(losses: Sequence[Sequence[float]]) -> tuple[list[int], list[float]]:
    """Of each point the number of its front, and its crowding distance with the sign turned, so that of both
    the smaller is the better.
    """
    import numpy as np
    from optuna.study._multi_objective import _fast_non_domination_rank

    points = np.array(losses, dtype=float)
    fronts = _fast_non_domination_rank(points)
    room = np.zeros(len(points))
    for front in range(int(fronts.max()) + 1):
        mine = np.flatnonzero(fronts == front)
        for axis in points[mine].T:
            order = mine[np.argsort(axis, kind="stable")]
            held = np.sort(axis)
            if not 0 < held[-1] - held[0] < np.inf:
                continue
            room[order[1:-1]] += (held[2:] - held[:-2]) / (held[-1] - held[0])
            room[order[[0, -1]]] = np.inf
    return fronts.tolist(), (-room).tolist()
