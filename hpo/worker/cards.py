"""Which runner may start on a card that several share, when a trial needs the card to itself.

A trial that ran out of memory beside others is tried again alone. Then one place on its card is chosen to
run it; the others' runners end their trials, leave, and with them the memory they hold; none comes back
before nothing waits for the card any more.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from hpo.worker.devices import Share
from hpo.worker.turns import Assignment


class Access(Enum):
    """What a free place on a card may do."""

    START = auto()  # as usual
    ALONE = auto()  # run the trial that waits for the card; nobody else is on it
    WAIT = auto()  # chosen for that trial, but others have not left yet
    LEAVE = auto()  # let another place have the card


@dataclass
class _Card:
    places: list[int] = field(default_factory=list)
    wanted: dict[str, Assignment] = field(default_factory=dict)  # studies with a trial that waits, by uid
    chosen: int | None = None


class Cards:
    """The cards of one worker; its places are known by their runners' indices."""

    def __init__(self, shares: Sequence[Share]) -> None:
        cards: dict[str, _Card] = {}
        for runner, share in enumerate(shares):
            cards.setdefault(share.shown, _Card()).places.append(runner)
        self._of = [cards[share.shown] for share in shares]

    def is_shared(self, runner: int) -> bool:
        """Whether other runners of this worker use the card too."""
        return len(self._of[runner].places) > 1

    def want(self, runner: int, assignment: Assignment) -> None:
        """A trial of this study waits to have the runner's card to itself."""
        self._of[runner].wanted[assignment.uid] = assignment

    def wanted(self, runner: int) -> Assignment:
        """The study whose trial has the card next; only where access is ALONE."""
        return next(iter(self._of[runner].wanted.values()))

    def none_waits(self, runner: int, assignment: Assignment) -> None:
        """No trial of this study waits for a card any more; somebody else may have had it."""
        card = self._of[runner]
        card.wanted.pop(assignment.uid, None)
        if not card.wanted:
            card.chosen = None

    def forget(self, assignment: Assignment) -> None:
        """This worker leaves the study to others."""
        for runner in range(len(self._of)):
            self.none_waits(runner, assignment)

    def access(self, runner: int, living: Container[int]) -> Access:
        """What this free place may do, given the runners whose processes live."""
        card = self._of[runner]
        if not card.wanted:
            return Access.START
        if card.chosen is None:
            card.chosen = runner
        if card.chosen != runner:
            return Access.LEAVE
        others = any(place in living for place in card.places if place != runner)
        return Access.WAIT if others else Access.ALONE
