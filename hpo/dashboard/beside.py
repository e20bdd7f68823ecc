"""The dashboard as a process of its own beside a run, ended with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from storage.engine import Database


@contextmanager
def beside(database: Database, study: str) -> Iterator[None]:
    """Serve the dashboard on a free port of this machine until the block ends; it says where.

    A process of its own, so that pages never slow the run down. It ends when its standard input does,
    which happens however this process ends.
    """
    environment = {**os.environ, "HPO_STORAGE": database.url.render_as_string(hide_password=False)}
    process = subprocess.Popen(  # noqa: S603 -- our own interpreter and module
        [sys.executable, "-m", "hpo.dashboard.beside", study],
        env=environment,  # the URL may carry a password, which arguments would show to everybody
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the run: it drains, and the dashboard goes on showing it
    )
    try:
        yield
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()


def main(study: str) -> None:
    """What the process does."""
    import threading

    from hpo.dashboard.server import serve
    from hpo.settings import Settings
    from hpo.wiring import open_storage

    def watch() -> None:
        sys.stdin.read()
        os._exit(0)

    def say(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    threading.Thread(target=watch, daemon=True).start()
    settings = Settings.from_environment()
    token = os.environ.get("HPO_DASHBOARD_TOKEN") or None
    serve(open_storage(settings), "127.0.0.1", 0, say, token=token, lease=settings.lease, study=study)


if __name__ == "__main__":
    main(sys.argv[1])
