"""Serve optuna-dashboard on this machine, with a cached storage (a URL would be read anew at each poll)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from wsgiref.simple_server import WSGIRequestHandler, make_server

from optuna.storages import get_storage
from optuna_dashboard import wsgi

from hpo.errors import UserError
from storage.engine import Database


def serve(database: Database, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Raises:
        UserError: another address than loopback (there is no authentication yet), or the port is taken.
    """
    if not _is_loopback(host):
        raise UserError(
            f"--host {host}: the dashboard has no login yet, so it listens on 127.0.0.1 only. From another "
            "machine use a tunnel: ssh -L 8080:127.0.0.1:8080 HOST"
        )
    application = wsgi(get_storage(database.rdb))
    try:
        server = make_server(host, port, application, handler_class=_Quiet)
    except OSError as error:
        raise UserError(
            f"port {port} of {host} cannot be used: {error.strerror}; choose another with --port"
        ) from error
    say(f"dashboard of {database.shown_url} at http://{host}:{server.server_port}/ (Ctrl-C ends it)")
    with server:
        server.serve_forever()


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """No line for each request."""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
