"""Launches as people use them: started, listed, stopped by id from any shell."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpo.errors import HpoError, NotFoundError, UserError
from hpo.launch.base import LaunchedWorker, Order, WorkerLife, find
from hpo.studies.answers import plain
from storage.database.clock import to_datetime
from storage.database.engine import Database
from storage.database.records import StudyRow
from storage.queue import launches
from storage.queue.launches import LaunchRow


@dataclass(frozen=True)
class LaunchView:
    """A launch and its workers as they are now."""

    row: LaunchRow
    workers: Sequence[LaunchedWorker]

    @property
    def state(self) -> str:
        """stopped, or the state that says most about its workers."""
        if self.row.stopped_at is not None:
            return "stopped"
        there = {worker.state for worker in self.workers}
        order = (WorkerLife.RUNNING, WorkerLife.WAITING, WorkerLife.UNKNOWN, WorkerLife.FAILED)
        return next((state.value for state in order if state in there), WorkerLife.ENDED.value)


def start(database: Database, study: StudyRow, on: str, order: Order) -> LaunchRow:
    """Start workers of a study and remember them.

    Raises:
        UserError: no such launcher, an option or resource that cannot be had, a study that has ended, a
            database that the workers could not reach. HpoError: the launcher cannot start anything now.
    """
    launcher = find(on)
    if study.state.ended:
        raise UserError(f"{study.name} is {study.state}: {study.ended_why}; its workers would leave at once")
    if launcher.crosses_machines and database.url.get_backend_name() == "sqlite":
        raise UserError(
            f"--on {on} starts workers on other machines, and {database.shown_url} is a file of this one. "
            "Keep the study in PostgreSQL, or use --on local"
        )
    handle = launcher.submit(order)
    try:
        number = database.write_once(
            lambda connection: launches.add(
                connection,
                database.clock,
                study_id=study.id,
                launcher=on,
                host=socket.gethostname(),
                workers=order.workers,
                handle=handle,
            )
        )
    except BaseException:  # nobody could find them again
        launcher.stop(handle, 0.0)
        raise
    return get(database, number)


def get(database: Database, number: int) -> LaunchRow:
    """One launch.

    Raises:
        NotFoundError: there is none of that id.
    """
    row = database.read(lambda connection: launches.get(connection, number))
    if row is None:
        raise NotFoundError(f"there is no launch {number}; `hpo launches` lists them")
    return row


def list_all(database: Database, study: StudyRow | None = None) -> list[LaunchView]:
    """Every launch, or those of one study, each asked for its workers' states unless it was stopped."""
    rows = database.read(lambda c: launches.all_launches(c, None if study is None else study.id))
    return [LaunchView(row, _workers(row)) for row in rows]


def logs(row: LaunchRow, worker: int | None, lines: int) -> str:
    """The last lines of the workers' output.

    Raises:
        NotFoundError: no such worker. HpoError: it cannot be reached from here.
    """
    return find(row.launcher).logs(row.handle, worker, lines)


def stop(database: Database, row: LaunchRow, grace: float) -> None:
    """Have the workers give their tickets back and leave; what is left after `grace` seconds is ended.

    Raises:
        HpoError: they cannot be reached from here; the launch stays as it is.
    """
    find(row.launcher).stop(row.handle, grace)
    forget(database, row)


def forget(database: Database, row: LaunchRow) -> None:
    """Note that a launch is over, without asking its launcher."""
    database.write(lambda connection: launches.mark_stopped(connection, database.clock, row.id))


def launch_json(view: LaunchView) -> dict[str, Any]:
    """A launch as plain values."""
    row = view.row
    return {
        "id": row.id,
        "study": row.study,
        "on": row.launcher,
        "from": row.host,
        "state": view.state,
        "workers": [
            {"worker": worker.index, "state": worker.state.value, "detail": worker.detail}
            for worker in view.workers
        ],
        "started": plain(to_datetime(row.created_at)),
        "stopped": plain(to_datetime(row.stopped_at)),
    }


def _workers(row: LaunchRow) -> list[LaunchedWorker]:
    if row.stopped_at is not None:
        return [LaunchedWorker(index, WorkerLife.ENDED, "stopped") for index in range(row.workers)]
    try:
        return find(row.launcher).status(row.handle)
    except HpoError as error:  # its extra is not installed here
        return [LaunchedWorker(index, WorkerLife.UNKNOWN, str(error)) for index in range(row.workers)]
