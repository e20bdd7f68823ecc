"""Which process holds the write lock of a SQLite file: it may have been stopped, and then all others wait."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL

# Where SQLite puts its lock of writers: a byte of the shared memory file in WAL mode (as the format of the
# wal-index documents), or the RESERVED byte of the database file itself.
_IN_SHARED_MEMORY = 120
_IN_DATABASE = 0x40000001


def write_lock_holder(url: URL) -> int | None:
    """The pid of the process that holds the write lock of this database; None: nobody, or nobody can tell.

    Linux alone shows who holds a lock; of another machine or container it cannot.
    """
    if url.get_backend_name() != "sqlite":
        return None
    try:
        places = {
            Path(f"{url.database}{suffix}").stat().st_ino: byte
            for suffix, byte in (("-shm", _IN_SHARED_MEMORY), ("", _IN_DATABASE))
            if Path(f"{url.database}{suffix}").exists()
        }
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        # 3: POSIX  ADVISORY  WRITE 2401 08:01:1311 120 120; a waiting one has "->" after its number
        fields = line.split()
        if len(fields) == 8 and fields[3] == "WRITE":
            byte = places.get(int(fields[5].rpartition(":")[2]))
            end = float("inf") if fields[7] == "EOF" else int(fields[7])
            if byte is not None and int(fields[6]) <= byte <= end and int(fields[4]) > 0:
                return int(fields[4])
    return None


def is_stopped(pid: int) -> bool:
    """Whether somebody has stopped the process (SIGSTOP, Ctrl-Z, a debugger)."""
    import psutil  # only here: most commands meet no lock

    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return False


def held_by(url: URL) -> str:
    """What a message says after "the database is locked": by which process; empty when nobody can tell."""
    pid = write_lock_holder(url)
    if pid is None:
        return ""
    return f" by process {pid}" + (
        f", which is stopped: `kill -CONT {pid}` lets it go on, `kill -KILL {pid}` ends it"
        if is_stopped(pid)
        else ""
    )
