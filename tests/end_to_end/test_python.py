"""`hpo.optimize`: a search from Python, as short as Optuna's, by functions of cells and of files."""

from __future__ import annotations

import linecache
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import psutil
import pytest

import hpo
from hpo.errors import CodeDiffersError, HpoError, NotFoundError, SpecError, UserError
from tests.support.command import hpo_environment, look
from tests.support.waiting import wait_until

CELL = """
OFFSET = 2

def loss(x):
    return x * x + OFFSET

def objective(trial):
    x = trial.suggest_float("x", -10, 10)
    for step in range(1, 4):
        trial.report(loss(x) + 3 - step, step)
        trial.checkpoint.save({"x": x}, step)
    print("tried", trial.number)
    return loss(x)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with its database in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cell(text: str, name: str = "objective") -> Any:
    """What a notebook's cell defines."""
    file = f"/tmp/ipykernel_1/{abs(hash(text))}.py"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, file, "exec"), names)
    return names[name]


def test_a_function_of_a_cell_is_searched_with_to_the_total_and_kept(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is a study like any other; the same call again goes on to the total and no further."""
    mine = signal.getsignal(signal.SIGINT), dict(os.environ), psutil.Process().num_fds()
    study = hpo.optimize(cell(CELL), trials=3)
    assert study.name == "objective"
    assert (signal.getsignal(signal.SIGINT), dict(os.environ)) == mine[:2]
    told = capfd.readouterr()
    assert told.out.split() == ["tried", "0", "tried", "1", "tried", "2"], "it prints where it always did"
    assert "3/3 done" in told.err
    assert len(hpo.optimize(cell(CELL), trials=3).trials()) == 3
    study = hpo.optimize(cell(CELL), trials=5)
    assert list(study.trials().state) == ["complete"] * 5
    assert "tried 4" in capfd.readouterr().out
    best = study.best
    assert best is not None
    assert best.value == min(study.trials().value)
    assert best.value == best.params["x"] ** 2 + 2
    assert study.load_weights() == {"x": best.params["x"]}
    assert isinstance(study.plot(), go.Figure)
    assert isinstance(study.plot("slice-1"), go.Figure)
    with pytest.raises(NotFoundError, match="there are pareto, hypervolume, history"):
        study.plot("histroy")
    assert f"(trial {best.number})" in study._repr_html_()
    study.add_trial({"x": 0.0}, 2.0, by="hand")
    assert study.best is not None
    assert (study.best.number, study.best.value) == (5, 2.0)
    shown = repr(study.best)
    assert "params={" in shown
    assert not any(long in shown for long in ("reports", "distributions", "spans")), "a notebook shows it"
    assert study.wait(0) is study
    assert study.audit().holds
    assert study.show()["budget"]["trials"] == 5
    assert psutil.Process().num_fds() - mine[2] < 8, "the database's alone are open still"
    changed = cell(CELL.replace("x * x", "x * x * x"))
    with pytest.raises(CodeDiffersError, match=r"(?s)function loss was changed.*study='NAME'"):
        hpo.optimize(changed, trials=6)
    with pytest.raises(UserError, match="another study named objective"):
        hpo.optimize(cell(CELL), trials=6, direction="maximize")


def test_the_best_of_a_function_is_trained_again_when_its_search_has_ended(here: Path) -> None:
    """In this process, too, as `hpo run` does where the study file has `confirm`."""
    objective = cell(CELL.replace("return loss(x)\n", "return loss(x) + trial.seed % 100 / 1000\n"))
    study = hpo.optimize(objective, trials=2, confirm={"top": 1, "seeds": 2})
    found = study.confirmation
    assert found is not None
    assert found.done
    assert 2 <= found.trainings <= 4
    assert study.confirm(objective, top=1, seeds=2) == found
    with pytest.raises(UserError, match="is finished: all trials done"):
        study.run(objective)


@pytest.mark.parametrize(
    ("asked", "kind", "said"),
    [
        ({"objective": cell(CELL), "runners": 2}, UserError, "objective is defined in a notebook"),
        ({"objective": lambda _: 0.0, "runners": 2}, UserError, "a lambda has no name"),
        ({"objective": object()}, UserError, "must be a function of a trial, got object"),
        ({"objective": cell(CELL), "trials": 0}, SpecError, "budget.trials"),
        ({"objective": cell(CELL), "direction": "max"}, SpecError, "must be minimize or maximize"),
        ({"objective": cell(CELL), "sampler": object()}, UserError, "like sampler='tpe'.* Got object"),
        ({"objective": cell(CELL), "sampler": "tpee"}, SpecError, "did you mean .tpe"),
    ],
)
def test_what_cannot_be_is_told_before_anything_runs(
    asked: dict[str, Any], kind: type[HpoError], said: str, here: Path
) -> None:
    """Each a sentence with what to do."""
    with pytest.raises(kind, match=said):
        hpo.optimize(**asked)


def test_hpo_shows_what_it_has_and_is_cheap_to_import() -> None:
    """A notebook's completion sees the interface before anything of it is imported."""
    code = (
        "import hpo, sys; print(dir(hpo)); print([m for m in ('optuna', 'sqlalchemy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["['Study', 'create', 'load', 'optimize']", "[]"]


SLOW = """
import time

def slow(trial):
    x = trial.suggest_float("x", -10, 10)
    until = time.monotonic() + (300 if trial.number == 1 else 0)
    while time.monotonic() < until:
        time.sleep(0.01)
        trial.check()
    return x
"""


@pytest.mark.postgres
def test_on_postgresql_an_overdue_trial_fails_at_its_next_word_and_the_next_one_runs(
    here: Path, pg_url: str
) -> None:
    """And where what it printed stands is said in the place of its log, which nobody but the kernel has."""
    content = {
        "study": "slow",
        "objective": "__main__:slow",
        "direction": "minimize",
        "budget": {"trials": 3},
        "trial_timeout": 3,
    }
    study = hpo.create(content, pg_url).run(cell(SLOW, "slow"))
    found = study.history().trials
    assert [trial.state for trial in found] == ["complete", "failed", "complete"]
    assert found[1].error == "it took longer than trial_timeout (3 s)"
    assert study.audit().holds
    assert not (here / "hpo.db").exists()
    logs = look("logs", "slow/0", cwd=here, env={"HPO_STORAGE": pg_url}).check().out
    assert "ran in a Python process of its owner" in logs


SCRIPT = """
import ctypes, json, os, signal, sys, time
import hpo

def objective(trial):
    x = trial.suggest_float("x", -10, 10)
    how = os.environ.get("HOW") if trial.number == 1 else None
    if how == "hold":  # the interpreter, for longer than a lease
        ctypes.PyDLL(None).usleep(2_000_000)
    if how == "interrupt":
        signal.raise_signal(signal.SIGINT)
    if how == "wait":
        print("at it", flush=True)
        for step in range(600):
            time.sleep(0.05)
            trial.report(x, step)
    return x * x

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        study = hpo.optimize(objective, study="s", trials=4, runners=int(os.environ.get("RUNNERS", "1")))
    except KeyboardInterrupt:
        print("interrupted", [t.name for t in __import__("threading").enumerate() if not t.daemon])
        sys.exit(3)
    except hpo.errors.HpoError as error:
        print("told:", error)
        sys.exit(4)
"""


class Script:
    """A person's script as it runs."""

    def __init__(self, folder: Path, **env: str) -> None:
        (folder / "script.py").write_text(textwrap.dedent(SCRIPT))
        self.process = subprocess.Popen(
            [sys.executable, "script.py"],
            cwd=folder,
            env=hpo_environment({"HPO_LEASE": "0.9", **env}),
            stdout=subprocess.PIPE,
            text=True,
        )

    def worker(self) -> psutil.Process:
        """The worker that it has started."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> tuple[int, str]:
        """Its exit status, and what it printed."""
        out, _ = self.process.communicate(timeout=120)
        return self.process.returncode, out


def trials(folder: Path) -> list[tuple[str, int]]:
    """State and attempts of the script's trials."""
    found = hpo.load("s", f"sqlite:///{folder / 'hpo.db'}")
    assert found.audit().holds
    return [(trial.state, trial.attempts) for trial in found.history().trials]


def finished(folder: Path) -> list[tuple[str, int]]:
    """Run the script once more, with two runners, to its end: its trials."""
    with Script(folder, RUNNERS="2") as script:
        assert script.end()[0] == 0
    return trials(folder)


def test_a_call_that_holds_the_interpreter_loses_no_lease(tmp_path: Path) -> None:
    """The worker is another process."""
    with Script(tmp_path, HOW="hold") as script:
        assert script.end()[0] == 0
    assert trials(tmp_path) == [("complete", 1)] * 4


def test_ctrl_c_gives_the_trial_back_and_runners_go_on_with_the_same_code(tmp_path: Path) -> None:
    """Nothing failed, the worker has left; the file's function is the same code in runners."""
    with Script(tmp_path, HOW="interrupt") as script:
        assert script.end() == (3, "interrupted ['MainThread']\n")
    assert trials(tmp_path) == [("complete", 1), ("waiting", 1)]
    study = hpo.load("s", f"sqlite:///{tmp_path / 'hpo.db'}")
    assert study.show()["trials"]["failed"] == 0
    assert study.spec.objective == "script.py:objective"
    assert sorted(finished(tmp_path)) == [("complete", 1), ("complete", 1), ("complete", 1), ("complete", 2)]


@pytest.mark.parametrize("who", ["kernel", "worker"])
def test_whoever_of_the_two_is_killed_the_trial_is_free_and_the_next_call_goes_on(
    who: str, tmp_path: Path
) -> None:
    """A killed kernel ends its worker; a killed worker gives the kernel an error with a sentence."""
    with Script(tmp_path, HOW="wait") as script:
        assert script.process.stdout is not None
        assert script.process.stdout.readline() == "at it\n"
        worker = script.worker()
        (script.process if who == "kernel" else worker).send_signal(signal.SIGKILL)
        status, out = script.end()
        if who == "kernel":
            wait_until(lambda: not worker.is_running(), what="the worker's end")
            assert trials(tmp_path) == [("complete", 1), ("waiting", 1)]
        else:
            assert status == 4
            assert "told: the worker of s died (exit status -9)" in out
    assert sorted(finished(tmp_path)) == [("complete", 1), ("complete", 1), ("complete", 1), ("complete", 2)]
