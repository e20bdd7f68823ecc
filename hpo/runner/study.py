"""What an objective sees as `trial.study` and `trial.storage`: a study to read, its own trial to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partialmethod
from typing import Any, NoReturn

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import FrozenTrial

from hpo.runner import messages
from hpo.runner.link import Voice
from hpo.runner.values import check_attribute
from hpo.search.view import StudyView

STUDY_ID = 0  # an objective's storage has one study


class NotAnObjectivesError(BaseException):
    """The objective asked for what is the service's to do. A `BaseException`, so that no loop survives it."""


class PipeStorage(StudyView):
    """A study over its worker's pipe. Its trials are copied when they are first asked for, then kept up."""

    def __init__(
        self, link: Voice, name: str, directions: Sequence[str], own: FrozenTrial, largest: int
    ) -> None:
        self._link = link
        self._largest = largest  # bytes of an attribute
        self._own = own
        self._version = 0
        self._copies: dict[int, FrozenTrial] = {}
        super().__init__(name, STUDY_ID, directions, self._kept_up, self._one)

    def refuse(self, what: str) -> NoReturn:
        raise NotAnObjectivesError(
            f"an objective may not {what}: hpo hands out the trials of a study. What it may do is suggest, "
            "report, log, set attributes, read the study, stop() it and enqueue_trial()"
        )

    def _kept_up(self) -> list[FrozenTrial]:
        self._version, newer = self._link.ask(messages.ReadStudy, self._version)
        for trial in newer:
            self._copies[trial.number] = trial
        self._copies[self._own.number] = self._own
        return [self._copies[number] for number in sorted(self._copies)]

    def _one(self, trial_id: int) -> FrozenTrial:
        if trial_id == self._own._trial_id:
            return self._own
        return next(trial for trial in self._kept_up() if trial._trial_id == trial_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """The study's user attributes as they are now."""
        found: dict[str, Any] = self._link.ask(messages.ReadAttributes, "study user")
        return found

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """The study's system attributes as they are now."""
        found: dict[str, Any] = self._link.ask(messages.ReadAttributes, "study system")
        return found

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Record an attribute of the study."""
        self._post("study user", key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Record an attribute of the study."""
        self._post("study system", key, value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Record an attribute of the running trial."""
        self._demand_own(trial_id)
        self._post("user", key, value)
        self._own.user_attrs = {**self._own.user_attrs, key: value}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Record an attribute of the running trial."""
        self._demand_own(trial_id)
        self._post("system", key, value)
        self._own.system_attrs = {**self._own.system_attrs, key: value}

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Record a parameter of the running trial."""
        self._demand_own(trial_id)
        self._link.post(messages.Parameter, param_name, param_value_internal, json_of(distribution))
        own = self._own
        own.params = {**own.params, param_name: distribution.to_external_repr(param_value_internal)}
        own.distributions = {**own.distributions, param_name: distribution}

    def _post(self, of: str, key: str, value: Any) -> None:
        told = messages.plain(value)
        check_attribute(key, told, self._largest)
        self._link.post(messages.Attribute, of, key, told)

    def _demand_own(self, trial_id: int) -> None:
        if trial_id != self._own._trial_id:
            self.refuse("write to another trial")


class PipeStudy(optuna.Study):
    """The study of the running trial. To read; what would hand out trials is refused."""

    def __init__(self, link: Voice, storage: PipeStorage, name: str) -> None:
        super().__init__(name, storage, _usual_sampler())
        self._link = link

    def stop(self) -> None:
        """End the study as `hpo stop` does: what runs is finished, nothing more starts."""
        self._link.ask(messages.StopStudy)

    def enqueue_trial(
        self,
        params: Mapping[str, Any],
        user_attrs: Mapping[str, Any] | None = None,
        skip_if_exists: bool = False,
    ) -> None:
        """Give a point to the next ticket that has none; `user_attrs` are not kept with it.

        Raises:
            ValueError: the study's budget has no ticket left for it.
        """
        if skip_if_exists and self._should_skip_enqueue(params):
            return
        if self._link.ask(messages.EnqueuePoint, dict(params)) is None:
            raise ValueError(
                f"study {self.study_name} has no ticket left for a further point; `hpo extend` adds some"
            )

    def _refuse(self, what: str, *_: Any, **__: Any) -> NoReturn:
        assert isinstance(self._storage, PipeStorage)
        self._storage.refuse(what)

    # Refused, whatever is asked.
    ask = partialmethod(_refuse, "ask for a trial")
    tell = partialmethod(_refuse, "tell the result of a trial")
    optimize = partialmethod(_refuse, "optimize the study it is part of")
    add_trial = partialmethod(_refuse, "add a trial")


_usual_sampler = cache(optuna.samplers.TPESampler)  # what a study has that is told of none: dear to make


def json_of(distribution: BaseDistribution) -> str:
    """A distribution as JSON, its choices as plain values: NumPy's numbers are choices, too."""
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        given: Any = distribution.choices
        choices = [choice.tolist() if hasattr(choice, "tolist") else choice for choice in given]
        distribution = optuna.distributions.CategoricalDistribution(choices)
    return distribution_to_json(distribution)
