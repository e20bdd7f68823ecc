"""Which objectives a worker's runners could import and begin with: the first one imports alone, and who fails
later is missed.
"""

from __future__ import annotations

from collections import Counter

_TRIES = 3  # imports of one runner that fail where another's did not; or deaths before a trial, in a row


class Imports:
    """By study (its uid) and runner (its index, below `runners`)."""

    def __init__(self, runners: int) -> None:
        self._runners = range(runners)
        self._done: set[str] = set()
        self._failed: Counter[tuple[str, int]] = Counter()
        self._died: Counter[str] = Counter()

    def done(self, uid: str) -> None:
        """A runner has imported the study's objective."""
        self._done.add(uid)

    def is_first(self, uid: str) -> bool:
        """Whether none has: what the first import downloads or builds is then there for the next."""
        return uid not in self._done

    def failed(self, uid: str, runner: int) -> bool:
        """A runner could not import it; whether others can go on without it."""
        if self.is_first(uid):
            return False
        self._failed[uid, runner] += 1
        return not all(self.has_given_up(uid, one) for one in self._runners)

    def died(self, uid: str) -> bool:
        """A runner has ended before it began a trial; whether so many have that none ever will."""
        self._died[uid] += 1
        return self._died[uid] >= _TRIES

    def worked(self, uid: str) -> None:
        """A trial has begun."""
        del self._died[uid]

    def has_given_up(self, uid: str, runner: int) -> bool:
        """Whether the runner tries no more."""
        return self._failed[uid, runner] >= _TRIES
