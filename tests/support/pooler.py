"""A real pgbouncer in transaction mode before a test's PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import pytest
from sqlalchemy.engine import make_url

from tests.support.pg import ADMIN, PASSWORD, PgServer
from tests.support.ports import free_port
from tests.support.skips import NO_POOLER
from tests.support.waiting import wait_until


class Pooler:
    """Hands each transaction to any of a few sessions of the server, as pgbouncer does in transaction mode.

    `$PGBOUNCER` names the program; else it is looked for on the PATH.
    """

    def __init__(self, server: PgServer, size: int = 3) -> None:
        found = (
            os.environ.get("PGBOUNCER") or shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
        )
        if found is None:
            pytest.skip(NO_POOLER)
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="hpo-pooler-"))
        users = self._folder / "users.txt"
        users.write_text(f'"{ADMIN}" "{PASSWORD}"\n')
        settings = self._folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = plain\nauth_file = {users}\npool_mode = transaction\n"
            f"default_pool_size = {size}\nmax_client_conn = 200\n"
        )
        command = [found, str(settings)]
        if os.geteuid() == 0:  # it refuses to run as root
            owner = pwd.getpwnam("nobody")
            for path in (self._folder, users, settings):
                os.chown(path, owner.pw_uid, owner.pw_gid)
            command = [found, "-u", "nobody", str(settings)]
        log = self._folder / "log.txt"
        self._log = log.open("w")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        wait_until(self._answers, what=f"pgbouncer answers; {log.read_text()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(120)
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, direct: str) -> str:
        """The URL of a database of the server, by way of the pooler."""
        return make_url(direct).set(port=self.port).render_as_string(hide_password=False)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True
