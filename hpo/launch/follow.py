"""`hpo` that leaves when whoever asked for it is gone: python -m hpo.launch.follow WORDS.

Ray kills the children of an actor that ends, at once. This process is such a child; the worker is its own,
and is sent SIGTERM by the kernel, so that it still checkpoints and gives its tickets back. Elsewhere than on
Linux the worker goes on until its study ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence


def follow_parent() -> Callable[[], None] | None:
    """To be called in a new process: SIGTERM when the thread that started it ends."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    parent_death_signal, parent = 1, os.getpid()

    def follow() -> None:
        libc.prctl(parent_death_signal, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended already
            os.kill(os.getpid(), signal.SIGTERM)

    return follow


def main(words: Sequence[str]) -> int:
    """Run `hpo WORDS`, hand SIGTERM on to it, end as it ends."""
    process = subprocess.Popen(  # noqa: S603 -- our own command
        [sys.executable, "-P", "-m", "hpo", *words], preexec_fn=follow_parent()
    )
    signal.signal(signal.SIGTERM, lambda _number, _frame: process.terminate())
    status = process.wait()
    if status < 0:  # a signal ended it: so it does this process
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
