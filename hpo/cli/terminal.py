"""The terminal while a live view is drawn on it: one writer, so that nothing else moves the view's lines."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import Self

from rich.console import Console, ConsoleDimensions
from rich.text import Text

_END = "\0\n"  # the last line that goes through the pipe
_PATIENCE = 2.0  # seconds for what is still in the pipe at the end


class Terminal:
    """Standard error as a screen to draw on. Meanwhile whatever this process, its runners and their
    libraries write to the terminal goes through a pipe and stands above what is drawn, line by line.

    Written straight to the terminal it would be drawn over, and shift the drawing: its old lines pile up.
    """

    def __init__(self) -> None:
        self._screen = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
        self.console = Console(file=self._screen)
        self._kept: dict[int, int] = {}  # descriptor -> where it led before
        self._drained = threading.Event()
        self.fit()

    def fit(self) -> None:
        """Take over the window's size, which may have changed."""
        with suppress(OSError):
            columns, lines = os.get_terminal_size(self._screen.fileno())
            if columns and lines:
                self.console.size = ConsoleDimensions(columns, lines)

    def __enter__(self) -> Self:
        source, sink = os.pipe()
        _flush()
        for descriptor in (1, 2):
            if os.isatty(descriptor):
                self._kept[descriptor] = os.dup(descriptor)
                os.dup2(sink, descriptor)
        os.close(sink)
        threading.Thread(target=self._read, args=(source,), name="terminal", daemon=True).start()
        return self

    def drain(self) -> None:
        """Let everything go straight to the terminal again, after what was written until now."""
        _flush()
        os.write(2, b"\n" + _END.encode())
        self._drained.wait(_PATIENCE)
        for descriptor, before in self._kept.items():
            os.dup2(before, descriptor)
            os.close(before)
        self._kept.clear()

    def __exit__(self, *_: object) -> None:
        if self._kept:
            self.drain()

    def _read(self, source: int) -> None:
        """Until the last process that has the pipe is gone, which may be after the view."""
        with open(source, encoding="utf-8", errors="replace", newline="\n") as lines:
            for line in lines:
                if line == _END:
                    self._drained.set()
                    continue
                # Of a line that was drawn over and over (a progress bar's), the last state.
                shown = line.rstrip().rpartition("\r")[2]
                if shown:
                    with suppress(OSError):  # the terminal is gone; who writes must not wait for it
                        self.print(Text.from_ansi(shown))

    def print(self, text: Text) -> None:
        """A line above what is drawn; one with a word longer than the window, a link, is left whole."""
        long = max(map(len, text.plain.split()), default=0) > self.console.width
        self.console.print(text, soft_wrap=long, highlight=False)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
