"""Launches as people use them: started, listed, stopped by id from any shell."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpo.errors import HpoError, NotFoundError, UserError
from hpo.launch.base import LaunchedWorker, Order, WorkerLife, find
from hpo.studies import confirming
from hpo.studies.answers import plain
from storage.database.engine import Database, Transaction
from storage.database.records import StudyRow
from storage.queue import launches
from storage.queue.launches import Launch


@dataclass(frozen=True)
class LaunchView:
    """A launch and its workers as they are now."""

    launch: Launch
    workers: Sequence[LaunchedWorker]

    @property
    def state(self) -> str:
        """stopped, or the state that says most about its workers."""
        if self.launch.stopped is not None:
            return "stopped"
        there = {worker.state for worker in self.workers}
        order = (WorkerLife.RUNNING, WorkerLife.WAITING, WorkerLife.UNKNOWN, WorkerLife.FAILED)
        return next((state.value for state in order if state in there), WorkerLife.ENDED.value)


def start(database: Database, study: StudyRow, on: str, order: Order) -> Launch:
    """Start workers of a study and remember them.

    Raises:
        UserError: no such launcher, an option or resource that cannot be had, a study that has ended, a
            database that the workers could not reach. HpoError: the launcher cannot start anything now.
    """
    launcher = find(on)
    if study.state.ended and confirming.open_(database, study) is None:
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


def get(database: Database, number: int) -> Launch:
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

    def read(connection: Transaction) -> list[tuple[Launch, dict[str, Any]]]:
        found = launches.all_launches(connection, None if study is None else study.id)
        return [(launch, launches.handle_of(connection, launch.id)) for launch in found]

    return [LaunchView(launch, _workers(launch, handle)) for launch, handle in database.read(read)]


def logs(database: Database, launch: Launch, worker: int | None, lines: int) -> str:
    """The last lines of the workers' output.

    Raises:
        NotFoundError: no such worker. HpoError: it cannot be reached from here.
    """
    return find(launch.launcher).logs(_handle(database, launch), worker, lines)


def stop(database: Database, launch: Launch, grace: float) -> None:
    """Have the workers give their tickets back and leave; what is left after `grace` seconds is ended.

    Raises:
        HpoError: they cannot be reached from here; the launch stays as it is.
    """
    find(launch.launcher).stop(_handle(database, launch), grace)
    forget(database, launch)


def forget(database: Database, launch: Launch) -> None:
    """Note that a launch is over, without asking its launcher."""
    database.write(lambda connection: launches.mark_stopped(connection, database.clock, launch.id))


def launch_json(view: LaunchView) -> dict[str, Any]:
    """A launch as plain values."""
    launch = view.launch
    return {
        "id": launch.id,
        "study": launch.study,
        "on": launch.launcher,
        "from": launch.host,
        "state": view.state,
        "workers": [
            {"worker": worker.index, "state": worker.state.value, "detail": worker.detail}
            for worker in view.workers
        ],
        "started": plain(launch.created),
        "stopped": plain(launch.stopped),
    }


def _handle(database: Database, launch: Launch) -> dict[str, Any]:
    return database.read(lambda connection: launches.handle_of(connection, launch.id))


def _workers(launch: Launch, handle: Mapping[str, Any]) -> list[LaunchedWorker]:
    if launch.stopped is not None:
        return [LaunchedWorker(index, WorkerLife.ENDED, "stopped") for index in range(launch.workers)]
    try:
        return find(launch.launcher).status(handle)
    except HpoError as error:  # its extra is not installed here
        return [LaunchedWorker(index, WorkerLife.UNKNOWN, str(error)) for index in range(launch.workers)]
