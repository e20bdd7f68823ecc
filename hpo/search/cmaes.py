"""CMA-ES whose state is rebuilt from the study's trials."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias

import numpy as np
from cmaes import CMA, CMAwM, SepCMA
from optuna import Study
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.samplers import CmaEsSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

Strategy: TypeAlias = "CMA | SepCMA | CMAwM"


class ReplayedCmaEsSampler(CmaEsSampler):
    """Optuna's CMA-ES without its pickled state.

    Optuna keeps the strategy as a pickle in trial attributes, and unpickles it: whoever can write
    to the database could run code in every worker. Here each suggestion starts from the spec and
    tells the strategy all whole generations again, each by the trials that completed first, so
    that a straggler changes nothing that was already learnt. A thousand trials take about 50 ms.
    """

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A point of the current generation; notes the generation with the (stored) trial."""
        self._raise_error_if_multi_objective(study)
        self._replayed_space = search_space
        self._sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
        self._study_direction = study.direction
        return super().sample_relative(study, trial, search_space)

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Strategy:
        generations: dict[int, list[FrozenTrial]] = {}
        for trial in completed_trials:
            generations.setdefault(trial.system_attrs.get(self._attr_key_generation, -1), []).append(trial)
        transform = _SearchSpaceTransform(
            self._replayed_space, transform_step=not self._with_margin, transform_0_1=True
        )
        strategy: Strategy = self._init_optimizer(transform, self._study_direction)
        while len(told := generations.get(strategy.generation, [])) >= strategy.population_size:
            told.sort(key=_completed_first)
            strategy.tell(
                [self._solution(strategy, transform, trial) for trial in told[: strategy.population_size]]
            )
        return strategy

    def _solution(
        self, strategy: Strategy, transform: _SearchSpaceTransform, trial: FrozenTrial
    ) -> tuple[np.ndarray, float]:
        if trial.value is None:
            raise ValueError(f"complete trial {trial.number} has no value")
        if isinstance(strategy, CMAwM):
            point = np.array(trial.system_attrs["x_for_tell"])
        else:
            point = transform.transform(trial.params)
        return point, self._sign * trial.value


def _completed_first(trial: FrozenTrial) -> tuple[bool, datetime, int]:
    """Orders trials by completion; pruned ones that count keep their own completion time."""
    completed = trial.datetime_complete
    return completed is None, completed or datetime.min, trial.number
