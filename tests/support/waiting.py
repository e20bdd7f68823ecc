"""Wait for a condition instead of sleeping for a guess."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LONGEST = 120.0  # seconds; so that a hang ends, however slow the machine is


def wait_until(
    predicate: Callable[[], T | None], timeout: float = LONGEST, *, every: float = 0.02, what: str = ""
) -> T:
    """Call `predicate` every `every` seconds until it returns something true, and return that.

    Raises AssertionError after `timeout` seconds; an exception of the predicate passes through.
    """
    give_up = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= give_up:
            raise AssertionError(
                f"not within {timeout:g} s: {what or getattr(predicate, '__name__', predicate)}"
            )
        slept_from = time.monotonic()
        time.sleep(every)
        give_up += max(0.0, time.monotonic() - slept_from - every)  # it stood still, or had no turn
