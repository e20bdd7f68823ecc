"""The dashboard as a process of its own beside a run, ended with it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from hpo.dashboard.access import make_access
from hpo.settings import ALONE
from storage.database.engine import Database


@contextmanager
def beside(database: Database, study: str, say: Callable[[str], None], open_browser: bool) -> Iterator[None]:
    """Serve the dashboard on a free port of this machine until the block ends; what it says goes to `say`.

    A process of its own, so that pages never slow the run down. It ends when its standard input does,
    which happens however this process ends.

    Raises:
        UserError: HPO_DASHBOARD_TOKEN is too short.
    """
    make_access("127.0.0.1", 0, *_tokens())  # before anything runs
    storage = database.url.render_as_string(hide_password=False)
    environment = {**ALONE, **os.environ, "HPO_STORAGE": storage}
    process = subprocess.Popen(  # noqa: S603 -- our own interpreter and module
        [sys.executable, "-m", "hpo.dashboard.beside", study, *(["--open"] if open_browser else [])],
        env=environment,  # the URL may carry a password, which arguments would show to everybody
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,  # never straight to a terminal, on which the run draws
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Ctrl-C is for the run: it drains, and the dashboard goes on showing it
    )
    assert process.stdin is not None
    assert process.stdout is not None
    threading.Thread(target=_pass_on, args=(process.stdout, say), name="dashboard", daemon=True).start()
    try:
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()


def _pass_on(lines: Iterable[str], say: Callable[[str], None]) -> None:
    for line in lines:
        say(line.rstrip())


def _tokens() -> tuple[str | None, str | None]:
    """The token and the view token that were chosen."""
    names = ("HPO_DASHBOARD_TOKEN", "HPO_DASHBOARD_VIEW_TOKEN")
    token, view_token = (os.environ.get(name) or None for name in names)
    return token, view_token


def main(study: str, *options: str) -> None:
    """What the process does."""
    from hpo.dashboard.server import serve
    from hpo.errors import HpoError
    from hpo.settings import Settings
    from hpo.wiring import open_storage
    from storage.database.errors import StorageError

    def watch() -> None:
        sys.stdin.read()
        os._exit(0)

    def say(message: str) -> None:
        print(message, flush=True)

    threading.Thread(target=watch, daemon=True).start()
    settings = Settings.from_environment()
    token, view_token = _tokens()
    try:
        serve(
            open_storage(settings),
            "127.0.0.1",
            0,
            say,
            token=token,
            view_token=view_token,
            lease=settings.lease,
            study=study,
            open_browser="--open" in options,
        )
    except (HpoError, StorageError) as error:
        say(f"the dashboard ended: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
