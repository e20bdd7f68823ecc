"""Start the dashboard's server and say where it is."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable
from urllib.parse import quote

import uvicorn

from hpo.dashboard.access import Access, is_loopback, make_access
from hpo.dashboard.app import build_app, make_board
from hpo.dashboard.board import Board
from hpo.errors import UserError
from storage.engine import Database


def serve(
    database: Database,
    host: str,
    port: int,
    say: Callable[[str], None],
    *,
    token: str | None = None,
    view_token: str | None = None,
    hosts: Iterable[str] = (),
    lease: float = 15.0,
    study: str | None = None,
) -> None:
    """Serve until interrupted; the address said leads to `study`, or to all of them.

    Raises:
        UserError: another host without a token, a token that is too short, or the port is taken.
    """
    make_access(host, port, token, view_token)  # refused before anything listens
    listening = _listen(host, port)
    bound = listening.getsockname()[1]
    access = make_access(host, bound, token, view_token, hosts)
    say(f"dashboard of {database.shown_url} at {_address(host, bound, access, study, token is None)}")
    with listening:
        Server(make_board(database, access, lease=lease)).run(sockets=[listening])


class Server(uvicorn.Server):
    """uvicorn, which tells the event streams to end before it waits for them."""

    def __init__(self, board: Board) -> None:
        super().__init__(
            uvicorn.Config(
                build_app(board),
                log_level=logging.WARNING,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=3,
                lifespan="on",
            )
        )
        self._board = board

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn on its own loop."""
        self._board.hub.close()
        await super().shutdown(sockets)


def _address(host: str, port: int, access: Access, study: str | None, made_up: bool) -> str:
    shown = host if is_loopback(host) else (socket.gethostname() if host in ("0.0.0.0", "::") else host)  # noqa: S104
    shown = f"[{shown}]" if ":" in shown else shown
    page = "" if study is None else f"studies/{quote(study, safe='')}"
    secret = f"?token={access.token}" if made_up else ""  # one's own is known, and should not end in a log
    end = "" if study is not None else " (Ctrl-C ends it)"
    return f"http://{shown}:{port}/{page}{secret}{end}"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        raise UserError(
            f"port {port} of {host} cannot be used: {error.strerror}; choose another with --port"
        ) from error
    return listening
