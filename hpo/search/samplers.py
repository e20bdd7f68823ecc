"""From a ticket to its point: every active parameter, seeded by (study seed, ticket index)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, TPESampler, nsgaii
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import SpecError
from hpo.search.diverged import for_sampler, is_worthless
from hpo.search.draws import from_unit, sampler_seed, unit
from hpo.search.prior import WithPrior, shifted
from hpo.search.qmc import qmc_point
from hpo.search.rungs import RungsSampler, epochs_of
from hpo.search.space import completed
from hpo.search.untried import drawn, untried
from hpo.search.view import Passing, changed, through
from hpo.spec import StudySpec
from hpo.spec import sampling as options
from hpo.spec.points import missing_names
from hpo.spec.problems import listed

UNSTORED = -1  # trial id and number of a trial that no storage holds yet


def suggest(
    spec: StudySpec,
    study: Study,
    trial: FrozenTrial,
    ticket: int,
    fixed: Mapping[str, Any],
    prior: Sequence[FrozenTrial] = (),
    sampler: BaseSampler | None = None,
) -> dict[str, Any]:
    """All active declared parameters of one ticket.

    Args:
        spec: The study's spec.
        study: Read for the history; grid, random and qmc never touch it.
        trial: The trial that asks. It need not be stored (trial id -1) unless
            `needs_stored_trial`; it is not changed.
        ticket: Index of the ticket in its study, from 0.
        fixed: A grid cell or an enqueued point, maybe partial: its values are taken as they are.
        prior: Complete and diverged trials of another study that the sampler sees before this one's.
        sampler: The study's own, where it has one.

    Returns:
        Values by name, parents before children; labels of categorical parameters. Values of
        `fixed` for names that are inactive or not declared are left out (an undeclared one is for
        the objective's own `suggest_*` call).

    Raises:
        SpecError: when a grid's ticket lacks a value.
    """
    match spec.sampler:
        case options.GridSampler():
            if missing := missing_names(spec.space, fixed):
                raise SpecError(f"ticket {ticket} of the grid lacks values for {listed(missing)}")
            return completed(spec, fixed, _no_choice)
        case options.RandomSampler() | options.QmcSampler():
            return _drawn(spec, ticket, fixed) if fixed else drawn(spec, partial(_drawn, spec), ticket)
        case _:
            point = _asked(spec, study, trial, fixed, prior, sampler or make_sampler(spec, ticket))
            if fixed:
                return point
            others = (one for one in study.get_trials(deepcopy=False) if one._trial_id != trial._trial_id)
            return untried(spec, point, ticket, [one.params for one in others])


def _drawn(spec: StudySpec, ticket: int, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """A ticket's point that no other one has part in."""
    shares = qmc_point(spec, ticket) if isinstance(spec.sampler, options.QmcSampler) else None

    def choose(name: str, held: BaseDistribution) -> Any:
        return from_unit(held, unit(spec.sampler.seed, ticket, name) if shares is None else shares[name])

    return completed(spec, fixed, choose)


def make_sampler(spec: StudySpec, ticket: int) -> BaseSampler:
    """An Optuna sampler for one ticket, seeded from (study seed, ticket index).

    It also serves the `suggest_*` calls of names that the space does not declare; for grid, random
    and qmc those are random draws from (study seed, ticket, name).
    """
    with warnings.catch_warnings():  # the spec's author has read which options are experimental
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _made(spec, ticket)


def _made(spec: StudySpec, ticket: int) -> BaseSampler:
    sampler = spec.sampler
    seed = sampler_seed(sampler.seed, ticket)
    match sampler:
        case options.TpeSampler():
            return RatedTpe(seed=seed, **options.told(sampler))
        case options.RungsSampler():
            return RungsSampler(sampler.seed, ticket, epochs_of(spec.pruner), worthless=is_worthless)
        case options.GpSampler():
            return GPSampler(seed=seed, warn_independent_sampling=False, **options.told(sampler))
        case options.CmaesSampler():
            from hpo.search.cmaes import ReplayedCmaEsSampler  # scipy.stats: over a second

            return ReplayedCmaEsSampler(seed=seed, warn_independent_sampling=False, **options.told(sampler))
        case options.Nsga2Sampler():
            return NSGAIISampler(seed=seed, **_genetic(sampler))
        case options.Nsga3Sampler():
            return NSGAIIISampler(seed=seed, **_genetic(sampler))
        case _:
            return TicketSampler(sampler.seed, ticket)


def needs_stored_trial(spec: StudySpec) -> bool:
    """Whether the sampler writes to the trial while it samples, so that the trial must be stored first.

    CMA-ES and the genetic ones keep a trial's generation with it, a study's own may do what it likes. TPE
    and GP write too, but only to tell other processes about parameters that are not stored yet, and ours
    are stored all at once.
    """
    return spec.sampler.name in ("cmaes", "nsga2", "nsga3", "custom")


class RatedTpe(TPESampler):
    """Optuna's, which remembers how it rated the point it chose, and the runner-up.

    A rating says how many times as likely a point is among the good trials as among the others.
    """

    rated: Mapping[str, Any] = {}  # "rating", "runner_up" (a point), "its_rating"; {}: not chosen together

    def _compute_acquisition_func(self, samples: Any, *mixtures: Any) -> Any:
        found = super()._compute_acquisition_func(samples, *mixtures)
        if len(samples) > 1 and len(found) > 1:
            first, second = np.argsort(-found, kind="stable")[:2]
            point = {name: float(drawn[second]) for name, drawn in samples.items()}
            self.rated = {
                "rating": float(np.exp(min(found[first], 99))),
                "runner_up": point,
                "its_rating": float(np.exp(min(found[second], 99))),
            }
        return found

    def _sample(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Any:
        chosen = super()._sample(study, trial, search_space)
        if self.rated and len(search_space) > 1:
            point = {n: search_space[n].to_external_repr(v) for n, v in self.rated["runner_up"].items()}
            self.rated = {**self.rated, "runner_up": point}
        return chosen


class TicketSampler(BaseSampler):
    """Random draws that depend on (study seed, ticket, parameter name) only."""

    def __init__(self, seed: int, ticket: int) -> None:
        self._seed = seed
        self._ticket = ticket

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing: every parameter is drawn by itself."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing: every parameter is drawn by itself."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The ticket's value for `param_name`."""
        return from_unit(param_distribution, unit(self._seed, self._ticket, param_name))


def _asked(
    spec: StudySpec,
    study: Study,
    trial: FrozenTrial,
    fixed: Mapping[str, Any],
    prior: Sequence[FrozenTrial],
    sampler: BaseSampler,
) -> dict[str, Any]:
    """The point an Optuna sampler chooses, by the steps that `optuna.Trial` takes.

    With Hyperband, `optuna.Trial` hands samplers a view of the trial's own bracket. It is left out
    here: samplers read past it (`_get_trials`), and learn from all brackets either way.
    """
    if prior:
        study = through(study, WithPrior(study._storage, prior))
        trial = shifted(trial, prior)
    study = for_sampler(through(study, study._storage), spec)
    if not needs_stored_trial(spec):
        study = through(study, _ReadOnly(study._storage))
        # Unstored, a provisional number may meanwhile be another trial's.
        number = UNSTORED if trial._trial_id < 0 else trial.number
        trial = changed(trial, number=number, state=TrialState.RUNNING)
    sampler.before_trial(study, trial)
    relative: tuple[dict[str, BaseDistribution], dict[str, Any]] | None = None

    def choose(name: str, dist: BaseDistribution) -> Any:
        nonlocal relative
        if relative is None:  # late, as Optuna does: a point that is fixed altogether asks nobody
            space = sampler.infer_relative_search_space(study, trial)
            relative = space, sampler.sample_relative(study, trial, space)
        space, values = relative
        if name in values and space[name] == dist:
            return values[name]
        return sampler.sample_independent(study, trial, name, dist)

    def single_or_chosen(name: str, dist: BaseDistribution) -> Any:
        return from_unit(dist, 0.0) if dist.single() else choose(name, dist)

    return completed(spec, fixed, single_or_chosen)


class _ReadOnly(Passing):
    """A storage that forgets what samplers note on a trial."""

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Forget it."""


def _genetic(sampler: options.Nsga2Sampler | options.Nsga3Sampler) -> dict[str, Any]:
    mutation = nsgaii.PolynomialMutation() if sampler.mutation == "polynomial" else None
    return options.told(sampler) | {"crossover": _crossover(sampler), "mutation": mutation}


def _crossover(sampler: options.Nsga2Sampler | options.Nsga3Sampler) -> nsgaii.BaseCrossover:
    match sampler.crossover:
        case "blxalpha":
            return nsgaii.BLXAlphaCrossover()
        case "spx":
            return nsgaii.SPXCrossover()
        case "sbx":
            return nsgaii.SBXCrossover()
        case "vsbx":
            return nsgaii.VSBXCrossover()
        case "undx":
            return nsgaii.UNDXCrossover()
        case "uniform":
            return nsgaii.UniformCrossover(sampler.swapping_prob)


def _no_choice(name: str, dist: BaseDistribution) -> Any:
    raise SpecError(f"a grid's point lacks a value for {name}")
