"""Start the dashboard's server and say where it is."""

from __future__ import annotations

import html
import logging
import os
import socket
import ssl
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import uvicorn

from hpo.dashboard.access import LINK_SECONDS, OneTimeLink, is_loopback, make_access
from hpo.dashboard.app import build_app, make_board
from hpo.dashboard.board import Board
from hpo.dashboard.connections import Connection, connection_limit
from hpo.errors import UserError
from storage.database.engine import Database


@dataclass(frozen=True)
class Tls:
    """The files to speak TLS with, in PEM; checked when made.

    Raises:
        UserError: one cannot be read, is no certificate or key, has a passphrase, or belongs to another.
    """

    certificate: Path
    key: Path

    def __post_init__(self) -> None:
        for option, path in (("--tls-cert", self.certificate), ("--tls-key", self.key)):
            try:
                path.read_bytes()
            except OSError as error:
                raise UserError(f"{option} {path} cannot be read: {error.strerror}") from error

        def no_passphrase() -> str:
            raise UserError(
                f"--tls-key {self.key} has a passphrase; give a key without one, readable by you alone"
            )

        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, self.key, no_passphrase)
        except (ssl.SSLError, OSError) as error:
            raise UserError(
                f"--tls-cert {self.certificate} and --tls-key {self.key} are not a certificate and its key "
                f"in PEM: {error.strerror or error}"
            ) from error


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
    open_browser: bool = False,
    tls: Tls | None = None,
) -> None:
    """Serve until interrupted; the address said leads to `study`, or to all of them.

    Without a token the address is a link that opens once; `open_browser` opens such a link here and now.

    Raises:
        UserError: another host without a token, a token that is too short, or the port is taken.
    """
    make_access(host, port, token, view_token)  # refused before anything listens
    listening = _listen(host, port)
    bound = listening.getsockname()[1]
    access = make_access(host, bound, token, view_token, hosts)
    page = _address(host, bound, study, tls)

    def announce(code: str) -> None:
        say(f"a new link to the dashboard, good for one browser: {page}?code={code}")

    end = "" if study is not None else "; Ctrl-C ends it"
    if token is not None:  # it is known, and should not end in a log
        say(f"dashboard of {database.shown_url} at {page}{end}")
    else:
        access.link.announce = announce
        code = access.link.issue()
        say(f"dashboard: {page}?code={code}")
        say(f"(it shows {database.shown_url}; the link lets one browser in, once{end})")
    if open_browser:
        opening = (say, page, access.link, code if token is None else access.link.issue())
        threading.Thread(target=_open, args=opening, daemon=True).start()
    with listening:
        Server(make_board(database, access, lease=lease), tls).run(sockets=[listening])


class Server(uvicorn.Server):
    """uvicorn, which tells the event streams to end before it waits for them."""

    def __init__(self, board: Board, tls: Tls | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                build_app(board),
                log_level=logging.WARNING,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=3,
                lifespan="on",
                http=Connection,
                ws="none",
                limit_concurrency=connection_limit(),
                ssl_certfile=None if tls is None else str(tls.certificate),
                ssl_keyfile=None if tls is None else str(tls.key),
            )
        )
        self._board = board

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn on its own loop."""
        self._board.hub.close()
        await super().shutdown(sockets)


def _open(say: Callable[[str], None], page: str, link: OneTimeLink, code: str) -> None:
    """Open the link in this machine's browser.

    Through a file that only its owner reads: other users of the machine can read a browser's arguments.
    """
    if sys.platform.startswith("linux") and not {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & os.environ.keys():
        say("no browser can be opened here; open the link yourself")
        return
    with tempfile.TemporaryDirectory(prefix="hpo-", ignore_cleanup_errors=True) as folder:
        leading = Path(folder) / "dashboard.html"
        target = html.escape(f"{page}?code={code}")
        leading.write_text(f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={target}">', "utf-8")
        if webbrowser.open(leading.as_uri()):
            link.used.wait(LINK_SECONDS)
        else:
            say("no browser could be opened; open the link yourself")


def _address(host: str, port: int, study: str | None, tls: Tls | None) -> str:
    shown = host if is_loopback(host) else (socket.gethostname() if host in ("0.0.0.0", "::") else host)  # noqa: S104
    shown = f"[{shown}]" if ":" in shown else shown
    page = "" if study is None else f"studies/{quote(study, safe='')}"
    return f"{'http' if tls is None else 'https'}://{shown}:{port}/{page}"


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
