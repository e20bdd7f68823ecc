"""A study's own sampler and pruner, as its worker asks them: a stranger's code, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from hpo.errors import AdviceError
from hpo.runner.adviser import Engaged, Question
from hpo.runner.channel import ChannelError, Mailbox
from hpo.runner.processes import signal_name
from hpo.search.draws import sampler_seed
from hpo.spec import StudySpec
from hpo.worker.leftovers import end_leftovers
from hpo.worker.nursery import Newborn, start

PATIENCE = 60.0  # seconds for an answer
FIRST = 120.0  # seconds for the first, which imports their code

News = Callable[[int], tuple[int, Sequence[FrozenTrial]]]  # version -> the one now, and what came since


@dataclass(eq=False)
class Advice:
    """Asks the adviser of one study, from one thread; its process is started with the first question."""

    spec: StudySpec
    study_id: int  # Optuna's
    code: str  # directory that their paths are relative to
    news: News
    worker_id: str  # marks its process, which ends with the worker
    _made: Newborn | None = None
    _mailbox: Mailbox | None = None
    _version: int = 0
    _patience: float = FIRST

    def sampler(self, ticket: int) -> BaseSampler:
        """The study's sampler, for one ticket."""
        return _Advised(self, ticket)

    def prune(self, study: Study, trial: FrozenTrial, ticket: int) -> bool:
        """What the study's pruner says.

        Raises:
            AdviceError: nothing that can be used.
        """
        said = self.ask("prune", study, trial, ticket)
        if not isinstance(said, bool):
            raise AdviceError(f"the study's own pruner said {said!r:.80}, which is neither true nor false")
        return said

    def ask(
        self,
        what: Any,
        study: Study,
        trial: FrozenTrial,
        ticket: int,
        name: str = "",
        distribution: BaseDistribution | None = None,
    ) -> Any:
        """The adviser's answer; what it noted is written through `study`.

        Raises:
            AdviceError: it failed, hangs or says nonsense; its process is ended then.
        """
        mailbox = self._mailbox or self._start(ticket)
        self._version, news = self.news(self._version)
        attributes = study._storage.get_study_system_attrs(study._study_id)
        mailbox.send(pickle.dumps(Question(what, trial, news, attributes, name, distribution)))
        try:
            answer = self._answer(mailbox)
            if "error" in answer:
                raise AdviceError(f"the study's own sampler or pruner failed:\n{answer['error']}")
            for of, key, value in answer["notes"]:
                if of == "system":
                    study._storage.set_trial_system_attr(trial._trial_id, str(key), value)
                else:
                    study._storage.set_study_system_attr(study._study_id, str(key), value)
            return answer["value"]
        except (KeyError, TypeError, ValueError, ChannelError) as error:
            self.close()
            raise AdviceError(f"the study's own sampler or pruner answers nonsense: {error}") from error
        except AdviceError:
            self.close()
            raise

    def close(self) -> None:
        """End its process, and what that has started."""
        made, self._made = self._made, None
        mailbox, self._mailbox = self._mailbox, None
        if made is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(made.process.pid, signal.SIGKILL)
            made.process.wait()
            end_leftovers(made.mark)
        if mailbox is not None:
            mailbox.close()

    def _start(self, ticket: int) -> Mailbox:
        self._made = made = start("hpo.runner.adviser", self.worker_id)
        self._mailbox = mailbox = Mailbox(made.pipe)
        self._version, self._patience = 0, FIRST
        seed = sampler_seed(self.spec.sampler.seed, ticket)  # no two workers' samplers draw alike
        mailbox.send(pickle.dumps(Engaged(self.spec, self.study_id, self.code, seed)))
        return mailbox

    def _answer(self, mailbox: Mailbox) -> dict[str, Any]:
        until = time.monotonic() + self._patience
        while (left := until - time.monotonic()) > 0:
            ready = select.select([mailbox], [mailbox] if mailbox.is_full else [], [], left)
            if ready[1]:
                mailbox.flush()
            try:
                found = mailbox.receive() if ready[0] else []
            except EOFError:
                raise AdviceError(
                    f"the process of the study's own sampler or pruner ended {self._how()}; it says why above"
                ) from None
            if found:
                self._patience = PATIENCE
                answer: dict[str, Any] = json.loads(found[0])
                return answer
        raise AdviceError(
            f"the study's own sampler or pruner has not answered within {self._patience:g} s and was ended"
        )

    def _how(self) -> str:
        status = None if self._made is None else self._made.process.wait()
        if status is not None and status < 0:
            return f"by {signal_name(-status)}"
        return f"with status {status}"


class _Advised(BaseSampler):
    """The study's own sampler, in its process."""

    def __init__(self, advice: Advice, ticket: int) -> None:
        self._advice = advice
        self._ticket = ticket
        self._chosen: dict[str, Any] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What it chooses together; chosen in the same question."""
        said = self._advice.ask("relative", study, trial, self._ticket)
        space: dict[str, BaseDistribution] = {}
        try:
            for name, (distribution_json, _) in said.items():
                space[name] = json_to_distribution(distribution_json)
            self._chosen = {name: _checked(name, space[name], stored) for name, (_, stored) in said.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise AdviceError(f"the study's own sampler answers nonsense: {error}") from error
        return space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What it has chosen together."""
        return self._chosen

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """What it chooses alone."""
        said = self._advice.ask("independent", study, trial, self._ticket, param_name, param_distribution)
        try:
            _, stored = said
        except (TypeError, ValueError) as error:
            raise AdviceError(f"the study's own sampler answers nonsense: {error}") from error
        return _checked(param_name, param_distribution, stored)


def _checked(name: str, distribution: BaseDistribution, stored: Any) -> Any:
    """The value that is stored so.

    Raises:
        AdviceError: it lies outside of the parameter's range.
    """
    if not isinstance(stored, int | float) or not distribution._contains(float(stored)):
        raise AdviceError(
            f"the study's own sampler chose {stored!r:.40} for {name}, which is not of {distribution}"
        )
    return distribution.to_external_repr(float(stored))
