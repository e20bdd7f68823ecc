"""The samplers that are our own pass the suite that Optuna publishes for samplers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from hpo.search.cmaes import ReplayedCmaEsSampler
from hpo.search.diverged import is_worthless
from hpo.search.rungs import RungsSampler
from hpo.search.samplers import TicketSampler


class TestTicketSampler(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: TicketSampler(0, 0)


class TestRungsSampler(BasicSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: RungsSampler(0, 0, (1, 3, 9), is_worthless)


class TestReplayedCmaEsSampler(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: ReplayedCmaEsSampler(n_startup_trials=0, seed=0, warn_independent_sampling=False)
