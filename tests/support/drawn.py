"""What hypothesis draws for tests: the same in every run, and never too slow because the machine is busy.

`make fuzz` draws anew each time.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings


def drawn(examples: int = 100) -> settings:
    """So many examples, which follow from the test's own text."""
    unhurried = [HealthCheck.too_slow]
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=unhurried)
