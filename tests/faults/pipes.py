"""Rows of the fault table about what passes between a broker and its runners."""

from __future__ import annotations

import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
from sqlalchemy.engine import make_url

from hpo.studies import steering
from storage.database.records import StudyRow
from tests.faults.lab import STARVED, Lab
from tests.faults.rows import Scale
from tests.support.command import HpoProcess
from tests.support.pg import PgServer

STEPS = 8  # of a trial
ALONE = 4  # signs of life that a runner shows at most without its broker: two a step, and each step asks


def stopped_runners(lab: Lab, scale: Scale) -> str:
    """SIGSTOP of a runner at any moment, also half-way through a message: nobody else waits for it."""
    in_message, results = _beside_what_is_stopped(lab, scale.stops)
    assert set(lab.attempts()) <= {"complete", "released"}, (lab.ended_why("lost"), lab.ended_why("failed"))
    found = lab.audit()
    assert found.holds, found
    return (
        f"{scale.stops} stopped, {in_message} in a message; everybody else went on meanwhile, {results}"
        " results, 0 lost"
    )


def stopped_worker(lab: Lab, scale: Scale) -> str:
    """Negative control: stopped with its broker, a runner does hold up its sibling, and that is seen."""
    row, both = _three_at_work(lab)
    victim, sibling = both.children("hpo.runner.process")
    (other,) = set(_signs(lab)) - {victim.pid, sibling.pid}
    lab.suspend([victim, psutil.Process(both.pid)])
    began = time.monotonic()
    lab.wait(lambda: _shown(lab, other, began) > 2 * ALONE, "the other worker goes on")
    shown = _shown(lab, sibling.pid, began)
    psutil.Process(both.pid).resume()
    victim.resume()
    _end(lab, row)
    assert shown <= ALONE, f"the sibling showed {shown} signs of life"
    return f"the sibling showed {shown} signs of life, the other worker more than {2 * ALONE}"


def _three_at_work(lab: Lab) -> tuple[StudyRow, HpoProcess]:
    """The study, and the worker that has two of three runners."""
    lab.env["HPO_LEASE"] = STARVED
    fixed = {"steps": STEPS, "step_seconds": 0.05}
    row = lab.create(trials=10_000, objective="objective.py:chatty", fixed=fixed)
    both = lab.worker("--runners", "2")
    lab.worker()
    lab.wait(lambda: len(_signs(lab)) == 3, "three runners work")
    lab.wait(lambda: lab.states().get("complete", 0) >= 3, "trials complete")
    return row, both


def _end(lab: Lab, row: StudyRow) -> None:
    steering.stop(lab.open(), row)
    assert [worker.wait().code for worker in lab.workers] == [0, 0]


def _beside_what_is_stopped(lab: Lab, times: int) -> tuple[int, int]:
    """(how many were stopped in a message, results meanwhile); everybody else goes on each time."""
    row, both = _three_at_work(lab)
    in_message, results = 0, lab.states()["complete"]
    for turn in range(times):
        victim = lab.random.choice(both.children("hpo.runner.process"))
        if turn % 2:
            time.sleep(lab.random.uniform(0, 0.3))
        else:
            lab.wait(lambda v=victim: _is_stopped_in_a_message(lab, v), "it says something", every=0.0)
        others = {pid for pid in _signs(lab) if pid != victim.pid}
        began = time.monotonic()
        victim.suspend()
        in_message += _lines(lab, victim.pid)[-1] == "says"
        lab.wait(
            lambda pids=others, t=began: all(_shown(lab, pid, t) > ALONE for pid in pids),
            "everybody else goes on",
        )
        victim.resume()
        resumed = time.monotonic()
        lab.wait(lambda v=victim, t=resumed: _shown(lab, v.pid, t), "it goes on")
    results = lab.states()["complete"] - results
    _end(lab, row)
    return in_message, results


def _is_stopped_in_a_message(lab: Lab, victim: psutil.Process) -> bool:
    """Stop it where it has begun to say something; where it has said it by then it goes on."""
    if _lines(lab, victim.pid)[-1] != "says":
        return False
    victim.suspend()
    if _lines(lab, victim.pid)[-1] == "says":
        return True
    victim.resume()
    return False


def _lines(lab: Lab, pid: int) -> list[str]:
    """What a process last said and did, in order."""
    return [
        word
        for word, who, _ in re.findall(r"^(says|said) (\d+) (\S+)$", lab.journal.read_text(), re.MULTILINE)
        if int(who) == pid
    ]


def _signs(lab: Lab) -> dict[int, list[float]]:
    """When each process showed a sign of life."""
    found: dict[int, list[float]] = {}
    if lab.journal.exists():
        for _, who, at in re.findall(r"^(says|said) (\d+) (\S+)$", lab.journal.read_text(), re.MULTILINE):
            found.setdefault(int(who), []).append(float(at))
    return found


def _shown(lab: Lab, pid: int, since: float) -> int:
    """Signs of life of a process since then."""
    return sum(at > since for at in _signs(lab)[pid])


def forked_children(lab: Lab, scale: Scale) -> str:
    """Forked children that report take nothing from their trial and add nothing to it."""
    curves = _forking(lab, scale.budget)
    assert set(map(tuple, curves)) == {(1, 2, 3)}, curves
    assert lab.attempts() == {"complete": scale.budget}
    return f"{6 * scale.budget} children reported, {scale.budget}/{scale.budget} trials, no step of theirs"


def forked_children_unguarded(lab: Lab, scale: Scale) -> str:
    """Negative control: a child has its parent's pipe, and its reports are its parent's."""
    lab.faults["off"] = ["fork guard"]
    curves = _forking(lab, 4)
    foreign = sum(step >= 100 for curve in curves for step in curve)
    assert foreign or lab.attempts() != {"complete": 4}, "no harm was seen"
    return f"{foreign} steps in the curves that no trial reported"


def _forking(lab: Lab, trials: int) -> list[list[int]]:
    lab.create(trials=trials, objective="objective.py:forking", fixed={"steps": 3})
    lab.worker("--runners", "2")
    lab.wait_for_end()
    assert lab.workers[0].wait().code == 0
    return [_steps(lab, number) for number in range(trials)]


def _steps(lab: Lab, number: int) -> list[int]:
    """The steps that a trial's curve has."""
    assert lab.row is not None
    (trial,) = [one for one in lab.trials() if one.number == number]
    return sorted(trial.intermediate_values)


@contextmanager
def database_away(lab: Lab, server: PgServer | None) -> Iterator[None]:
    """Meanwhile no worker can write: the server is stopped, or somebody holds SQLite's file."""
    if server is not None:
        server.stop()
        try:
            yield
        finally:
            server.start()
        return
    holder = sqlite3.connect(str(make_url(lab.url).database), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        holder.close()


def result_kept_and_worker_killed(lab: Lab, scale: Scale, server: PgServer | None) -> str:
    """A trial ends while the database is away, and its worker is killed: the next one delivers the result."""
    return _result_kept(lab, server, HpoProcess.kill, ["lost"])


def result_kept_and_worker_told(lab: Lab, scale: Scale, server: PgServer | None) -> str:
    """The worker is told to leave: it goes with 0 although it cannot deliver."""

    def told(worker: HpoProcess) -> None:
        worker.signal(signal.SIGTERM)
        assert worker.wait().code == 0

    return _result_kept(lab, server, told, ["lost", "released"])


def _result_kept(
    lab: Lab, server: PgServer | None, end: Callable[[HpoProcess], None], ends: list[str]
) -> str:
    lab.create(trials=1, objective="objective.py:late")
    worker = lab.worker()
    lab.wait(lambda: lab.journal_lines("waits"), "the trial waits")
    with database_away(lab, server):
        (lab.folder / "go-on").touch()
        lab.wait(lambda: list(lab.folder.glob("artifacts/*/0/1/result.json")), "the result is on disk")
        end(worker)
    lab.worker()
    lab.wait_for_end()
    assert lab.workers[-1].wait().code == 0
    found = lab.audit()
    assert found.holds, found
    assert found.results == 1
    assert lab.attempts() in [{one: 1, "complete": 1} for one in ends]
    assert len(lab.journal_lines("began")) == 1, "the trial was trained again"
    assert _steps(lab, 0) == [1, 2, 3, 4], "a report that was under way is delivered with the result"
    assert not list(lab.folder.glob("artifacts/*/0/*/result.json")), "delivered, it is kept no more"
    return "1 result delivered by the next worker with its 4 reports, 0 trained again"


def killed_before_the_acknowledgement(lab: Lab, scale: Scale) -> str:
    """A broker dies between a commit and its acknowledgement: no hole in a curve, nothing trained twice."""
    trials = scale.budget // 2
    lab.faults |= {"kill_worker": scale.acknowledgement, "at": ["after commit"]}
    _create_saving(lab, trials)
    with lab.keeping(scale.workers):
        lab.wait_for_end(240 + 8 * trials)
    kills = lab.failpoint_kills()
    assert set(kills) == {"worker after commit"}, kills
    assert not _holes(lab)
    assert [_steps(lab, number)[-1] for number in range(trials)] == [STEPS] * trials
    found = lab.audit()
    assert found.holds, found
    assert (found.results, found.duplicates, found.missing) == (trials, 0, 0)
    assert not (again := _trained_again(lab)), again
    return f"{kills.total()} brokers killed; {found.results} curves of {STEPS} steps without a hole"


def checkpoints_before_their_reports(lab: Lab, scale: Scale) -> str:
    """Negative control: a checkpoint does not wait for the reports before it, and a curve gets a hole."""
    lab.faults["off"] = ["waiting for commits"]
    _create_saving(lab, 1, steps=1000)
    worker = lab.worker()
    lab.wait(lambda: lab.journal_lines("saved-1"), "it has saved")
    worker.signal(signal.SIGSTOP)
    stood = _saved(lab)
    lab.wait(lambda: _saved(lab) > stood + 2, "it saves what its worker does not hear of")
    worker.signal(signal.SIGKILL)
    lab.worker()
    lab.wait(lambda: _holes(lab), "the curve has a hole")
    (curve,) = _holes(lab)
    missing = set(range(1, max(curve))) - set(curve)
    return f"{len(missing)} steps are missing in the curve"


def _saved(lab: Lab) -> int:
    """Up to which step the only trial has saved."""
    return max(map(int, re.findall(r"^saved-(\d+)", lab.journal.read_text(), re.MULTILINE)))


def _create_saving(lab: Lab, trials: int, steps: int = STEPS) -> None:
    fixed = {"steps": steps, "step_seconds": 0.02}
    lab.create(trials=trials, objective="objective.py:saving", fixed=fixed)


def _holes(lab: Lab) -> list[list[int]]:
    """Curves in which a step is missing before their last."""
    curves = [sorted(trial.intermediate_values) for trial in lab.trials()]
    return [steps for steps in curves if steps and steps != list(range(1, max(steps) + 1))]


def _trained_again(lab: Lab) -> list[str]:
    """Attempts that went on from less than their trial had saved."""
    saved: dict[str, int] = {}
    found = []
    for line in lab.journal.read_text().splitlines():
        word, _, trial, _ = line.split()
        what, step = word.split("-")
        if what == "saved":
            saved[trial] = max(saved.get(trial, 0), int(step))
        elif int(step) < saved.get(trial, 0):
            found.append(f"{line}, after {saved[trial]}")
    return found
