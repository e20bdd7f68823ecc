"""What samplers are shown of trials whose setting diverged, or failed whenever tried: worse than the worst.

To Optuna they failed, and it learns nothing from a failure: a sampler would go on drawing from the region
that explodes, or is out of memory. So samplers read a study through a view. Pruners mind what diverged alone.

- TPE calls the best tenth of the trials good, infeasible ones last of all: these break a constraint by
  infinity. Where nearly all diverged, one of them would be in the tenth; those that are too many for that
  are shown as running ones, which it takes for bad and does not count.
- GP, CMA-ES and NSGA take complete trials alone, so they are complete here, beyond the worst value of
  each direction, and of each constraint.
- Successive halving finds the worst value at every rung they reached, so what was fine before it exploded
  does not make others look bad. The median of complete trials leaves them out, as it leaves out pruned ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Sequence

from optuna import Study
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.search.constraints import SameConstraints
from hpo.search.view import Passing, changed, through
from hpo.spec import StudySpec
from hpo.spec import sampling as options
from storage.database.records import CONSTRAINT
from storage.queue.optuna_rows import BROKE, DIVERGED

_MARGIN = 0.1  # of the range of values seen: how far beyond the worst, so that a GP keeps its scale
_TENTH = 10  # TPE calls one trial of so many good

Show = Callable[[Sequence[FrozenTrial], Sequence[FrozenTrial]], Iterable[FrozenTrial]]


def is_diverged(trial: FrozenTrial) -> bool:
    """Whether the trial failed because its setting diverged."""
    return trial.state is TrialState.FAIL and DIVERGED in trial.system_attrs


def is_worthless(trial: FrozenTrial) -> bool:
    """Whether the trial failed because of its setting, as far as anybody can tell: worse than any value."""
    marked = DIVERGED in trial.system_attrs or BROKE in trial.system_attrs
    return trial.state is TrialState.FAIL and marked


def for_sampler(study: Study, spec: StudySpec) -> Study:
    """The study as the spec's sampler is to see it."""
    if isinstance(spec.sampler, options.RungsSampler):
        return study  # it looks at diverged trials itself

    def as_worst(diverged: Sequence[FrozenTrial], others: Sequence[FrozenTrial]) -> Iterable[FrozenTrial]:
        if isinstance(spec.sampler, options.TpeSampler):
            return _infeasible(diverged, others)
        pruned_too = isinstance(spec.sampler, options.CmaesSampler) and spec.sampler.consider_pruned_trials
        return _complete(diverged, others, study.directions, pruned_too=pruned_too)

    seen = through(study, _Seen(study._storage, as_worst))
    if isinstance(spec.sampler, options.GpSampler):
        return through(seen, SameConstraints(seen._storage))
    return seen


class _Seen(Passing):
    """A storage that lists diverged trials as `show` says, where trials in `instead_of` are wanted."""

    def __init__(
        self, storage: BaseStorage, show: Show, instead_of: TrialState = TrialState.COMPLETE
    ) -> None:
        super().__init__(storage)
        self._show = show
        self._instead_of = instead_of

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """All trials, by number, the diverged ones as they are to be seen."""
        if states is not None and self._instead_of not in states:
            return self._storage.get_all_trials(study_id, deepcopy=deepcopy, states=states)
        read = states if states is None else [s for s in TrialState if s in states or s is TrialState.FAIL]
        found = self._storage.get_all_trials(study_id, deepcopy=deepcopy, states=read)
        diverged = {trial.number: trial for trial in found if is_worthless(trial)}
        others = [trial for trial in found if trial.number not in diverged] if diverged else found
        wanted = [trial for trial in others if states is None or trial.state in states]
        if not diverged:
            return wanted
        teaching = [trial for trial in diverged.values() if trial.params]  # others say nothing of any
        return sorted([*wanted, *self._show(teaching, others)], key=lambda trial: trial.number)


def _infeasible(diverged: Sequence[FrozenTrial], others: Sequence[FrozenTrial]) -> Iterable[FrozenTrial]:
    """The diverged trials as pruned ones that are the least feasible of all, as many as can be counted."""
    good = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in others)
    too_many = max(0, len(diverged) - (_TENTH - 1) * good)
    for trial in diverged[:too_many]:
        yield changed(trial, state=TrialState.RUNNING)
    for trial in diverged[too_many:]:
        broken = {**trial.system_attrs, CONSTRAINT + DIVERGED: math.inf}
        yield changed(trial, state=TrialState.PRUNED, intermediate_values={}, system_attrs=broken)


def _complete(
    diverged: Sequence[FrozenTrial],
    others: Sequence[FrozenTrial],
    directions: Sequence[StudyDirection],
    *,
    pruned_too: bool,
) -> Iterable[FrozenTrial]:
    """The diverged trials as complete ones, beyond the worst of the others."""
    done = [trial for trial in others if trial.state is TrialState.COMPLETE]
    columns = [[trial.values[i] for trial in done] for i in range(len(directions))]
    if pruned_too:
        pruned = (trial for trial in others if trial.state is TrialState.PRUNED)
        columns[0] += [
            t.intermediate_values[max(t.intermediate_values)] for t in pruned if t.intermediate_values
        ]
    signs = [1.0 if direction is StudyDirection.MINIMIZE else -1.0 for direction in directions]
    values = [sign * _beyond(sign * v for v in column) for sign, column in zip(signs, columns, strict=True)]
    names = {name for trial in (*done, *diverged) for name in trial.constraints}
    broken = {
        CONSTRAINT + name: max(_beyond(t.constraints.get(name, 0.0) for t in done), _MARGIN) for name in names
    }
    for trial in diverged:
        marks = {**trial.system_attrs, **broken}
        yield changed(trial, state=TrialState.COMPLETE, values=values, system_attrs=marks)


def _beyond(losses: Iterable[float]) -> float:
    """A little more than the most of these; 0 where there are none."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return 0.0
    worst = max(finite)
    return worst + _MARGIN * (worst - min(finite) or abs(worst) or 1.0)
