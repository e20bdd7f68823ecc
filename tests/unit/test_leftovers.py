"""What a runner started ends with it, wherever it was put, and nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from hpo.worker import leftovers
from hpo.worker.identity import process_started
from hpo.worker.leftovers import MARK, end_leftovers
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")


@pytest.fixture
def sleeper() -> Iterator[Any]:
    """`sleeper(mark, **options)` is one more sleeping process."""
    with ExitStack() as stack:

        def start(mark: str | None, **options: Any) -> subprocess.Popen[bytes]:
            environment = {} if mark is None else {MARK: mark}
            made = stack.enter_context(subprocess.Popen(["/bin/sleep", "600"], env=environment, **options))
            stack.callback(made.kill)
            return made

        yield start


def test_what_has_a_workers_mark_is_ended_and_nothing_else(sleeper: Any) -> None:
    worker = uuid.uuid4().hex
    mine = [sleeper(f"{worker}/1"), sleeper(f"{worker}/2", start_new_session=True)]
    stopped = sleeper(f"{worker}/3")
    stopped.send_signal(signal.SIGSTOP)
    others = [sleeper(f"{uuid.uuid4().hex}/1"), sleeper(None)]
    assert end_leftovers(f"{worker}/") == 3
    assert [one.wait(120) for one in [*mine, stopped]] == [-signal.SIGKILL] * 3
    assert [one.poll() for one in others] == [None, None]


def test_a_session_finds_what_lost_its_environment(sleeper: Any) -> None:
    leader = sleeper(None, start_new_session=True)
    key = (leader.pid, process_started(leader.pid))
    assert end_leftovers(f"{uuid.uuid4().hex}/", [key]) == 1
    assert leader.wait(120) == -signal.SIGKILL


def test_a_session_whose_leader_took_over_the_pid_is_left_alone(sleeper: Any) -> None:
    leader = sleeper(None, start_new_session=True)
    started = process_started(leader.pid)
    for wrong in (started - 100, started + 100):
        assert end_leftovers(f"{uuid.uuid4().hex}/", [(leader.pid, wrong)]) == 0
    assert leader.poll() is None


def test_a_process_that_cannot_be_killed_holds_nobody_up_for_long(
    sleeper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a look at thousands of processes takes a while, few are had: heartbeats wait for this."""
    hangs, now, looks = sleeper("hangs/1"), [0.0], []

    def every() -> list[int]:
        looks.append(now[0])
        now[0] += 0.5
        return [hangs.pid]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(leftovers, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    monkeypatch.setattr(leftovers, "psutil", SimpleNamespace(pids=every))
    monkeypatch.setattr(os, "kill", lambda *_: None)
    assert end_leftovers("hangs/") == 1
    assert now[0] < 3
    assert len(looks) == 2


_WORKER = """
import os, subprocess, sys, time
from hpo.worker.guard import guarded
from hpo.worker.leftovers import MARK
with guarded("guarded-worker"):
    started = subprocess.Popen(["sleep", "600"], env={MARK: "guarded-worker/1"}, start_new_session=True)
    print(started.pid, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_what_runners_started_ends_with_a_killed_worker_where_nobody_else_is(killed: bool) -> None:
    """A worker that leaves in good order has seen to it itself."""
    with subprocess.Popen(
        [sys.executable, "-c", _WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdin is not None
        child = int(worker.stdout.readline())
        if killed:
            worker.kill()
            wait_until(lambda: process_started(child) is None, what="the orphan is ended")
        else:
            worker.stdin.close()
            assert worker.wait(120) == 0
            assert process_started(child) is not None
            os.kill(child, signal.SIGKILL)


_RUNNER = """
import os, signal, subprocess, sys
from hpo.runner.interrupt import StopFlag
from hpo.runner.process import outlive_signals
stop = StopFlag()
outlive_signals(stop)
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGINT)
assert stop.signalled
started = subprocess.Popen(["sleep", "600"])
started.terminate()
assert started.wait(100) == -signal.SIGTERM
started = subprocess.Popen(["sleep", "600"])
started.send_signal(signal.SIGINT)
assert started.wait(100) == -signal.SIGINT
ready, told = os.pipe()
forked = os.fork()
if not forked:
    os.write(told, b"x")
    signal.pause()
    os._exit(0)
os.read(ready, 1)
os.kill(forked, signal.SIGTERM)
assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == -signal.SIGTERM
print("outlived")
"""


def test_a_runner_outlives_signals_and_what_it_starts_does_not() -> None:
    """An ignored signal would stay ignored in them, and a forked handler would swallow it."""
    done = subprocess.run([sys.executable, "-c", _RUNNER], capture_output=True, text=True, timeout=120)
    assert done.stdout == "outlived\n", done.stderr
