"""Rows of the fault table about what passes between a broker and its runners."""

from __future__ import annotations

import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import psutil
from sqlalchemy.engine import make_url

from hpo.studies import steering
from tests.faults.lab import Lab
from tests.faults.rows import Scale
from tests.support.pg import PgServer

STOPPED = 2.0  # seconds; a report may take twice as long
GAP = (
    0.9 * STOPPED
)  # between two signs of life, at most: whoever waits for what is stopped shows none for longer


def stopped_runners(lab: Lab, scale: Scale) -> str:
    """SIGSTOP of a runner at any moment, also half-way through a message: nobody else waits for it."""
    longest, in_message, results = _beside_what_is_stopped(lab, scale.stops, whole_worker=False)
    assert longest < GAP, f"somebody stood still for {longest:.1f} s"
    assert in_message, "no runner was stopped in a message"
    attempts = lab.attempts()
    assert set(attempts) <= {"complete", "failed", "released"}, lab.ended_why("lost")
    assert attempts["failed"] == 1, lab.ended_why("failed")
    assert "report_timeout" in lab.ended_why("failed")[0]
    found = lab.audit()
    assert found.holds, found
    return (
        f"{scale.stops} stopped, {in_message} in a message; nobody else paused for more than {longest:.1f} "
        f"s, {results} results meanwhile, 0 lost, the last ended by its own deadline"
    )


def stopped_worker(lab: Lab, scale: Scale) -> str:
    """Negative control: stopped with its broker, a runner does delay its sibling, and that is seen."""
    longest, _, _ = _beside_what_is_stopped(lab, 1, whole_worker=True)
    assert longest > GAP, f"nobody stood still for longer than {longest:.1f} s"
    return f"the sibling stood still for {longest:.1f} s"


def _beside_what_is_stopped(lab: Lab, times: int, *, whole_worker: bool) -> tuple[float, int, int]:
    """(longest pause of anybody else meanwhile, stopped in a message, results meanwhile)."""
    row = lab.create(
        trials=10_000,
        objective="objective.py:chatty",
        fixed={"steps": 8, "step_seconds": 0.05},
        report_timeout=5 * STOPPED,  # looking takes its time, too, on a busy machine
    )
    both = lab.worker("--runners", "2")
    lab.worker()
    lab.wait(lambda: len(_signs(lab)) == 3, "three runners work")
    lab.wait(lambda: lab.states().get("complete", 0) >= 3, "trials complete")
    longest, in_message, results = 0.0, 0, lab.states()["complete"]
    for turn in range(times + 1):
        victim = lab.random.choice(both.children("hpo.runner.process"))
        if turn % 2:
            time.sleep(lab.random.uniform(0, 0.3))
        else:
            said = len(_lines(lab, victim.pid))
            lab.wait(
                lambda v=victim, n=said: _lines(lab, v.pid)[n:][-1:] == ["says"],
                "it says something",
                every=0.0,
            )
        others = {pid for pid in _signs(lab) if pid != victim.pid}
        began = time.monotonic()
        victim.suspend()
        if whole_worker:
            psutil.Process(both.pid).suspend()
        in_message += _lines(lab, victim.pid)[-1] == "says"
        if turn < times:
            time.sleep(STOPPED)  # it is the fault
            longest = max(longest, *(_longest_gap(lab, pid, began) for pid in others))
            if whole_worker:
                psutil.Process(both.pid).resume()
            victim.resume()
            if whole_worker:
                break  # its leases have expired, which is no more than right
            lab.wait(lambda v=victim, t=began: _signs(lab)[v.pid][-1] > t + STOPPED, "it goes on")
            assert not lab.attempts().get("lost"), lab.ended_why("lost")
        else:
            lab.wait(lambda: lab.attempts().get("failed"), "it is ended by its deadline")
            longest = max(longest, *(_longest_gap(lab, pid, began) for pid in others))
    results = lab.states()["complete"] - results
    steering.stop(lab.open(), row)
    assert [worker.wait(30).code for worker in lab.workers] == [0, 0]
    return longest, in_message, results


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


def _longest_gap(lab: Lab, pid: int, since: float) -> float:
    """Between two signs of life of a process from then until now."""
    marks = [since, *(at for at in _signs(lab)[pid] if at > since), time.monotonic()]
    return max(later - earlier for earlier, later in pairwise(marks))


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
    assert lab.workers[0].wait(30).code == 0
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
    lab.create(trials=1, objective="objective.py:late")
    worker = lab.worker()
    lab.wait(lambda: lab.journal_lines("waits"), "the trial waits")
    with database_away(lab, server):
        (lab.folder / "go-on").touch()
        lab.wait(lambda: list(lab.folder.glob("artifacts/*/0/1/result.json")), "the result is on disk")
        worker.kill()
    lab.worker()
    lab.wait_for_end()
    assert lab.workers[-1].wait(30).code == 0
    found = lab.audit()
    assert found.holds, found
    assert found.results == 1
    assert lab.attempts() == {"lost": 1, "complete": 1}
    assert len(lab.journal_lines("began")) == 1, "the trial was trained again"
    assert _steps(lab, 0) == [1, 2, 3, 4], "a report that was under way is delivered with the result"
    assert not list(lab.folder.glob("artifacts/*/0/*/result.json")), "delivered, it is kept no more"
    return "1 result delivered by the next worker with its 4 reports, 0 trained again"


STEPS = 8


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
