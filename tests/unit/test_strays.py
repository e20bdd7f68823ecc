"""What a trial started and left behind in a group of its own ends with the trial; nothing else does."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")

_RUNNER = """
import json, os, subprocess, sys
from hpo.runner.processes import become_reaper
from hpo.runner.strays import Strays
become_reaper()
strays = Strays()

def start(detached, group=False):
    '''A sleeping process; detached, its parent is gone at once and its environment is empty.'''
    code = "import os; print(os.spawnve(os.P_NOWAIT, '/bin/sleep', ['sleep', '600'], {}), flush=True)"
    if not detached:
        return subprocess.Popen(["/bin/sleep", "600"], start_new_session=group).pid
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=group)
    pid = int(parent.stdout.readline())
    return pid + parent.wait()

def lives(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

server = start(False, group=True)
with strays.ended():
    loader = start(False)
    orphan = start(True)
    stray = start(False, group=True)
    daemon = start(True, group=True)
found = [lives(one) for one in (server, loader, orphan, stray, daemon)]
children = lambda: open(f"/proc/self/task/{os.getpid()}/children").read().split()
os.kill(orphan, 9)
while lives(orphan):
    pass
with strays.ended():
    pass
kept = str(orphan) in children()
with strays.ended():
    pass
print(json.dumps([found, kept, str(orphan) in children()]))
os.kill(server, 9)
os.kill(loader, 9)
"""


def test_what_left_the_group_ends_with_the_trial() -> None:
    """A server from before the trial and a data loader go on; one that lost parent, session and environment
    does not. An orphan's death is noticed, though not at once.
    """
    done = subprocess.run([sys.executable, "-c", _RUNNER], capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout) == [[True, True, True, False, False], True, False], done.stderr


_FORKS = """
import os, signal
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
from hpo.runner.interrupt import StopFlag
from hpo.runner.process import outlive_signals
stop = StopFlag()
outlive_signals(stop)
forked = os.fork()
if forked == 0:
    os._exit(7)
print(os.WTERMSIG(os.waitpid(forked, 0)[1]))
os.kill(os.getpid(), signal.SIGTERM)
print(stop.signalled)
"""


def test_what_an_objective_forks_ends_by_a_signal_that_comes_at_once() -> None:
    """A pool that is closed early terminates processes that have only begun; the runner outlives the same."""
    told = subprocess.run([sys.executable, "-c", _FORKS], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["15", "True"]
