"""Progress while a worker runs: a live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any, Self

from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpo.cli.terminal import Terminal
from hpo.studies.answers import seconds_left
from hpo.text import duration
from hpo.worker.events import Ended, Leaving, Reported, Started
from hpo.worker.lines import Lines, leaving, named
from storage.database.engine import Database
from storage.database.errors import StorageError
from storage.database.records import Lease
from storage.history.lists import Progress, progress

_REFRESH = 1.0  # seconds between looks at the database


def make_view(database: Database, study: str | None) -> LiveView | Lines:
    """The view that fits where standard error goes; no study: the worker serves every one."""
    if study is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return LiveView(database, study, Terminal())
    return Lines(database, name_studies=study is None)


class LiveView:
    """A bar, the running trials with epoch and value, best so far, counts, time left."""

    def __init__(self, database: Database, study: str, terminal: Terminal) -> None:
        self._database = database
        self._study = study
        self._terminal = terminal
        self._running: dict[Lease, tuple[int, Started, float, Reported | None]] = {}
        self._progress: Progress | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="view", daemon=True)
        # Last: it draws once while it is being made. What others write is the terminal's to catch.
        self._live = Live(
            console=terminal.console,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            get_renderable=self._draw,
        )

    def __enter__(self) -> Self:
        self._thread.start()
        self._terminal.__enter__()
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._terminal.__exit__()
        self._live.__exit__(None, None, None)

    def on_event(self, runner: int, message: Any) -> None:
        """Keep what the runner is at; print failures above the view."""
        if isinstance(message, Started):
            self._running[message.lease] = (runner, message, time.monotonic(), None)
        elif isinstance(message, Reported) and message.lease in self._running:
            self._running[message.lease] = (*self._running[message.lease][:3], message)
        elif isinstance(message, Ended):
            gone = self._running.pop(message.lease, None)
            if message.state in ("failed", "diverged", "lost") and gone is not None:
                why = (message.error or "").strip().splitlines()
                tail = why[-1] if why else ""
                self._terminal.print(Text(f"{named('trial ', gone[1])} {message.state}: {tail}", style="red"))
        elif isinstance(message, Leaving):
            self._terminal.print(Text(leaving(message), style="yellow"))

    def _look(self) -> None:
        while not self._over.is_set():
            try:
                self._progress = self._database.once(lambda c: progress(c, self._study))
            except StorageError:
                self._progress = None
            self._over.wait(_REFRESH)

    def _draw(self) -> Group:
        """All of it fits into the window: what scrolled out could not be drawn over and would stay."""
        self._terminal.fit()
        now = self._progress
        headline = Text("waiting for the database", style="yellow") if now is None else self._headline(now)
        parts: list[Any] = [headline]
        width, height = self._terminal.console.size
        room = height - 1 - len(headline.wrap(self._terminal.console, width))  # one line for the cursor
        if now is not None and now.spent is not None:
            done, budget = now.spent
            bar = ProgressBar(total=budget, completed=done, width=60)
            parts.append(Padding(bar, 0))  # a bar alone does not end its line
            room -= 1
        running = sorted(self._running.values(), key=lambda one: (one[0], one[1].trial))
        if not running or room < 2:
            return Group(*parts)
        shown = running if len(running) < room else running[: room - 2]
        if not shown:
            return Group(*parts, Text(f"{len(running)} running", style="dim"))
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("runner", "trial", "epoch", "value", "seconds"):
            table.add_column(column, justify="right", no_wrap=True)
        for runner, started, since, last in shown:
            table.add_row(
                str(runner),
                named("", started),
                "-" if last is None else str(last.step),
                "-" if last is None else f"{last.value:.5g}",
                f"{time.monotonic() - since:.0f}",
            )
        parts.append(table)
        if len(shown) < len(running):
            parts.append(Text(f"and {len(running) - len(shown)} more running", style="dim"))
        return Group(*parts)

    def _headline(self, now: Progress) -> Text:
        done = now.counts
        total = f"/{now.row.budget_trials}" if now.row.budget_trials is not None else ""
        text = Text(f"{now.row.name}  {done.ended}{total} trials")
        if now.epochs is not None:
            text.append(f"  {now.epochs:,}/{now.row.budget_epochs:,} epochs")
        text.append(f"  {done.complete} complete  {done.pruned} pruned", style="dim")
        for state, style in (("parked", "dim"), ("diverged", "magenta"), ("failed", "red")):
            if count := getattr(done, state):
                text.append(f"  {count} {state}", style=style)
        if now.best_value is not None:
            text.append(f"  best {now.best_value:.6g} (trial {now.best_number})", style="bold green")
        if (left := seconds_left(now)) is not None:
            text.append(f"  about {duration(left)} left", style="dim")
        if now.row.state.value != "running":
            text.append(f"  {now.row.state.value}", style="yellow")
        return text
