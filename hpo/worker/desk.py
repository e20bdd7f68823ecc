"""A runner's place at the broker: the pipe to it, and the attempt it holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hpo.errors import HpoError, first_line
from hpo.runner import messages
from hpo.runner.channel import ChannelError, Mailbox
from hpo.worker.code import CodeGuard
from hpo.worker.study import ServedStudy
from storage.database.errors import StorageError
from storage.database.records import Claim, Lease
from storage.queue.optuna_rows import Trial

_KINDS = {kind.__name__: kind for kind in (messages.Ready, messages.Joined, messages.Broken, *messages.KINDS)}


@dataclass(eq=False)
class Held:
    """An attempt that a runner holds. `serial` names it on the pipe; its lease is never read from there."""

    desk: Desk
    claim: Claim
    serial: int
    trial: Trial | None = None  # None until the trial is in the database, or taken over
    is_over: bool = False  # it has ended
    lost: str | None = None  # why it may write no more, until its runner has noticed
    error: Exception | None = None  # a value of it that the database did not take
    relative: list[Any] = field(default_factory=list)  # what the sampler has chosen together: space, values
    verdicts: dict[int, bool] = field(default_factory=dict)  # of a pruner with rungs, by step, until asked
    steps: set[int] = field(default_factory=set)  # reported, where trials are promoted
    is_stopped: bool = False  # told to prune: with promotion, that is to stop at a rung

    @property
    def lease(self) -> Lease:
        """The right to write."""
        return self.claim.lease

    @property
    def stored(self) -> Trial:
        """Its trial, which is in the database."""
        assert self.trial is not None
        return self.trial


@dataclass(eq=False)
class Desk:
    """One runner, or one lane of it, as the broker sees it. Only the broker's clerk changes `held`."""

    runner: int
    mailbox: Mailbox
    study: ServedStudy
    device: str  # as people see it
    slot: int = 0  # the runner's place for the attempt, its lane
    runners: int = 1  # of the worker
    guard: CodeGuard | None = None  # once the runner has said what code it has
    held: Held | None = None
    is_left: bool = False  # the runner is gone
    serials: int = 0  # of its attempts so far

    def tell(self, message: messages.ToRunner) -> None:
        """Send a message; a runner that is gone does not hear it."""
        self.mailbox.send(messages.to_runner(message, self.slot))

    def answer(self, message: messages.Numbered, value: Any) -> None:
        """Answer what the runner asked; an error is raised there."""
        self.tell(messages.Answer(message.number, _sendable(value)))

    def refuse(self, message: messages.Numbered, error: Exception) -> None:
        """Say that something is not written: to the question, or at the attempt's next word."""
        if isinstance(message, messages.QUESTIONS):
            self.answer(message, error)
        else:
            self.tell(messages.Refused(message.serial, _sendable(error)))

    def hold(self, claim: Claim) -> Held:
        """The runner holds this claim now."""
        self.serials += 1
        self.held = Held(self, claim, self.serials)
        return self.held


def read(content: bytes) -> tuple[int, messages.ToWorker]:
    """What a runner said, and of which lane, checked: it runs a stranger's code.

    Raises:
        ChannelError: it is no message of a runner's.
    """
    try:
        name, fields, slot = json.loads(content)
        message: messages.ToWorker = _reader(name)(fields)
        if type(slot) is not int or slot < 0:
            raise ValueError(f"{slot} is no lane")
    except (ValueError, TypeError, KeyError, RecursionError) as error:  # pydantic's error is a ValueError
        raise ChannelError(f"what it says is no message: {first_line(error)}") from error
    return slot, message


@cache
def _reader(name: str) -> Callable[[Any], Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(_KINDS[name]).validate_python


def _sendable(value: Any) -> Any:
    """The value as it is; an error that only this process may know, or can make, as one that all do."""
    if not isinstance(value, Exception) or isinstance(value, StorageError | HpoError):
        return value
    if type(value) in (ValueError, TypeError):
        return value
    kind = next((kind for kind in (ValueError, TypeError) if isinstance(value, kind)), RuntimeError)
    return kind(f"{type(value).__name__}: {value}")
