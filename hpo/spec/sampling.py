"""Samplers and pruners as a study file names them, with the options each one has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from hpo.spec.fields import Flag, Number, Section, Whole, above, at_least, at_most
from hpo.spec.objective import check_factory
from hpo.spec.problems import problem

MAX_SEED = 2**53
MAX_COUNT = 1_000_000
Count = Annotated[Whole, at_least(0), at_most(MAX_COUNT)]
CountFromOne = Annotated[Whole, at_least(1), at_most(MAX_COUNT)]
Probability = Annotated[Number, at_least(0), at_most(1)]


class _Sampler(Section):
    seed: Annotated[Whole, at_least(0), at_most(MAX_SEED)] = Field(
        0, description="Where every random number of the study comes from, training seeds included."
    )


class AutoSampler(_Sampler):
    """Chosen when the study is created, by what is known of its trials; a file that names none says this."""

    name: Literal["auto"] = Field(description="Which sampler.")


class GridSampler(_Sampler):
    """Every distinct active combination once, in the order of the file, the last parameter fastest."""

    name: Literal["grid"] = Field(description="Which sampler.")


class RandomSampler(_Sampler):
    """Independent draws from (seed, ticket, parameter name), whoever runs the trial."""

    name: Literal["random"] = Field(description="Which sampler.")


class TpeSampler(_Sampler):
    """Tree-structured Parzen estimator (Bergstra et al. 2011; Optuna's TPESampler)."""

    name: Literal["tpe"] = Field(description="Which sampler.")
    n_startup_trials: Count = Field(10, description="Random trials before the estimator is used.")
    n_ei_candidates: CountFromOne = Field(24, description="Candidates drawn for each suggestion.")
    multivariate: Flag | None = Field(
        None, description="Model parameters jointly; null: yes for one direction, no for several."
    )
    group: Flag = Field(False, description="Model each group of conditional parameters jointly.")
    constant_liar: Flag = Field(True, description="Keep away from the points of running trials.")

    @model_validator(mode="after")
    def _group_is_joint(self) -> Self:
        if self.group and self.multivariate is False:
            raise problem("needs `multivariate`; drop `multivariate: false`", "group")
        return self


class RungsSampler(_Sampler):
    """TPE over what trials had at all rungs, in ranks, also those that are not complete. One direction."""

    name: Literal["rungs"] = Field(description="Which sampler.")
    warm: Count = Field(
        18,
        description="Trials that are parked at the first rung; later ones go on to the second, whose values"
        " say more. Without `mode: promote` of the pruner it has no meaning.",
    )


class GpSampler(_Sampler):
    """Gaussian process with expected improvement (Optuna's GPSampler)."""

    name: Literal["gp"] = Field(description="Which sampler.")
    n_startup_trials: Count = Field(10, description="Random trials before the process is fitted.")
    deterministic_objective: Flag = Field(False, description="The objective's value carries no noise.")


class CmaesSampler(_Sampler):
    """Covariance matrix adaptation (Hansen 2016; Optuna's CmaEsSampler). One direction, numbers only:
    categorical and conditional parameters are drawn at random."""

    name: Literal["cmaes"] = Field(description="Which sampler.")
    n_startup_trials: Count = Field(1, description="Random trials before the strategy starts.")
    popsize: Annotated[Whole, at_least(3), at_most(MAX_COUNT)] | None = Field(
        None, description="Trials of a generation; null: 4 + floor(3 ln(number of parameters))."
    )
    consider_pruned_trials: Flag = Field(False, description="Learn from pruned trials' last report.")
    use_separable_cma: Flag = Field(False, description="Diagonal covariance, for many parameters.")
    with_margin: Flag = Field(False, description="Keep discrete parameters moving (CMA-ES with margin).")
    lr_adapt: Flag = Field(False, description="Adapt the learning rate to noisy, multimodal objectives.")

    @model_validator(mode="after")
    def _one_variant(self) -> Self:
        chosen = [name for name in ("use_separable_cma", "with_margin", "lr_adapt") if getattr(self, name)]
        if len(chosen) > 1:
            raise problem(f"cannot be combined with {chosen[0]}; choose one", chosen[1])
        return self


class QmcSampler(_Sampler):
    """Low-discrepancy sequence; the ticket's index says which of its points."""

    name: Literal["qmc"] = Field(description="Which sampler.")
    qmc_type: Literal["sobol", "halton"] = Field("sobol", description="Which sequence.")
    scramble: Flag = Field(
        True, description="Randomise the sequence by the seed; off, it starts in the corner of all lows."
    )


class _Genetic(_Sampler):
    population_size: Annotated[Whole, at_least(2), at_most(MAX_COUNT)] = Field(
        50, description="Trials of a generation."
    )
    crossover: Literal["uniform", "blxalpha", "spx", "sbx", "vsbx", "undx"] = Field(
        "uniform", description="How parents' numbers are mixed."
    )
    crossover_prob: Probability = Field(0.9, description="Probability that a child has two parents.")
    swapping_prob: Probability = Field(0.5, description="Probability of swapping each parameter.")
    mutation: Literal["polynomial"] | None = Field(None, description="How numbers mutate; null: drawn anew.")
    mutation_prob: Probability | None = Field(
        None, description="Probability of mutating each parameter; null: 1 / number of parameters."
    )

    @model_validator(mode="after")
    def _enough_parents(self) -> Self:
        parents = 3 if self.crossover in ("spx", "undx") else 2
        if self.population_size < parents:
            raise problem(f"must be at least {parents} for {self.crossover}", "population_size")
        return self


class Nsga2Sampler(_Genetic):
    """Genetic algorithm for several directions (Deb et al. 2002; Optuna's NSGAIISampler)."""

    name: Literal["nsga2"] = Field(description="Which sampler.")


class Nsga3Sampler(_Genetic):
    """Genetic algorithm for more than three directions (Deb and Jain 2014; Optuna's NSGAIIISampler)."""

    name: Literal["nsga3"] = Field(description="Which sampler.")
    dividing_parameter: CountFromOne = Field(
        3, description="Parts into which each direction is divided: how dense the front becomes."
    )


class CustomSampler(_Sampler):
    """A sampler of one's own, any optuna.samplers.BaseSampler. It runs in a process without the database."""

    name: Literal["custom"] = Field(description="Which sampler.")
    factory: Annotated[str, BeforeValidator(check_factory)] = Field(
        description="module[:callable] or path/to/file.py:callable, relative to the study file, that makes it"
        " of a seed; `make` is the callable where none is named."
    )


class AutoPruner(Section):
    """Chosen with the sampler when the study is created; a file that names neither says this."""

    name: Literal["auto"] = Field(description="Which pruner.")


class NoPruner(Section):
    """Every trial runs to its end."""

    name: Literal["none"] = Field(description="Which pruner.")


class _AgainstOthers(Section):
    n_startup_trials: Count = Field(5, description="Complete trials before anything is pruned.")
    n_warmup_steps: Count = Field(0, description="Steps (epochs) of a trial before it may be pruned.")
    interval_steps: CountFromOne = Field(1, description="Steps (epochs) between two checks.")
    n_min_trials: CountFromOne = Field(1, description="Trials that must have reported the same step.")


class MedianPruner(_AgainstOthers):
    """Prunes a trial whose best value is worse than the median of the others at that step."""

    name: Literal["median"] = Field(description="Which pruner.")


class PercentilePruner(_AgainstOthers):
    """Keeps the best `percentile` per cent at each step."""

    name: Literal["percentile"] = Field(description="Which pruner.")
    percentile: Annotated[Number, above(0), at_most(100)] = Field(
        description="Share of trials to keep, in per cent: 25 keeps the best quarter."
    )


class _Halving(Section):
    min_epochs: CountFromOne = Field(1, description="Epochs before the first comparison (first rung).")
    max_epochs: CountFromOne = Field(
        description="Epochs of a full trial: a trial that reached them is complete, never pruned."
    )
    reduction_factor: Annotated[Whole, at_least(2), at_most(1000)] = Field(
        3, description="One in so many trials goes on at each rung; rungs lie this factor apart."
    )
    bootstrap_count: Count = Field(0, description="Trials a rung must have seen before any goes on.")
    mode: Literal["stop", "promote"] = Field(
        "stop",
        description="What becomes of a trial at a rung. stop: it goes on if it is among the best so far, or"
        " is pruned for good. promote: it is parked with its checkpoint, and goes on once it is among the"
        " best of all that have come there.",
    )

    @model_validator(mode="after")
    def _room_to_prune(self) -> Self:
        if self.min_epochs >= self.max_epochs:
            raise problem(
                f"must be below max_epochs ({self.max_epochs}), got {self.min_epochs}", "min_epochs"
            )
        if self.mode == "promote" and self.bootstrap_count:
            raise problem("has no meaning with `mode: promote`; leave it out", "bootstrap_count")
        return self


class AshaPruner(_Halving):
    """Asynchronous successive halving (Li et al. 2020); unless its mode is promote, in Optuna's form, which
    never goes on with what it has left."""

    name: Literal["asha"] = Field(description="Which pruner.")
    min_early_stopping_rate: Annotated[Whole, at_least(0), at_most(20)] = Field(
        0, description="Rungs to skip at the start."
    )


class HyperbandPruner(_Halving):
    """Several successive halvings with different first rungs (Li et al. 2018)."""

    name: Literal["hyperband"] = Field(description="Which pruner.")


class ThresholdPruner(Section):
    """Prunes a trial whose reported value leaves the bounds."""

    name: Literal["threshold"] = Field(description="Which pruner.")
    lower: Number | None = Field(None, description="Smallest acceptable value, in the objective's unit.")
    upper: Number | None = Field(None, description="Largest acceptable value, in the objective's unit.")
    n_warmup_steps: Count = Field(0, description="Steps (epochs) of a trial before it may be pruned.")
    interval_steps: CountFromOne = Field(1, description="Steps (epochs) between two checks.")

    @model_validator(mode="after")
    def _some_bound(self) -> Self:
        if self.lower is None and self.upper is None:
            raise problem("needs `lower`, `upper` or both")
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise problem(f"must be below upper ({self.upper}), got {self.lower}", "lower")
        return self


class WilcoxonPruner(Section):
    """Prunes a trial whose values are worse than the best trial's at the same steps (folds, instances) by
    Wilcoxon's signed-rank test. The objective returns their mean; trials may take the steps in any order."""

    name: Literal["wilcoxon"] = Field(description="Which pruner.")
    p_threshold: Probability = Field(0.1, description="Prune below this p-value; higher prunes more.")
    n_startup_steps: Count = Field(2, description="Steps in common with the best before any pruning.")


class CustomPruner(Section):
    """A pruner of one's own, any optuna.pruners.BasePruner. It runs in a process without the database."""

    name: Literal["custom"] = Field(description="Which pruner.")
    factory: Annotated[str, BeforeValidator(check_factory)] = Field(
        description="module[:callable] or path/to/file.py:callable, relative to the study file, that makes it"
        " without arguments; `make` is the callable where none is named."
    )


def named(value: Any) -> Any:
    """A bare name (`sampler: tpe`) as the mapping it stands for."""
    return {"name": value} if isinstance(value, str) else value


def _wrapped(value: Any) -> Any:
    value = named(value)
    if isinstance(value, Mapping) and value.get("name") == "patient":
        raise problem("must not be another patient pruner")
    if isinstance(value, Mapping) and value.get("mode") == "promote":
        raise problem("cannot be promote here: a parked trial has no patience; use stop", "mode")
    return value


Wrapped = Annotated[
    MedianPruner | PercentilePruner | AshaPruner | HyperbandPruner | ThresholdPruner | WilcoxonPruner,
    Field(discriminator="name"),
]


class PatientPruner(Section):
    """Lets another pruner decide only after `patience` steps without improvement."""

    name: Literal["patient"] = Field(description="Which pruner.")
    patience: Count = Field(description="Steps (epochs) without improvement before pruning.")
    min_delta: Annotated[Number, at_least(0)] = Field(
        0.0, description="What counts as an improvement, in the objective's unit."
    )
    wrapped: Annotated[Wrapped, BeforeValidator(_wrapped)] | None = Field(
        None, description="The pruner that decides then; absent: prune at once."
    )


AnySampler = (
    GridSampler
    | RandomSampler
    | TpeSampler
    | RungsSampler
    | GpSampler
    | CmaesSampler
    | QmcSampler
    | Nsga2Sampler
    | Nsga3Sampler
    | CustomSampler
    | AutoSampler
)
AnyPruner = (
    NoPruner
    | MedianPruner
    | PercentilePruner
    | AshaPruner
    | HyperbandPruner
    | PatientPruner
    | ThresholdPruner
    | WilcoxonPruner
    | CustomPruner
    | AutoPruner
)
SamplerSpec = Annotated[AnySampler, Field(discriminator="name")]
PrunerSpec = Annotated[AnyPruner, Field(discriminator="name")]


def told(chosen: AnySampler | AnyPruner) -> dict[str, Any]:
    """The options of a sampler or pruner, which are called as Optuna calls them."""
    return {name: value for name, value in chosen if name not in ("name", "seed")}
