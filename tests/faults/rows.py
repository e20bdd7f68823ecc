"""The rows of the fault table: each does its damage, asserts what must hold, and returns its figures.

Each takes a `Lab` and a `Scale`; the same function runs in the short form (the tests) and in the long
one (`make faults`).
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import sqlalchemy as sa

from hpo.studies import creation, steering
from storage.database.records import WorkerState
from storage.database.tables import ticket, worker
from storage.queue import rungs, workers
from tests.faults.lab import GRACE, LEASE, STARVED, Lab
from tests.support.pg import PgServer
from tests.support.proxy import TcpProxy


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    workers: int
    cells: int
    kills: int  # by hand, beside those of failpoints
    every: float  # seconds between them
    chance: float  # of a failpoint to kill a runner
    starts: int  # at once
    budget: int
    more: int  # trials that `extend` adds
    down: float  # seconds without a server
    paused: float
    stops: int  # of a runner by hand
    lanes: int  # of a runner
    acknowledgement: float  # chance of a failpoint to kill a broker that has committed


SHORT = Scale(2, 16, 4, 0.7, 0.01, 3, 12, 6, 5.0, 5.0, 2, 8, 0.03)
LONG = Scale(8, 200, 60, 1.0, 0.004, 6, 100, 20, 30.0, 6.0, 40, 64, 0.02)


def killed_at_random(lab: Lab, scale: Scale) -> str:
    """Runners and workers die at any moment, and at the boundaries of transactions."""
    lab.create(cells=scale.cells, fixed={"steps": 4, "step_seconds": 0.1})
    lab.faults |= {"kill": scale.chance, "kill_worker": scale.chance / 5}
    with lab.keeping(scale.workers):
        lab.break_at_random(scale.kills, scale.every)
        lab.wait_for_end(120 + 2 * scale.cells)
    found = lab.audit()
    by_failpoint = lab.failpoint_kills()
    assert found.holds, [check for check in found.checks if not check.holds]
    assert (found.results, found.duplicates, found.missing) == (scale.cells, 0, 0)
    assert lab.completed_points() == list(range(scale.cells))
    runners, killed, asleep = (lab.kills[what] for what in ("runner", "worker", "frozen"))
    return (
        f"{runners} runners, {killed} workers killed, {by_failpoint.total()} more at transaction boundaries, "
        f"{asleep} frozen past the lease; {found.results}/{scale.cells} cells once each, "
        f"{found.rejected_writes} writes refused"
    )


def killed_every_second(lab: Lab, scale: Scale) -> str:
    """Four workers; every second one of them or of their runners is killed, for a minute."""
    lab.create(cells=scale.cells, fixed={"steps": 4, "step_seconds": 0.3})
    with lab.keeping(4):
        lab.break_at_random(scale.kills, 1.0, {"runner": 3, "worker": 1})
        killed = lab.kills.total()
        lab.wait_for_end(120 + 4 * scale.cells)
    found = lab.audit()
    assert found.holds, [check for check in found.checks if not check.holds]
    assert (found.results, found.duplicates, found.missing) == (scale.cells, 0, 0)
    assert lab.completed_points() == list(range(scale.cells))
    return (
        f"{killed} killed, at most one a second; {found.results}/{scale.cells} cells, 0 duplicates, 0 missing"
    )


HALVING = {"name": "asha", "min_epochs": 1, "max_epochs": 9, "reduction_factor": 3, "mode": "promote"}


def killed_while_promoting(lab: Lab, scale: Scale) -> str:
    """Trials are parked at rungs and promoted while runners and workers die: as many as were asked for."""
    trials = max(scale.budget, scale.kills)
    lab.create(
        cells=trials,
        objective="objective.py:climbing",
        pruner=HALVING,
        fixed={"step_seconds": 0.1 if scale is SHORT else 0.3},
    )
    lab.faults |= {"kill": scale.chance, "kill_worker": scale.chance / 5}
    with lab.keeping(scale.workers):
        lab.break_at_random(scale.kills, scale.every)
        lab.wait_for_end(120 + 4 * trials)
    come, epochs = _each_rung_once(lab, trials)
    again = len(lab.journal_lines("trained")) - epochs
    frozen, more = lab.kills["frozen"], lab.failpoint_kills().total()
    killed = lab.kills.total() - frozen + more
    return (
        f"{killed} killed ({more} at transaction boundaries), {frozen} frozen; {come}; "
        f"{again} epochs trained again"
    )


def _each_rung_once(lab: Lab, budget: int) -> tuple[str, int]:
    """Who came how far, in words, and the epochs that count; whoever dies, they are those of no death."""
    found = lab.audit()
    assert found.holds, [check for check in found.checks if not check.holds]
    brought = found.results, found.duplicates, found.missing
    assert brought == (budget, 0, 0), (brought, lab.states(), lab.attempts(), lab.ended_why("failed"))
    trials = {trial._trial_id: trial for trial in lab.trials()}
    assert lab.row is not None
    _, reached = lab.open().read(partial(rungs.newer, study_id=lab.row.id, since=0))
    at: list[dict[int, float | None]] = [{}, {}]
    for one in reached:
        assert (one.epoch, one.value) == (3**one.rung, trials[one.trial_id].intermediate_values[one.epoch])
        at[one.rung][one.trial_id] = one.value
    for trial_id, trial in trials.items():
        rungs_reached = sum(trial_id in there for there in at)
        epochs = 9 if trial.state.name == "COMPLETE" else 3 ** (rungs_reached - 1)
        assert sorted(trial.intermediate_values) == list(range(1, epochs + 1)), trial
    complete = {trial_id for trial_id, trial in trials.items() if trial.state.name == "COMPLETE"}
    for there, above in ((at[0], set(at[1])), (at[1], complete)):
        best = sorted(there, key=lambda trial_id: -(there[trial_id] or 0.0))[: len(there) // 3]
        assert set(best) <= above, "the best third of all that came to a rung has gone on"
    come = f"{len(at[0])}, {len(at[1])} and {len(complete)} trials at 1, 3 and 9 epochs, each rung once"
    return come, sum(len(trial.intermediate_values) for trial in trials.values())


def killed_in_lanes(lab: Lab, scale: Scale) -> str:
    """Runners with many trials at once die with them, and workers too: in the long form for two minutes."""
    cells = scale.lanes * 10
    _kill_lanes(lab, scale, cells=cells, fixed={"steps": 8, "step_seconds": 0.15})
    found = lab.audit()
    assert found.holds, [check for check in found.checks if not check.holds]
    assert (found.results, found.duplicates, found.missing) == (cells, 0, 0)
    assert lab.completed_points() == list(range(cells))
    assert all(sorted(trial.intermediate_values) == list(range(1, 9)) for trial in lab.trials())
    return f"{found.results}/{cells} cells once each, {_lanes_killed(lab, scale, 8 * cells)}"


def killed_in_promoted_lanes(lab: Lab, scale: Scale) -> str:
    """As `killed_in_lanes`, of trials that are parked and promoted: what a runner held dies with it."""
    cells = scale.lanes * (30 if scale.lanes > 8 else 4)
    fixed = {"climbs": True, "steps": 9, "step_seconds": 1.5 if scale.lanes > 8 else 0.1}
    _kill_lanes(lab, scale, cells=cells, pruner=HALVING, fixed=fixed)
    come, epochs = _each_rung_once(lab, cells)
    return f"{come}, {_lanes_killed(lab, scale, epochs)}"


def _kill_lanes(lab: Lab, scale: Scale, **spec: Any) -> None:
    """Two workers, their runners with many lanes; one is killed every 4 to 10 s, or five times as often."""
    lab.create(objective="objective.py:saving", lanes=scale.lanes, **spec)
    until = time.monotonic() + (120 if scale.lanes > 8 else 6)
    with lab.keeping(2):
        while time.monotonic() < until and not lab.ended():
            time.sleep(lab.random.uniform(4, 10) * (1 if scale.lanes > 8 else 0.2))
            what = lab.random.choice(["runner", "runner", "worker"])
            living = [psutil.Process(one.pid) for one in lab.workers if one.running]
            with contextlib.suppress(psutil.Error, IndexError):
                lab.random.choice(lab.runners() if what == "runner" else living).kill()
                lab.kills[what] += 1
        lab.wait_for_end(240 + spec["cells"])


def _lanes_killed(lab: Lab, scale: Scale, counted: int) -> str:
    """What became of the lanes, of whose epochs `counted` stand in the end."""
    assert lab.journal_lines(f"beside-{scale.lanes - 1}"), "all lanes were taken"
    epochs = sum(len(lab.journal_lines(f"beside-{others}")) for others in range(scale.lanes))
    return (
        f"{lab.kills['runner']} runners of {scale.lanes} lanes and {lab.kills['worker']} workers killed, "
        f"{lab.attempts().get('lost', 0)} attempts lost, "
        f"{epochs - counted} epochs trained again, {len(lab.journal_lines('beside-0'))} of {epochs} alone"
    )


def killed_without_take_back(lab: Lab, scale: Scale) -> str:
    """Control of row 1: when nobody takes tickets back, cells are lost with their runners."""
    lab.create(cells=4, fixed={"steps": 4, "step_seconds": 0.3})
    lab.faults["off"] = ["take back"]
    first = lab.worker()
    lab.wait(lambda: lab.journal_lines("began"), "a trial began")
    first.kill()
    lab.worker()
    lab.wait(lambda: lab.states().get("complete", 0) == 3, "the others complete")
    time.sleep(2.5 * LEASE)
    assert not lab.ended()
    assert lab.states().get("complete", 0) < 4
    return f"{lab.states().get('complete', 0)}/4 cells, one lost for good"


def frozen(lab: Lab, scale: Scale) -> str:
    """A worker and its runner stop for longer than the lease, and wake when another has the trial."""
    _freeze_and_thaw(lab)
    lab.wait(lambda: lab.audit().rejected_writes, "the stale result is refused")
    (lab.folder / "go-2").touch()
    lab.wait_for_end()
    found = lab.audit()
    assert found.holds, [check for check in found.checks if not check.holds]
    assert (found.results, found.duplicates) == (2, 0)
    assert lab.attempts() == {"complete": 2, "lost": 1}
    return f"{found.rejected_writes} stale writes refused, 0 accepted; 2/2 results"


def frozen_without_fence(lab: Lab, scale: Scale) -> str:
    """Control of row 2: without the fence both attempts' results count."""
    lab.faults["off"] = ["fence"]
    _freeze_and_thaw(lab)
    lab.wait(lambda: lab.attempts().get("complete") == 2, "the stale result is accepted")
    (lab.folder / "go-2").touch()
    lab.wait_for_end()
    lab.wait(lambda: lab.audit().duplicates, "the other counts too")
    assert not lab.audit().holds
    return f"{lab.audit().duplicates} ticket with two results"


def _freeze_and_thaw(lab: Lab) -> None:
    lab.create(trials=2, objective="objective.py:silent")
    first = lab.worker()
    lab.wait(lambda: lab.journal_lines("began"), "a trial began")
    family = [psutil.Process(first.pid), *first.children()]
    lab.suspend(family)
    lab.worker()
    lab.wait(lambda: any(line[2] == "2" for line in lab.journal_lines("began")), "another worker takes over")
    (lab.folder / "go-1").touch()
    for process in reversed(family):
        process.resume()


def started_at_once(lab: Lab, scale: Scale) -> str:
    """Several `hpo run` of one study file begin at the same moment on an empty database."""
    lab.env["HPO_LEASE"] = STARVED
    spec = lab.spec(trials=scale.budget, fixed={"steps": 2, "step_seconds": 0.02})
    runs = [
        lab.start("run", str(spec), "--runners", "1", "--gpus", "none", "--no-report", "--quiet")
        for _ in range(scale.starts)
    ]
    ends = [run.wait(180) for run in runs]
    assert [end.code for end in ends] == [0] * scale.starts, "\n".join(map(str, ends))
    lab.row = creation.find(lab.open(), "study")
    found = lab.audit()
    assert found.holds, found
    assert found.results == scale.budget
    assert len(lab.journal_lines("ended")) == scale.budget
    return f"{scale.starts} starts, one study, {found.results}/{scale.budget} trials, no crash"


def started_without_lock(lab: Lab, scale: Scale) -> str:
    """Control of row 3: without the lock somebody crashes while the tables are made."""
    starts = max(scale.starts, 4)
    lab.faults |= {"off": ["migration lock"], "together": starts}
    runs = [lab.start("db", "upgrade") for _ in range(starts)]
    crashed = sum(run.wait().code != 0 for run in runs)
    assert crashed
    return f"{crashed} of {starts} starts crashed"


def exact_budget(lab: Lab, scale: Scale) -> str:
    """So many trials as asked, and after `extend` exactly so many more."""
    lab.env["HPO_LEASE"] = STARVED
    row = lab.create(trials=scale.budget, fixed={"steps": 2, "step_seconds": 0.05})
    with lab.keeping(scale.workers):
        lab.wait(lambda: lab.states().get("complete", 0) >= scale.budget // 2, "half is done")
        creation.extend(lab.open(), row, trials=scale.more)
        lab.wait_for_end()
        first = lab.audit().results
        creation.extend(lab.open(), row, trials=scale.more)
        lab.wait_for_end()
    found = lab.audit()
    assert found.holds, found
    expected = scale.budget + scale.more
    assert (first, found.results) == (expected, expected + scale.more)
    assert len(lab.journal_lines("began")) == found.results
    return f"{first}/{expected}, extended again {found.results}/{expected + scale.more}; none ran twice"


def inexact_budget(lab: Lab, scale: Scale) -> str:
    """Control of row 4: with a claim in two steps, trials run twice."""
    lab.faults["off"] = ["atomic claim", "fence"]
    lab.create(trials=10_000, fixed={"steps": 2, "step_seconds": 0.05})
    for _ in range(max(2, scale.workers)):
        lab.worker()
    lab.wait(lambda: _ran_twice(lab), "a ticket is run twice")
    return f"{_ran_twice(lab)} ran twice"


def _ran_twice(lab: Lab) -> int:
    began = [line[1] for line in lab.journal_lines("began")]
    return len(began) - len(set(began))


def told_to_leave(lab: Lab, scale: Scale) -> str:
    """SIGTERM and Ctrl-C once and twice: the ticket is free at once, nothing counts as failed."""
    row = lab.create(trials=1, objective="objective.py:saving", fixed={"steps": 1000, "step_seconds": 0.1})
    told = []
    for signals, code in (([signal.SIGTERM], 0), ([signal.SIGINT], 130), ([signal.SIGINT] * 2, 130)):
        before = len(lab.journal_lines("began")) + _saved(lab)
        worker = lab.worker()
        lab.wait(lambda before=before: _saved(lab) > before, "a checkpoint is saved")
        began = time.monotonic()
        for number in signals:
            worker.signal(number)
            time.sleep(0.02)
        assert worker.wait().code == code
        told.append(time.monotonic() - began)
        assert lab.states() == {"queued": 1}
    assert lab.attempts() == {"released": 3}
    starts = [
        int(line.split()[0].removeprefix("from-")) for line in _journal(lab) if line.startswith("from-")
    ]
    assert starts[0] == 0
    assert starts[1] > 0, "the second attempt goes on from the first one's checkpoint"
    steering.stop(lab.open(), row)
    return (
        f"released after {', '.join(f'{seconds:.1f}' for seconds in told)} s; resumed at steps {starts[1:]}"
    )


def _journal(lab: Lab) -> list[str]:
    return lab.journal.read_text().splitlines() if lab.journal.exists() else []


def _saved(lab: Lab) -> int:
    return sum(line.startswith("saved-") for line in _journal(lab))


def server_away(lab: Lab, scale: Scale, server: PgServer) -> str:
    """The database restarts, crashes, is stopped, stands still, can only be read, drops connections.

    The workers live on, and a dashboard that watches takes no trial from them.
    """
    lab.env["HPO_LEASE"] = str(2 * LEASE)
    row = lab.create(trials=10_000, fixed={"steps": 4, "step_seconds": 0.1})
    family = [lab.worker("--runners", "2") for _ in range(2)]
    family.append(lab.start("dashboard", "--port", "0"))
    lab.wait(lambda: lab.states().get("complete", 0) >= 2, "trials complete")
    outages: list[tuple[str, Callable[[], object]]] = [
        ("fast restart", server.restart),
        ("immediate stop", lambda: server.restart("immediate")),
        ("SIGKILL", lambda: (server.kill(), server.start())),
        (f"{scale.down:g} s down", lambda: (server.stop(), time.sleep(scale.down), server.start())),
        (f"{scale.paused:g} s paused", lambda: (server.pause(), time.sleep(scale.paused), server.resume())),
        (f"{scale.paused:g} s for reading only", lambda: _read_only(server, scale.paused)),
        ("transactions cut", lambda: [_cut_transactions(lab, server) for _ in range(40)]),
    ]
    for what, outage in outages:
        outage()
        before = _complete(lab)
        lab.wait(lambda before=before: _complete(lab) >= before + 2, f"trials complete after {what}")
        said = [worker.err[-3000:] for worker in family]
        assert all(worker.running for worker in family), (what, said)
        assert not lab.attempts().get("lost"), (what, lab.ended_why("lost"), said)
    steering.stop(lab.open(), row)
    assert [worker.wait().code for worker in family[:2]] == [0, 0]
    found = lab.audit()
    assert found.holds, found
    attempts = lab.attempts()
    assert set(attempts) == {"complete"}, attempts
    return f"{len(outages)} outages, {found.results} results, 0 failed, 0 lost, workers alive"


def told_to_leave_while_away(lab: Lab, scale: Scale, server: PgServer) -> str:
    """SIGTERM in an outage: the worker goes in time, and nobody is blamed."""
    lab.create(trials=1, fixed={"steps": 100, "step_seconds": 0.1})
    worker = lab.worker()
    lab.wait(lambda: lab.journal_lines("began"), "the trial began")
    server.stop()
    worker.wait_for("database away")
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait().code == 0
    seconds = time.monotonic() - began
    server.start()
    successor = lab.worker()
    lab.wait(lambda: len(lab.journal_lines("began")) > 1, "another goes on")
    successor.signal(signal.SIGTERM)
    assert successor.wait().code == 0
    assert set(lab.attempts()) <= {"lost", "released"}, lab.attempts()
    return f"left after {seconds:.1f} s of {GRACE:g}; attempts {dict(lab.attempts())}, 0 failed"


def _complete(lab: Lab) -> int:
    return lab.states().get("complete", 0)


def _read_only(server: PgServer, seconds: float) -> None:
    """What sessions find that were carried over to a standby."""
    for value in ("on", "off"):
        with server.connect() as admin:
            admin.autocommit = True
            admin.execute("SET default_transaction_read_only = off")
            admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            admin.execute("SELECT pg_reload_conf()")
        if value == "on":
            time.sleep(seconds)


def _cut_transactions(lab: Lab, server: PgServer) -> None:
    with contextlib.suppress(Exception):
        server.disconnect_clients(lab.direct_url, only_in_transaction=True)
    time.sleep(0.02)


def network_cut(lab: Lab, scale: Scale, proxy: TcpProxy, proxied: str) -> str:
    """One worker loses its network for longer than the lease; the other goes on, and has its trials."""
    row = lab.create(trials=10_000, fixed={"steps": 5, "step_seconds": 0.2})
    # On a busy machine answers scatter by a third of a second, by which a witness of a shorter lease takes a
    # clock to have jumped, and waits anew.
    lease = {"HPO_LEASE": str(2 * LEASE)}
    far = lab.worker("--runners", "2", "--name", "far", HPO_STORAGE=proxied, **lease)
    near = lab.worker(**lease)
    lab.wait(lambda: _complete(lab) >= 2, "trials complete")
    before, began = _complete(lab), time.monotonic()
    _cut_until_lost(lab, proxy)
    seconds = time.monotonic() - began
    lab.wait(lambda: _complete(lab) > before, "others go on")
    during = _complete(lab) - before
    proxy.heal(forget=True)
    lab.wait(lambda: _complete(lab) >= before + during + 4, "trials go on")
    far_worked = _good_attempts(lab)
    lab.wait(
        lambda: all(now > then for now, then in zip(_good_attempts(lab), far_worked, strict=True)),
        "both workers go on",
    )
    steering.stop(lab.open(), row)
    assert [worker.wait().code for worker in (far, near)] == [0, 0]
    found = lab.audit()
    assert found.holds, found
    assert found.failed == 0
    lost = lab.attempts()["lost"]
    return f"{seconds:.0f} s cut: {during} trials elsewhere meanwhile, {lost} taken over, 0 duplicates"


def _cut_until_lost(lab: Lab, proxy: TcpProxy) -> None:
    """Cut the network of the worker `far` until it has lost a trial.

    Both its runners may just be between two trials, since what they bring is committed together: then it has
    nothing to lose, and is cut anew.
    """
    theirs = worker.c.id == ticket.c.worker_id
    held = sa.select(ticket.c.id).join(worker, theirs).where(worker.c.name == "far")

    def holds() -> bool:
        return lab.open().read(lambda c: c.scalar(held.limit(1))) is not None

    for _ in range(20):
        proxy.cut("hold")
        lab.wait(lambda: lab.attempts().get("lost") or not holds(), "the cut worker's trial is lost", 150)
        if lab.attempts().get("lost"):
            return
        proxy.heal()
        lab.wait(holds, "the worker goes on")
    raise AssertionError("it was between two trials each time")


def _good_attempts(lab: Lab) -> list[int]:
    rows = lab.open().read(lambda c: workers.all_workers(c))
    return [row.good_attempts for row in rows]


BAD = {
    "raise": "ValueError: boom",
    "nan": "the objective returned nan",
    "exit": "exited with status 3",
    "segfault": "SIGSEGV",
    "memory": "MemoryError",
    "hang": "report_timeout",
}


def bad_objectives(lab: Lab, scale: Scale) -> str:
    """Whatever an objective does, its attempt says so, the worker lives, and it is never the best.

    An infinite result is one, and the last of all.
    """
    from hpo.studies.reading import history

    kinds = ["good", "inf", *BAD, "fine"]
    lab.create(
        objective="objective.py:bad",
        sampler={"name": "grid", "seed": 0},
        space={"kind": {"type": "categorical", "choices": kinds}},
        report_timeout=5.0,
    )
    worker = lab.worker()
    lab.wait_for_end()
    assert worker.wait().code == 0
    found = history(lab.open(), "study")
    by_kind = {trial.params["kind"]: trial for trial in found.trials}
    for kind, sentence in BAD.items():
        assert by_kind[kind].state == ("diverged" if kind == "nan" else "failed"), by_kind[kind]
        assert sentence in str(by_kind[kind].error), by_kind[kind].error
    assert by_kind["inf"].state == "complete"
    assert {trial.params["kind"] for trial in found.winners} <= {"good", "fine"}
    return f"{len(BAD)} kinds of failure recorded, worker alive, 2 good trials"


def wrong_clocks(lab: Lab, scale: Scale) -> str:
    """Two workers whose clocks are two hours apart: nobody's lease expires."""
    lab.env["HPO_LEASE"] = STARVED
    lab.create(trials=6, fixed={"steps": 4, "step_seconds": 0.3})
    lab.faults["clock"] = -7200
    lab.worker()
    lab.faults["clock"] = 7200
    lab.worker()
    lab.wait_for_end()
    assert lab.attempts() == {"complete": 6}
    assert lab.audit().holds
    return "4 h apart: 6/6 trials, 0 leases expired"


def one_name(lab: Lab, scale: Scale) -> str:
    """Two workers of one name; one dies and starts again under it."""
    lab.create(trials=8, fixed={"steps": 4, "step_seconds": 0.2})
    first = lab.worker("--name", "same")
    second = lab.worker("--name", "same")
    lab.wait(lambda: len(lab.journal_lines("began")) >= 2, "both work")
    first.kill()
    third = lab.worker("--name", "same")
    lab.wait_for_end()
    assert [worker.wait().code for worker in (second, third)] == [0, 0]
    known = lab.open().read(lambda c: workers.all_workers(c))
    states = sorted(row.state for row in known)
    assert [row.name for row in known] == ["same"] * 3, known
    assert states == [WorkerState.LEFT, WorkerState.LEFT, WorkerState.LOST], known
    found = lab.audit()
    assert found.holds
    assert found.results == 8
    return f"3 starts known apart, 8/8 trials, {lab.attempts().get('lost', 0)} lost and taken over"
