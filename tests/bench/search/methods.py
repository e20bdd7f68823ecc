"""The ways to search that are compared: Optuna's, those of hpo, and two that need no library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.search.draws import unit
from hpo.search.promotion import Ladder, Standing
from hpo.search.rungs import first_stop
from hpo.search.samplers import suggest
from hpo.search.space import completed, distribution, random_point
from storage.queue.optuna_rows import DIVERGED
from storage.queue.rungs import Rung
from tests.bench.search.replay import Method, Run, World

FACTOR = 3
Maker = Callable[[World, int], Method]  # of a world and a budget in epochs


class _InStudy:
    """Runs that are trials of an Optuna study in memory, with the point that was recorded."""

    def __init__(self, world: World, sampler: BaseSampler, pruner: BasePruner) -> None:
        self.world = world
        self.task = world.task
        direction = "maximize" if self.task.maximize else "minimize"
        self.study = optuna.create_study(direction=direction, sampler=sampler, pruner=pruner)
        self.space = {name: distribution(one) for name, one in self.task.spec.space.items()}

    def _stored(self, run: Run) -> Any:
        return self.study._storage._get_trial(run.number)  # type: ignore[attr-defined]  # in memory: the trial itself

    def ended(self, run: Run, *, diverged: bool) -> None:
        trial = self._stored(run)
        if diverged:
            trial.system_attrs[DIVERGED] = True
            self.study.tell(run.number, state=TrialState.FAIL)
        else:
            trial.intermediate_values[run.epoch] = run.value
            self.study.tell(run.number, run.value)


class Optunas(_InStudy):
    """A sampler of Optuna beside one of its pruners."""

    def next(self) -> Run:
        trial = self.study.ask()
        asked = self.task.spec

        def choose(name: str, held: Any) -> Any:
            return trial._suggest(name, held)

        run = self.world.run(completed(asked, {}, choose))
        stored = self._stored(run)
        stored.params = dict(self.world.points[run.setting])
        stored.distributions = {name: self.space[name] for name in stored.params}
        return run

    def told(self, run: Run) -> bool:
        trial = optuna.Trial(self.study, run.number)
        trial.report(run.value, run.epoch)
        if not trial.should_prune():
            return True
        self.study.tell(run.number, state=TrialState.PRUNED)
        return False


class Promoting(_InStudy):
    """Runs are parked at each rung, and the best third goes on; a sampler of hpo chooses new ones.

    Args:
        sampler: as a study file names it.
        first: epochs of the first rung.
        factor: one in so many goes on, and has so many times the epochs.
    """

    def __init__(
        self, world: World, sampler: Mapping[str, Any], first: int = 1, factor: int = FACTOR
    ) -> None:
        super().__init__(world, RandomSampler(), NopPruner())
        pruner = {
            "name": "asha",
            "min_epochs": first,
            "max_epochs": self.task.epochs,
            "reduction_factor": factor,
            "mode": "promote",
        }
        self.spec = self.task.study(sampler, pruner)
        self.ladder = Ladder.of(first, self.task.epochs, factor)
        self.standing = Standing([self.ladder], factor, ["maximize" if self.task.maximize else "minimize"])
        self.parked: dict[int, Run] = {}
        self.stop_at: dict[int, int] = {}

    def next(self) -> Run:
        if (found := self.standing.promotion(self._parked)) is not None:
            number, self.stop_at[number], _ = found
            return self.parked.pop(number)
        ticket = self.world.begun
        point = self.propose(create_trial(state=TrialState.RUNNING), ticket)
        run = self.world.run(point)
        recorded = self.world.points[run.setting]
        held = {name: self.space[name] for name in recorded}
        self.study._storage.create_new_trial(
            self.study._study_id, create_trial(state=TrialState.RUNNING, params=recorded, distributions=held)
        )
        self.stop_at[ticket] = first_stop(self.spec.sampler, ticket, self.ladder)
        return run

    def _parked(self, numbers: Sequence[int]) -> list[int]:
        return [number for number in numbers if number in self.parked]

    def propose(self, asking: FrozenTrial, ticket: int) -> dict[str, Any]:
        """The next point."""
        return suggest(self.spec, self.study, asking, ticket, {})

    def told(self, run: Run) -> bool:
        self._stored(run).intermediate_values[run.epoch] = run.value
        came = self.ladder.reached(run.epoch - 1, run.epoch)
        self.standing.learn(Rung(run.number, rung, 0, run.epoch, run.value) for rung in came)
        if run.epoch != self.stop_at[run.number]:
            return True
        self.parked[run.number] = run
        return False


class MoreRandom(Promoting):
    """30 of 30 + n points are random in all parameters, where n runs have come to a rung."""

    def propose(self, asking: FrozenTrial, ticket: int) -> dict[str, Any]:
        trials = self.study.get_trials(deepcopy=False)
        came = sum(bool(trial.intermediate_values) or trial.state.is_finished() for trial in trials)
        if unit(self.world.seed, ticket, "point") < 30 / (30 + came):
            return random_point(self.spec, self.world.seed, ticket)
        return super().propose(asking, ticket)


class OneEpochThenTheBest:
    """Half of the budget for an epoch of many random settings each; then the best of these to their end."""

    def __init__(self, world: World, budget: int) -> None:
        self.world = world
        self.left = budget // 2
        self.waiting: list[Run] = []

    def next(self) -> Run:
        if self.left > 0:
            self.left -= 1
            return self.world.run(random_point(self.world.task.spec, self.world.seed, self.left))
        sign = 1 if self.world.task.maximize else -1
        best = max(self.waiting, key=lambda run: sign * run.value)
        self.waiting.remove(best)
        return best

    def told(self, run: Run) -> bool:
        if run.epoch == 1:
            self.waiting.append(run)
        return run.epoch > 1

    def ended(self, run: Run, *, diverged: bool) -> None:
        pass


OURS = "rungs, promotion"


def _optunas(sampler: Callable[[int], BaseSampler], pruner: Callable[[int], BasePruner]) -> Maker:
    return lambda world, _budget: Optunas(world, sampler(world.seed), pruner(world.task.epochs))


def _promoting(factor: int = FACTOR, **sampler: Any) -> Maker:
    return lambda world, _budget: Promoting(world, {**sampler, "seed": world.seed}, factor=factor)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "TPE": lambda seed: TPESampler(seed=seed),
    "GP": lambda seed: GPSampler(seed=seed),
    "CMA-ES": lambda seed: CmaEsSampler(seed=seed, warn_independent_sampling=False),
}
PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "none": lambda _epochs: NopPruner(),
    "median": lambda _epochs: MedianPruner(),
    "ASHA from 1": lambda _epochs: SuccessiveHalvingPruner(1, FACTOR),
    "ASHA from 3": lambda _epochs: SuccessiveHalvingPruner(3, FACTOR),
    "Hyperband": lambda epochs: HyperbandPruner(1, epochs, FACTOR),
}
METHODS: dict[str, Maker] = {
    **{
        f"Optuna {sampler}, {pruner}": _optunas(SAMPLERS[sampler], PRUNERS[pruner])
        for sampler in SAMPLERS
        for pruner in PRUNERS
    },
    "one epoch, then the best": lambda world, budget: OneEpochThenTheBest(world, budget),
    "random, promotion": _promoting(name="random"),
    "random, promotion, confirmed": _promoting(name="random"),
    OURS: _promoting(name="rungs"),
    f"{OURS}, confirmed": _promoting(name="rungs"),
    "rungs 30 of 30 + n, promotion": lambda world, _budget: MoreRandom(
        world, {"name": "rungs", "seed": world.seed}
    ),
    "halves: random, promotion": _promoting(2, name="random"),
    "halves: rungs, promotion": _promoting(2, name="rungs"),
    "halves: rungs 30 of 30 + n, promotion": lambda world, _budget: MoreRandom(
        world, {"name": "rungs", "seed": world.seed}, factor=2
    ),
}
QUICK = [
    name
    for name in METHODS
    if not name.startswith(("Optuna GP", "Optuna CMA-ES", "halves"))
    and not name.endswith(("median", "Hyperband"))
]
