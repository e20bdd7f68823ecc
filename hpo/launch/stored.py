"""Launches as people use them: started, listed, stopped by id from any shell."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from hpo.errors import HpoError, NotFoundError, UserError
from hpo.launch.base import LaunchedWorker, Order, WorkerLife, find
from hpo.studies import confirming
from hpo.studies.answers import plain
from storage.database.engine import Database, Transaction
from storage.database.records import StudyRow
from storage.queue import launches
from storage.queue.launches import Launch


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
            launches.add,
            study_id=study.id,
            launcher=on,
            host=socket.gethostname(),
            workers=order.workers,
            handle=handle,
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
    row = database.read(launches.get, number)
    if row is None:
        raise NotFoundError(f"there is no launch {number}; `hpo launches` lists them")
    return row


def list_all(database: Database, study: StudyRow | None = None) -> list[dict[str, Any]]:
    """Every launch, or those of one study, as plain values; each is asked for its workers' states unless it
    was stopped, and its own is the one that says most about them.
    """

    def read(connection: Transaction) -> list[tuple[Launch, dict[str, Any]]]:
        found = launches.all_launches(connection, None if study is None else study.id)
        return [(launch, launches.handle_of(connection, launch.id)) for launch in found]

    return [_told(launch, handle) for launch, handle in database.read(read)]


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
    database.write(launches.mark_stopped, launch.id)


def _handle(database: Database, launch: Launch) -> dict[str, Any]:
    return database.read(launches.handle_of, launch.id)


def _told(launch: Launch, handle: Mapping[str, Any]) -> dict[str, Any]:
    every = range(launch.workers)
    if launch.stopped is not None:
        state, workers = "stopped", [LaunchedWorker(i, WorkerLife.ENDED, "stopped") for i in every]
    else:
        try:
            workers = find(launch.launcher).status(handle)
        except HpoError as error:  # its extra is not installed here
            workers = [LaunchedWorker(i, WorkerLife.UNKNOWN, str(error)) for i in every]
        order = (WorkerLife.RUNNING, WorkerLife.WAITING, WorkerLife.UNKNOWN, WorkerLife.FAILED)
        there = {worker.state for worker in workers}
        state = next((life for life in order if life in there), WorkerLife.ENDED).value
    return {
        "id": launch.id,
        "study": launch.study,
        "on": launch.launcher,
        "from": launch.host,
        "state": state,
        "workers": [{"worker": one.index, "state": one.state.value, "detail": one.detail} for one in workers],
        "started": plain(launch.created),
        "stopped": plain(launch.stopped),
    }
