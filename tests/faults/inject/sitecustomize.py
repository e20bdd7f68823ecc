"""Faults inside the real processes: Python imports this at its start when the directory is on its path.

Installed by `tests.faults.lab` through PYTHONPATH, so that nothing of it is in the service.

HPO_FAULTS is JSON:
    seed, log      numbers drawn from (seed, number of this process); kills are noted in the file `log`
    kill           probability that a runner ends itself with SIGKILL just before it says something to its
                   worker, or just after
    kill_worker    probability that a worker does at a boundary of a transaction: as it begins, just before
                   its COMMIT, just after
    at             at these of the boundaries alone; by default at each of them
    clock          seconds by which this process's clock is wrong
    boot_step      seconds by which the wall clock has stepped when this process starts
    off            protections to switch off, for negative controls: see `_OFF`
    together       how many processes "migration lock" has at the tables at once
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def _is_runner() -> bool:
    """Whether this process is a runner, or its forks will be."""
    return not {"hpo.runner.process", "hpo.runner.nursery"}.isdisjoint(sys.orig_argv)


def _noted(file: Path, line: str) -> int:
    """Append a line of 40 bytes; returns how many lines there are now."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(descriptor, f"{line:<39.39}\n".encode())
        return os.lseek(descriptor, 0, os.SEEK_CUR) // 40
    finally:
        os.close(descriptor)


def _failpoints(plan: dict[str, Any], role: str) -> None:
    chance = float(plan.get("kill" if role == "runner" else "kill_worker", 0))
    if not chance:
        return
    log = Path(plan["log"])
    numbers: dict[int, random.Random] = {}  # by process: runners are forked from their nursery

    def boundary(name: str) -> None:
        mine = numbers.get(os.getpid())
        if mine is None:
            mine = random.Random(f"{plan['seed']} {_noted(log.with_suffix('.starts'), role)}")
            numbers[os.getpid()] = mine
        if name in plan.get("at", [name]) and mine.random() < chance:
            _noted(log, f"{role} {name}")
            os.kill(os.getpid(), signal.SIGKILL)

    if role == "runner":
        from hpo.runner.channel import Channel

        send = Channel.send

        def sending(self: Channel, content: bytes, **how: Any) -> None:
            boundary("before message")
            send(self, content, **how)
            boundary("after message")

        Channel.send = sending  # type: ignore[method-assign]
        return
    from sqlalchemy import event
    from sqlalchemy.engine import Engine
    from sqlalchemy.engine.default import DefaultDialect

    event.listen(Engine, "begin", lambda _connection: boundary("begin"))
    commit = DefaultDialect.do_commit

    def do_commit(self: DefaultDialect, connection: Any) -> None:
        boundary("before commit")
        commit(self, connection)
        boundary("after commit")

    DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]


def _without_fence() -> None:
    """Writes are not checked against the lease."""
    from storage.queue import leases

    leases.refusal = lambda _row, _lease: None  # type: ignore[assignment]


def _without_take_back() -> None:
    """The tickets of dead workers and runners stay with them."""
    from storage.queue import outcomes

    outcomes.lose = lambda *_args, **_more: None  # type: ignore[assignment]


def _without_migration_lock() -> None:
    """Everybody who finds an empty database makes its tables; each has looked before anyone makes one."""
    from contextlib import contextmanager

    from sqlalchemy import event

    from storage.database import migrate
    from storage.database.tables import metadata

    @contextmanager
    def together(_url: Any) -> Iterator[None]:
        event.listen(metadata, "before_create", lambda *_args, **_more: _meet(), once=True)
        yield

    migrate._lock = together  # type: ignore[assignment]


def _meet() -> None:
    """Go on when `together` processes have come here; HPO_FAULTS says how many."""
    plan = json.loads(os.environ["HPO_FAULTS"])
    here = Path(plan["log"]).with_suffix(".met")
    _noted(here, "here")
    give_up = time.monotonic() + 60
    while here.stat().st_size < 40 * plan["together"] and time.monotonic() < give_up:
        time.sleep(0.005)


def _without_atomic_claim() -> None:
    """A ticket is looked up, and then taken in another transaction."""
    import sqlalchemy as sa

    from hpo.worker.clerk import Clerk
    from hpo.worker.dispatch import Dispatch
    from storage.database.clock import database_now
    from storage.database.records import Claim
    from storage.database.tables import attempt, ticket
    from storage.queue import optuna_rows, tickets

    real = Dispatch.claimed

    def claimed(self: Any, orders: Any, connection: Any) -> Any:
        (order,) = orders
        (desk,) = order.desks
        free = sa.select(ticket).where(ticket.c.study_id == desk.study.row.id, ticket.c.state == "queued")
        row = connection.execute(free.order_by(ticket.c.number).limit(1)).first()
        if row is None:
            return real(self, orders, connection)
        connection.commit()
        time.sleep(0.3)
        me = {"worker_id": self.worker_id, "runner": desk.runner}
        until = database_now() + self.lease
        taken = {"state": "running", "attempt": row.attempt + 1, "lease_until": until, **me}
        trial = {"ticket_id": row.id, "number": row.attempt + 1, "state": "running", "started_at": 0.0}

        def take(c: Any) -> Claim:
            held = c.execute(
                ticket.update().where(ticket.c.id == row.id).values(**taken).returning(ticket)
            ).one()
            new = optuna_rows.upsert(c.dialect.name, attempt).values(device="cpu", **trial, **me)
            c.execute(new.on_conflict_do_nothing())
            (claim,) = tickets._claims(c, [held])
            return claim

        return [(desk, (self.transact(take), None, {}))]

    Dispatch.claimed = claimed  # type: ignore[method-assign]
    Clerk._is_one_study = staticmethod(lambda *_: False)  # type: ignore[method-assign, assignment]


def _without_start_ticks() -> None:
    """A process is told by its pid and the time of day at which it started."""
    import psutil

    from hpo.worker import identity

    def process_started(pid: int) -> float | None:
        try:
            return psutil.Process(pid).create_time()
        except psutil.Error:
            return None

    identity.process_started = process_started  # type: ignore[assignment]
    identity.is_alive = lambda pid, then: abs((process_started(pid) or 0.0) - then) < 2.0  # type: ignore[assignment]


def _without_handlers() -> None:
    """Signals do what they usually do."""
    if _is_runner():
        signal.signal = lambda *_: None  # type: ignore[assignment]


def _without_looking_for_leftovers() -> None:
    """What a dead worker's runners started is left alone."""
    from hpo.worker import leftovers

    leftovers.end_leftovers = lambda *_args, **_more: 0  # type: ignore[assignment]


def _without_fork_guard() -> None:
    """A forked process has its parent's pipe."""
    if _is_runner():
        from hpo.runner.link import Link

        Link._forked = lambda _self: None  # type: ignore[method-assign]


def _without_waiting_for_commits() -> None:
    """A checkpoint is saved whether or not the reports before it are written."""
    if _is_runner():
        from hpo.runner.link import Voice

        Voice.flush = lambda _self: None  # type: ignore[method-assign]


def _step_of_the_wall_clock(seconds: float) -> None:
    """The kernel's time of boot, and with it every process's time of start, has moved."""
    import psutil._pslinux as kernel

    booted = kernel.boot_time()
    kernel.BOOT_TIME = None  # type: ignore[attr-defined]
    kernel.boot_time = lambda: booted + seconds


_OFF = {
    "start ticks": _without_start_ticks,
    "handlers": _without_handlers,
    "leftovers": _without_looking_for_leftovers,
    "fence": _without_fence,
    "take back": _without_take_back,
    "migration lock": _without_migration_lock,
    "atomic claim": _without_atomic_claim,
    "fork guard": _without_fork_guard,
    "waiting for commits": _without_waiting_for_commits,
}


def _install() -> None:
    text = os.environ.get("HPO_FAULTS")
    if not text:
        return
    role = "runner" if _is_runner() else "worker" if "-m hpo" in " ".join(sys.orig_argv) else ""
    if not role:
        return
    plan = json.loads(text)
    _failpoints(plan, role)
    if plan.get("clock"):
        real = time.time
        time.time = lambda: real() + plan["clock"]
    if plan.get("boot_step"):
        _step_of_the_wall_clock(float(plan["boot_step"]))
    for name in plan.get("off", ()):
        _OFF[name]()


_install()
