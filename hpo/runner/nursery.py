"""The process that runners are forked from: `python -m hpo.runner.nursery FD`, started by a worker.

What runners of one study need is imported here once: they share the pages of it, and none imports it again.
It has no thread when it forks, and it runs nothing of the objective.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

from hpo.runner import process
from hpo.runner.preload import preload
from hpo.runner.processes import stat_of
from objectives.imports import ObjectivePath


def serve(control: socket.socket) -> int:
    """Fork a runner for every pipe that comes; returns in each of them, with the number of its pipe.

    Raises:
        SystemExit: the worker is gone, or what runners need has started threads.
    """
    worker = os.getppid()
    objective, code = json.loads(control.recv(65536))
    importlib.import_module("hpo.runner.session")
    preload(None if objective is None else ObjectivePath(*objective), Path(code))
    _fork_and_end()
    if len(list(Path("/proc/self/task").iterdir())) > 1:  # in a forked process there would be but one
        raise SystemExit
    control.send(b"ready")
    while True:
        mark, descriptors, _, _ = socket.recv_fds(control, 256, 1)
        if not mark:
            raise SystemExit
        if _is_runner(worker):
            return _become(mark, descriptors[0], control)
        os.close(descriptors[0])


def _fork_and_end() -> None:
    """What keeps threads and is made to be forked, as OpenBLAS, ends them at a fork."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _is_runner(worker: int) -> bool:
    """Fork, twice; True in the new process, when the worker has adopted it from the one in the middle."""
    waiting, go = os.pipe()
    middle = os.fork()
    if middle:
        os.close(waiting)
        os.waitpid(middle, 0)
        os.close(go)
        return False
    if os.fork():
        os._exit(0)
    os.close(go)
    os.read(waiting, 1)  # until the middle one is gone
    os.close(waiting)
    if os.getppid() != worker:
        os._exit(1)
    return True


def _become(mark: bytes, pipe: int, control: socket.socket) -> int:
    """Be as a runner is that was started by itself, and tell the worker the pid."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name, _, value = mark.partition(b"=")
    _rewrite({name + b"=" + os.environb[name]: mark, b"hpo.runner.nursery": b"hpo.runner.process"})
    os.environb[name] = value
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()  # or all runners would draw alike before their first trial
    try:
        control.send(str(os.getpid()).encode())
    except OSError:  # the worker has given the nursery up
        os._exit(1)
    number = control.detach()
    os.dup2(pipe, number, inheritable=False)
    os.close(pipe)
    sys.argv = [str(process.__file__), str(number)]
    return number


def _rewrite(words: dict[bytes, bytes]) -> None:
    """Have /proc show other words, as long as they were, among the arguments and in the environment.

    By those a runner is known, and what it started is found when it is dead.
    """
    fields = stat_of("self")
    start, end = int(fields[45]), int(fields[48])  # arg_start, env_end
    content = ctypes.string_at(start, end - start)
    for old, new in words.items():
        assert len(old) == len(new)
        content = content.replace(old, new)
    ctypes.memmove(start, content, end - start)


def main() -> None:
    """Entry point of the process."""
    process.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        number = serve(socket.socket(fileno=int(sys.argv[1])))
    except ConnectionError:  # the worker has ended before it needed one
        raise SystemExit from None
    process.main(number)


if __name__ == "__main__":
    main()
