"""How much work something was."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_most_cpu(seconds: float) -> Iterator[None]:
    """AssertionError where the block took more CPU of this process; a limit for what must not be quadratic.

    What earlier tests have left is not looked through for garbage meanwhile: in a process that has run a
    thousand of them this alone takes half a second.
    """
    gc.freeze()
    began = time.process_time()
    try:
        yield
        used = time.process_time() - began
    finally:
        gc.unfreeze()
    assert used < seconds, f"{used:.2f} s of CPU, and {seconds:g} are the limit"
