"""Workers as detached Ray actors: each holds its share of a node and runs one `hpo worker` beside itself.

An actor starts its worker in its constructor, which Ray runs again elsewhere when a node dies; the lease of
the worker that went with the node expires, and its trial waits for the next. When a worker leaves because the
study has ended, its actor leaves too and frees its share. If the head of the cluster dies, the actors go with
it and their workers drain: nothing is lost, since results are in the database, and a new launch goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import RayError

from hpo.errors import HpoError, UserError, first_line
from hpo.launch.base import LaunchedWorker, Order, WorkerLife, left, outputs, tail
from hpo.launch.ray_actor import NAMESPACE, WorkerActor, last_word

_OPTIONS = ("address", "env", "restarts", "ship")
_RESTARTS = 100  # times that Ray starts a worker again, after its node or its process died
_BEGIN = 5.0  # seconds to hear of actors that cannot begin
_ANSWER = 5.0  # seconds for actors that run to say so
_SHIPPED = 100 << 20  # bytes of code that are sent along at most
_POLL = 0.2  # seconds between looks at workers that are leaving


class RayLauncher:
    """`--on ray`. The handle has the cluster's address and the actors' names.

    Options: `address`, else RAY_ADDRESS, else the cluster this machine belongs to (`ray://HOST:10001` from
    outside it); `ship=true` sends `--code` to the nodes instead of expecting it there; `restarts=N`; `env`.
    RAY_AUTH_MODE and the token are Ray's own business: it reads them from this environment.
    """

    name = "ray"
    crosses_machines = True

    def submit(self, order: Order) -> dict[str, Any]:
        """Start the actors, and wait a moment to hear of those that cannot begin."""
        order.check_options(self.name, _OPTIONS)
        restarts = order.whole_option("restarts", _RESTARTS, 0, 1_000_000)
        ship = order.chosen_option("ship", "false", "true") == "true"
        if ship:
            _check_size(order.code)
        address = order.options.get("address") or os.environ.get("RAY_ADDRESS") or "auto"
        share = {"num_gpus": order.gpus_per_worker, "num_cpus": _cpus(order)}
        names = [f"{order.study[:80]}-{secrets.token_hex(4)}-{index}" for index in range(order.workers)]
        code = None if ship else str(order.code)
        worker, study, *rest = order.arguments(code=Path() if ship else None)
        # An argument of the actor: a runtime_env stands in Ray's lists, and on a command line for a while.
        environment = order.environment()
        with _cluster(address, working_dir=str(order.code) if ship else None) as at:
            kind: Any = ray.remote(
                num_cpus=share["num_cpus"],
                num_gpus=share["num_gpus"],
                max_restarts=restarts,
                scheduling_strategy="SPREAD",
            )(WorkerActor)
            actors = [
                kind.options(name=name, namespace=NAMESPACE, lifetime="detached").remote(
                    name, [worker, study, "--name", name, *rest], environment, code
                )
                for name in names
            ]
            _hear_of_bad_starts(actors)
        return {"address": at, "actors": names, "share": share}

    def status(self, handle: Mapping[str, Any]) -> list[LaunchedWorker]:
        """Each worker's state; unknown when the cluster does not answer."""
        names = handle["actors"]
        try:
            with _cluster(handle["address"]):
                return _look(handle)
        except HpoError as error:
            return [LaunchedWorker(index, WorkerLife.UNKNOWN, str(error)) for index in range(len(names))]

    def logs(self, handle: Mapping[str, Any], worker: int | None, lines: int) -> str:
        """The last lines of the workers' output; of those that have ended, what the cluster kept."""
        names = handle["actors"]
        with _cluster(handle["address"]):
            return outputs(worker, len(names), lambda index: _output(names[index], lines))

    def stop(self, handle: Mapping[str, Any], grace: float) -> None:
        """SIGTERM to the worker inside each actor; what is left after `grace` seconds is killed."""
        with _cluster(handle["address"]):
            going = [actor for actor in map(_find, handle["actors"]) if actor is not None]
            told = [actor.leave.remote() for actor in going]
            reached, _ = (
                ray.wait(told, num_returns=len(told), timeout=min(grace, _ANSWER)) if told else ([], [])
            )
            waiting = [actor for actor, answer in zip(going, told, strict=True) if answer not in reached]
            for actor in waiting:  # not started, or between two nodes: nothing is running to be told
                ray.kill(actor, no_restart=True)
            deadline = time.monotonic() + grace
            while any(map(_find, handle["actors"])) and time.monotonic() < deadline:
                time.sleep(_POLL)
            for actor in filter(None, map(_find, handle["actors"])):
                ray.kill(actor, no_restart=True)


@contextmanager
def _cluster(address: str, working_dir: str | None = None) -> Iterator[str]:
    """Inside, this process is connected to the cluster, whose address is given.

    Raises:
        HpoError: it does not answer, or refuses; says what to look at.
    """
    shown = "the Ray cluster of this machine" if address == "auto" else f"the Ray cluster at {address}"
    _check_reachable(address, shown)
    connected = ray.is_initialized()  # by a notebook, say
    try:
        if not connected:
            ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"working_dir": working_dir} if working_dir else None,
            )
        yield address if address.startswith("ray://") else ray.get_runtime_context().gcs_address
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        first = first_line(error)
        wanted = "; one with a token wants RAY_AUTH_MODE=token and the token here too"
        hint = wanted if isinstance(error, ConnectionError) and "RAY_AUTH_MODE" not in first else ""
        raise HpoError(f"{shown} does not answer as it should: {first.rstrip('.')}{hint}") from error
    finally:
        if not connected:
            ray.shutdown()


def _check_reachable(address: str, shown: str) -> None:
    """Ray tries for a minute or more; a port that nobody listens on is told at once."""
    if address == "auto":
        return
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 10001), timeout=5):
            return
    except (OSError, ValueError) as error:
        raise HpoError(
            f"{shown} cannot be reached: {error}. Address it as HOST:PORT on one of its nodes, as "
            "ray://HOST:10001 from elsewhere"
        ) from error


def _find(name: str) -> Any:
    """The actor of that name; None when it has ended."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def _hear_of_bad_starts(actors: list[Any]) -> None:
    """Wait until all run, or for a moment: those that wait for room are well.

    Raises:
        HpoError: one cannot begin; none is left behind.
    """
    answers = [actor.report.remote() for actor in actors]
    deadline = time.monotonic() + _BEGIN
    waiting = answers
    while waiting and time.monotonic() < deadline:
        ready, waiting = ray.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
        try:
            ray.get(ready)
        except RayError as error:
            for actor in actors:
                with contextlib.suppress(RayError):
                    ray.kill(actor, no_restart=True)
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise HpoError(
                f"the workers cannot start on the cluster: {lines[-1] if lines else error}"
            ) from error


def _look(handle: Mapping[str, Any]) -> list[LaunchedWorker]:
    actors = [_find(name) for name in handle["actors"]]
    answers = [None if actor is None else actor.report.remote() for actor in actors]
    asked = [answer for answer in answers if answer is not None]
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=_ANSWER) if asked else ([], [])
    found = []
    for index, answer in enumerate(answers):
        if answer is None:
            found.append(_ended(index, handle["actors"][index]))
            continue
        try:
            if answer in ready:
                found.append(LaunchedWorker(index, WorkerLife.RUNNING, str(ray.get(answer))))
                continue
            share = handle["share"]
            why = f"for {share['num_cpus']:g} CPU and {share['num_gpus']:g} GPU"
        except RayError:
            why = "to be started again"
        found.append(LaunchedWorker(index, WorkerLife.WAITING, why))
    return found


def _ended(index: int, name: str) -> LaunchedWorker:
    word = last_word(name)
    if word is None:
        return LaunchedWorker(index, WorkerLife.FAILED, "gone from the cluster without a word")
    return left(index, word["status"])


def _output(name: str, lines: int) -> str:
    actor = _find(name)
    if actor is not None:
        with contextlib.suppress(RayError):  # waits, or ended meanwhile
            return str(ray.get(actor.logs.remote(lines), timeout=_ANSWER))
    return tail((last_word(name) or {"output": ""})["output"], lines)


def _cpus(order: Order) -> float:
    """Cores that Ray reserves: as ordered, else one for each runner on the CPU, one for all on a GPU."""
    if order.cpus_per_worker is not None:
        return order.cpus_per_worker
    return 1.0 if order.gpus_per_worker else float(order.runners_per_worker)


def _check_size(code: Path) -> None:
    """Ray packs a directory before it looks at its size, and never ends with one that it logs to."""
    if not code.is_dir():
        raise UserError(f"--code {code}: there is no such directory")
    size = 0
    for file in code.rglob("*"):
        with contextlib.suppress(OSError):
            size += file.stat(follow_symlinks=False).st_size
        if size > _SHIPPED:
            raise UserError(
                f"--option ship=true sends all of {code}, which is more than {_SHIPPED >> 20} MiB. "
                "Name a smaller directory with --code, or put the code where every node finds it"
            )


LAUNCHER = RayLauncher()
