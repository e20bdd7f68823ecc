"""A runner that was forked is as one that was started, and a worker does without its nursery."""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpo.runner import preload as preloads
from hpo.runner.channel import Mailbox
from hpo.runner.messages import Boot, Quit, Ready, Served, to_runner
from hpo.runner.processes import reaping
from hpo.worker import nursery as nurseries
from hpo.worker.desk import read
from hpo.worker.devices import Share
from hpo.worker.nursery import Nursery, start_runner
from objectives.imports import ObjectivePath

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are nurseries on Linux alone")
WORKER = uuid.uuid4().hex
CPU = Share("cpu", "cpu", "")
TELLING = """
import json
import os
import random
import resource
import signal
import sys
from pathlib import Path

already = sorted({"numpy", "torch", "optuna"} & set(sys.modules))

import helpers  # which needs torch; this file does not name it

handlers = {one.name: str(signal.getsignal(one)).split(" at ")[0] for one in signal.Signals}
status = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Sig")]
limits = {name: resource.getrlimit(value) for name, value in vars(resource).items() if "RLIMIT" in name}
environment = {name: value for name, value in os.environ.items() if name != "HPO_RUNNER"}
command = Path("/proc/self/cmdline").read_text().split("\\0")
as_shown = Path("/proc/self/environ").read_text().split("\\0")
same = {
    "loaded before": already, "handlers": handlers, "signals": status[2:], "limits": limits,
    "environment": environment, "as shown": [one for one in as_shown if "HPO_RUNNER" not in one],
    "command": command[:-2], "argv": [sys.argv[0]], "cwd": os.getcwd(), "umask": os.umask(0o22),
    "leads": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()], "parent": os.getppid(),
    "sockets": len([one for one in Path("/proc/self/fd").iterdir() if one.is_socket()]),
    "bits": helpers.bits(), "threads": helpers.threads(),
}
own = {
    "pid": os.getpid(), "mark": os.environ["HPO_RUNNER"], "numpy": helpers.draw(), "random": random.random(),
    "shown mark": [one for one in as_shown if one.startswith("HPO_RUNNER=")],
}
Path(__file__).with_name(f"facts-{os.getpid()}.json").write_text(json.dumps([same, own]))

def objective(trial):
    return 0.0
"""
HELPERS = """
import hashlib

import numpy

def threads():
    import torch
    return [torch.get_num_threads(), torch.initial_seed()]

def draw():
    return numpy.random.random()

def bits():
    import torch
    from torch import nn
    generator = torch.Generator().manual_seed(7)
    torch.manual_seed(7)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(1152, 10))
    for _ in range(3):
        x, y = torch.randn(256, 1, 14, 14, generator=generator), torch.arange(256) % 10
        nn.functional.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
                p.grad = None
    a = numpy.random.default_rng(7).random((300, 300))
    parts = [p.detach().numpy().tobytes() for p in model.parameters()] + [(a @ a).tobytes()]
    return hashlib.sha256(b"".join(parts)).hexdigest()
"""


def study(threads: int = 1) -> Any:
    return SimpleNamespace(threads=threads, objective_path=ObjectivePath(None, "s.py"))


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[selectors.BaseSelector]:
    for name in ("_FORKING", "_IMPORTING"):
        monkeypatch.setattr(nurseries, name, 250)
    with reaping(), selectors.DefaultSelector() as selector:
        yield selector


def born(nursery: Nursery, waiting: selectors.BaseSelector) -> Any:
    """A runner of it, or None."""
    while nursery.is_expecting():
        assert waiting.get_map(), "it wakes its worker"
        waiting.select(0.5)
    assert not waiting.get_map(), "and is not waited for again"
    return nursery.take()


def boot(folder: Path, threads: int) -> Boot:
    path = ObjectivePath(None, "s.py")
    served = Served("s", "s.py", path, (), {}, (), ("minimize",), threads, 1, f"file://{folder}/store", "s")
    return Boot(served, "cpu", str(folder))


def facts(runner: Any, folder: Path, threads: int) -> Any:
    """Let a runner load its objective, which tells what it finds; the runner leaves then."""
    mailbox = Mailbox(runner.pipe)
    mailbox.send(to_runner(boot(folder, threads)))
    with selectors.DefaultSelector() as selector:
        selector.register(mailbox, selectors.EVENT_READ)
        assert selector.select(100)
    (said,) = mailbox.receive()
    assert isinstance(read(said)[1], Ready), said
    mailbox.send(to_runner(Quit()))
    assert runner.process.wait() == 0
    return json.loads((folder / f"facts-{runner.process.pid}.json").read_text())


def test_a_forked_runner_finds_and_computes_what_a_started_one_does(
    tmp_path: Path, waiting: selectors.BaseSelector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two threads: OpenBLAS keeps one from its import on, and ends it at a fork."""
    (tmp_path / "s.py").write_text(TELLING)
    (tmp_path / "helpers.py").write_text(HELPERS)
    monkeypatch.setenv("PGPASSWORD", "open-sesame")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # or two threads on a busy core wait for each other
    monkeypatch.setenv("HPO_STORAGE", "postgresql://me:open-sesame@127.0.0.1/x")
    expected, own = facts(start_runner(CPU, 2, WORKER), tmp_path, 2)
    assert expected["loaded before"] == ["numpy", "optuna", "torch"]
    assert expected["threads"][0] == 2
    found = []
    with Nursery(CPU, study(2), WORKER, str(tmp_path)) as nursery:
        nursery.watch(waiting)
        for _ in range(2):
            runner = born(nursery, waiting)
            same, own = facts(runner, tmp_path, 2)
            assert same == expected
            assert own["mark"] == runner.mark
            assert own["shown mark"] == [f"HPO_RUNNER={runner.mark}"]
            found.append(own)
        assert not list(tmp_path.glob(f"facts-{nursery._process.pid}.json")), "no objective runs there"
        content = Path(f"/proc/{nursery._process.pid}/environ").read_text()
        assert "open-sesame" not in content
        assert f"HPO_RUNNER={WORKER}/" in content
    assert found[0]["numpy"] != found[1]["numpy"]
    assert found[0]["random"] != found[1]["random"]


def test_how_a_forked_runner_ends_is_told_as_ever_and_it_outlives_its_nursery(
    tmp_path: Path, waiting: selectors.BaseSelector, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.py").write_text("def objective(trial): return 0.0\n")
    with Nursery(CPU, study(), WORKER, str(tmp_path)) as nursery:
        nursery.watch(waiting)
        killed, crashed, left = (born(nursery, waiting) for _ in range(3))
        assert [one.process.poll() for one in (killed, crashed, left)] == [None] * 3
        os.kill(killed.process.pid, signal.SIGKILL)
        os.kill(crashed.process.pid, signal.SIGSEGV)
        assert (killed.process.wait(), crashed.process.wait()) == (-signal.SIGKILL, -signal.SIGSEGV)
        os.kill(nursery._process.pid, signal.SIGSTOP)
        monkeypatch.setattr(nurseries, "_FORKING", 0.3)
        assert born(nursery, waiting) is None, "one that hangs is given up"
        assert nursery._process.returncode == -signal.SIGKILL
        assert born(nursery, waiting) is None
    assert left.process.poll() is None
    left.pipe.close()
    assert left.process.wait() == 1, "its worker is gone"


def test_a_nursery_that_ends_before_it_is_ready_is_not_waited_for(
    tmp_path: Path, waiting: selectors.BaseSelector
) -> None:
    with Nursery(CPU, study(), WORKER, str(tmp_path)) as nursery:
        nursery.watch(waiting)
        os.kill(nursery._process.pid, signal.SIGKILL)
        assert born(nursery, waiting) is None


def test_a_runner_that_nobody_takes_ends_with_its_nursery(
    tmp_path: Path, waiting: selectors.BaseSelector
) -> None:
    with Nursery(CPU, study(), WORKER, str(tmp_path)) as nursery:
        nursery.watch(waiting)
        untaken = born(nursery, waiting)
        nursery._newborn = untaken
    assert untaken.process.poll() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch", {"torch"}),
        ("def objective(trial):\n    from torch import nn\n    import numpy as np", {"torch", "numpy"}),
        ("from .beside import x", {"torch"}),
        ("import torch\noptimizer = torch.optim.SGD", {"torch", "torch._dynamo"}),
        ("'optimum'", set()),
        ("import package.inner", {"numpy"}),
        ("import json  # not torch", set()),
        ("x = 'import torch'", set()),
        ("import missing, \x00", set()),
    ],
)
def test_what_an_objective_needs_is_told_from_its_source_and_that_of_its_own_files(
    tmp_path: Path, source: str, expected: set[str]
) -> None:
    (tmp_path / "s.py").write_text(source)
    (tmp_path / "beside.py").write_text("import s\nimport torch")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "inner.py").write_text("import numpy")
    assert preloads.needed(ObjectivePath(None, "s.py"), tmp_path) == expected
    assert preloads.needed(ObjectivePath("s", None), tmp_path) == expected


def test_ours_name_their_own_imports(tmp_path: Path) -> None:
    ours = ObjectivePath("objectives.classifier", None)
    assert preloads.needed(ours, tmp_path) == {"objectives.classifier"}
