"""SIGINT and SIGTERM as facts the worker's loop looks at, with a descriptor that wakes it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType
from typing import Any, Self


class Signals:
    """Counts interrupts and notes the time of a SIGTERM while it is entered.

    Outside the main thread (a notebook's worker) signals stay with their owner; only the wake-up works.
    """

    def __init__(self) -> None:
        self.interrupts = 0
        self.terminated: float | None = None  # monotonic
        self._unseen = False
        self.is_deadline_seen = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.read_fd, self.wake_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        os.set_blocking(self.wake_fd, False)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
            self._wake_before = signal.set_wakeup_fd(self.wake_fd, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            signal.set_wakeup_fd(self._wake_before)
            for number, handler in self._before.items():
                signal.signal(number, handler)
        os.close(self.read_fd)
        os.close(self.wake_fd)

    def wake(self) -> None:
        """Wake whoever waits for `read_fd`; any thread may."""
        with contextlib.suppress(OSError):
            os.write(self.wake_fd, b"n")

    def clear(self) -> None:
        """Empty the wake-up pipe."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.read_fd, 4096):
                continue

    def has_come(self) -> bool:
        """Whether one of them has."""
        return self.terminated is not None or self.interrupts > 0

    def fresh(self) -> bool:
        """Whether a signal came since this was last asked."""
        seen, self._unseen = self._unseen, False
        return seen

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._unseen = True
        if number == signal.SIGINT:
            self.interrupts += 1
        elif self.terminated is None:
            self.terminated = time.monotonic()
