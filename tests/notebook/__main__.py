"""A person's notebook, cell by cell, in a real kernel: a part of `make objectives`.

It searches with a cell's function, shows progress, a card and a figure, goes on when the cell runs again,
gives its trial back at the stop button, tells a changed cell, and survives the death of worker and kernel.
"""

from __future__ import annotations

import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

import hpo
from tests.support.command import those_running
from tests.support.waiting import wait_until

OBJECTIVE = """
import os, time, hpo

def square(x):
    return x * x

def objective(trial):
    x = trial.suggest_float("x", -10, 10)
    while os.path.exists("hold"):
        open("held", "w").close()
        time.sleep(0.05)
    for step in range(3):
        trial.report(square(x) + 3 - step, step)
    print("tried", trial.number)
    return square(x)
"""


class Notebook:
    """A notebook in a directory of its own, with its kernel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._content = nbformat.v4.new_notebook()
        self.client = NotebookClient(
            self._content, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        )

    def run(self, code: str) -> Any:
        """Run a cell: its outputs, an error's among them."""
        self._content.cells.append(nbformat.v4.new_code_cell(code))
        with suppress(CellExecutionError):
            self.client.execute_cell(self._content.cells[-1], len(self._content.cells) - 1)
        return self._content.cells[-1].outputs

    @property
    def kernel(self) -> psutil.Process:
        """Its process."""
        return psutil.Process(self.client.km.provisioner.pid)

    def workers(self) -> list[psutil.Process]:
        """The workers that the kernel has started."""
        return those_running("hpo.worker.kernel", self.kernel.children())

    def trials(self) -> list[tuple[str, int]]:
        """State and attempts of the study's trials; the audit holds."""
        study = hpo.load("objective", f"sqlite:///{self.folder / 'hpo.db'}")
        assert study.audit().holds
        return [(trial.state, trial.attempts) for trial in study.history().trials]

    def while_it_holds(self, act: Callable[[], None], trials: int) -> Any:
        """Run on to `trials` and do something in the middle of the next one."""
        (self.folder / "held").unlink(missing_ok=True)
        (self.folder / "hold").touch()

        def wait_and_act() -> None:
            wait_until(lambda: (self.folder / "held").exists(), 60, what="a trial that runs")
            act()

        other = threading.Thread(target=wait_and_act)
        other.start()
        try:
            return self.run(f"hpo.optimize(objective, trials={trials})")
        finally:
            other.join()
            (self.folder / "hold").unlink(missing_ok=True)


def texts(outputs: Any, kind: str) -> str:
    """What the outputs hold of a MIME type, or what was printed to a stream."""
    found = [one.get("data", {}).get(kind, "") for one in outputs]
    return "".join([*map(str, found), *(one.text for one in outputs if one.get("name") == kind)])


def error(outputs: Any) -> str:
    """The error that ended the cell, with its kind."""
    found = [one for one in outputs if one.output_type == "error"]
    return f"{found[-1].ename}: {found[-1].evalue}" if found else "none"


def search(book: Notebook) -> str:
    """A cell's function is searched with: output below the cell, progress, a card, figures."""
    book.run(OBJECTIVE)
    out = book.run('study = hpo.optimize(objective, trials=4, direction="minimize")\nstudy')
    assert book.trials() == [("complete", 1)] * 4, out
    assert texts(out, "stdout").split()[-1] == "3"
    assert "4/4 done" in texts(out, "text/plain")
    assert "4 of 4 ended" in texts(out, "text/html")
    figure = book.run('study.plot("history")')
    assert "application/vnd.plotly.v1+json" in figure[-1].data, figure
    best = book.run("print(study.best.value == study.best.params['x'] ** 2, len(study.trials()))")
    assert texts(best, "stdout") == "True 4\n"
    return "4 of 4, progress, card, figure"


def go_on(book: Notebook) -> str:
    """The same cell again does nothing more; a larger total adds trials."""
    book.run("hpo.optimize(objective, trials=4)")
    assert len(book.trials()) == 4
    book.run("hpo.optimize(objective, trials=6)")
    assert book.trials() == [("complete", 1)] * 6
    return "4, again 4, then 6 trials"


def stop_button(book: Notebook) -> str:
    """The kernel is interrupted: the trial waits again, the worker is gone, the next call goes on."""
    at: list[float] = []

    def press() -> None:
        book.client.km.provisioner.process.send_signal(2)
        at.append(time.monotonic())

    out = book.while_it_holds(press, 8)
    took = time.monotonic() - at[0]
    assert error(out).startswith("KeyboardInterrupt"), out
    assert book.trials() == [("complete", 1)] * 6 + [("waiting", 1)]
    assert book.workers() == []
    book.run("hpo.optimize(objective, trials=8)")
    assert sorted(book.trials()) == [("complete", 1)] * 7 + [("complete", 2)]
    return f"given back within {took:.1f} s, then 8 of 8"


def changed_cell(book: Notebook) -> str:
    """A helper of the cell is edited: told by name; edited back, it goes on."""
    book.run(OBJECTIVE.replace("x * x", "x * x * x"))
    said = error(book.run("hpo.optimize(objective, trials=9)"))
    assert re.search(r"CodeDiffersError.*(?s:.*)function square was changed", said), said
    book.run(OBJECTIVE)
    book.run("hpo.optimize(objective, trials=9)")
    assert len(book.trials()) == 9
    return "told; edited back, 9 of 9"


def kill_worker(book: Notebook) -> str:
    """The worker is killed: a sentence in the cell, and the next call goes on."""

    def kill() -> None:
        (worker,) = book.workers()
        worker.kill()
        (book.folder / "hold").unlink()

    out = book.while_it_holds(kill, 10)
    assert "the worker of objective died" in error(out), out
    book.run("hpo.optimize(objective, trials=10)")
    assert sorted(book.trials()) == [("complete", 1)] * 8 + [("complete", 2)] * 2
    return "a sentence, then 10 of 10"


def kill_kernel(book: Notebook) -> str:
    """The kernel is killed: its worker ends, the trial waits again."""
    worker: list[psutil.Process] = []

    def kill() -> None:
        worker.extend(book.workers())
        book.kernel.kill()

    with suppress(DeadKernelError):
        book.while_it_holds(kill, 11)
    wait_until(lambda: not worker[0].is_running(), 30, what="the worker's end")
    assert book.trials()[-1] == ("waiting", 1)
    return "the worker ended, the trial waits"


def main() -> int:
    """Print a line for each step; 1 when one of them fails."""
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        book = Notebook(Path(scratch))
        with book.client.setup_kernel():
            for step in (search, go_on, stop_button, changed_cell, kill_worker, kill_kernel):
                try:
                    print(f"notebook     {step.__name__:<20} {step(book)}", flush=True)
                except AssertionError as wrong:
                    failed = True
                    print(f"notebook     {step.__name__:<20} FAILED: {wrong}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
