"""What an objective is handed: the surface of a trial that training code may use.

An objective is any callable `objective(trial) -> float` (or a tuple of floats). The service implements
`Trial`; `objectives.standalone.LocalTrial` implements it in memory, so that the same objective runs from a
script, a notebook or a test. Everything of `optuna.Trial` that objectives commonly use is here too, so an
objective written for plain Optuna needs no change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from typing import Any, Protocol, runtime_checkable


class Resting(Protocol):
    """A trial that is pruned, as it stands in this process; nobody changes it any more."""

    @property
    def nbytes(self) -> int:
        """What it takes of the memory, about."""

    def state(self) -> dict[str, Any]:
        """The state as it is saved."""


@runtime_checkable
class Checkpoint(Protocol):
    """The saved state of one trial, newest first. States hold tensors, numbers, strings, lists and dicts."""

    def save(self, state: dict[str, Any], step: int) -> None:
        """Keep `state` as the state after `step` (>= 0). Written aside, then renamed: whole or not at all."""

    def hold(self, resting: Resting, step: int) -> None:
        """Keep the state after `step`, but perhaps in this process alone: elsewhere the trial goes on from
        what was saved."""

    @property
    def held(self) -> Any:
        """What was held after the newest step, in this very process; None where nothing was."""

    def load(self) -> dict[str, Any] | None:
        """Return the newest whole state, or None; a saved one has its tensors on the CPU."""

    @property
    def latest(self) -> int | None:
        """The step of the newest whole state, or None."""

    @property
    def saved(self) -> int | None:
        """The step of the newest that was saved, or None."""


@runtime_checkable
class Trial(Protocol):
    """One parameter setting being evaluated, as its objective sees it."""

    @property
    def number(self) -> int:
        """The trial's number within its study, from 0."""

    @property
    def params(self) -> dict[str, Any]:
        """The values chosen for this trial."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The study's fixed values and this trial's active parameters together."""

    @property
    def device(self) -> str:
        """Where to train: "cpu", "cuda:0", ..."""

    @property
    def seed(self) -> int:
        """Training seed, 0 <= seed < 2**63; the same for every attempt of this trial."""

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1. Above 1 a checkpoint may exist."""

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the loop's state is kept between attempts."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Choose a float, or return the value the trial already has under `name`."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Choose an integer, or return the value the trial already has under `name`."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Choose one of `choices`, or return the value the trial already has under `name`."""

    def report(self, value: float | Sequence[float], step: int) -> None:
        """Report the value after `step`, of several directions all: what pruners and charts read."""

    def should_prune(self) -> bool:
        """Whether the last report says this trial is not worth finishing; then raise optuna.TrialPruned."""

    def log(self, step: int | None = None, **metrics: float) -> None:
        """Record named metrics of `step` (default: the last reported step) beside the reported value."""

    def artifact(self, path: str | PathLike[str], name: str | None = None) -> None:
        """Keep the file at `path` with the trial, under `name` (default: the file's own name)."""

    def check(self) -> None:
        """Call between batches. Raises Interrupted, a BaseException to let pass, if the trial must stop."""

    def set_user_attr(self, key: str, value: Any) -> None:
        """Record a JSON value with the trial."""


class Lanes(Protocol):
    """Trials of one `lane_key` that are trained together, as `objective_many` is handed them.

    What a trial says, and what ends it, goes into `with lanes.only(trial)`: it then ends no other.
    """

    def __len__(self) -> int:
        """How many go on."""

    def __iter__(self) -> Iterator[Any]:
        """Those that go on."""

    def __contains__(self, trial: object) -> bool:
        """Whether it goes on."""

    def joined(self) -> list[Any]:
        """Those that have not begun: at first all, later whoever has taken a place that was free."""

    def only(self, trial: Any) -> AbstractContextManager[None]:
        """What is raised in this block ends this trial alone: TrialPruned, an error, an interruption."""

    def done(self, trial: Any, value: float | tuple[float, ...] | Callable[[], Any]) -> None:
        """The trial's value; or what returns it, to be called in a thread while others are trained."""

    def check(self) -> None:
        """Call between batches. Drops trials that must stop; raises Interrupted when none is left."""
