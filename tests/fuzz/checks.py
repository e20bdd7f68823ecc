"""What must hold for whatever is thrown at hpo: sentences, no status 500, in seconds; nothing is forged.

Forged would be a result or a state that no trial brought about: a trial that is complete although its
objective returned no number, one too few, one that never ended, or a history that the audit refutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from starlette.testclient import TestClient

from hpo.dashboard.access import Access
from hpo.dashboard.app import build_app, make_board
from hpo.errors import SpecError
from hpo.spec import parse_spec
from storage.database.migrate import open_database
from tests.dashboard.conftest import BASE, TOKEN
from tests.dashboard.seeded import seed as seeded
from tests.support.command import look, run_hpo
from tests.support.cpu import at_most_cpu
from tests.support.study_files import FULL

LEASE = 36_000.0  # seconds; what runs in the seeded study is never overdue

CPU_SECONDS = 5.0  # that a study file or a request may take


@contextmanager
def a_dashboard(folder: Path) -> Iterator[TestClient]:
    """A script with the token at a dashboard of a seeded database."""
    url = f"sqlite:///{folder / 'seeded.db'}"
    database = open_database(url)
    seeded(database, url, folder / "artifacts")
    app = build_app(make_board(database, Access(TOKEN), lease=LEASE))
    with TestClient(app, base_url=BASE, raise_server_exceptions=False, follow_redirects=False) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        yield client
    database.close()


def a_place(folder: Path) -> Path:
    """The directory, with a study file and a database in it."""
    (folder / "s.yaml").write_text(FULL)
    look("create", "s.yaml", cwd=folder).check()
    return folder


def check_study_file(content: bytes) -> None:
    """It is read, or refused in printable sentences; quickly."""
    told = ""
    with at_most_cpu(CPU_SECONDS):
        try:
            parse_spec(content, "x.yaml")
        except SpecError as error:
            told = str(error)
    assert all(line.isprintable() for line in told.split("\n")), told


def check_request(client: TestClient, request: tuple[str, str, dict[str, str], bytes]) -> None:
    """It is answered, not with a status of 500; quickly."""
    method, address, headers, body = request
    with at_most_cpu(CPU_SECONDS):
        answer = client.request(method, address, headers=headers, content=body)
    assert answer.status_code < 500, (method, address[:300], body[:300], answer.text[:300])
    assert "Traceback" not in answer.text or "digits/trials/3" in address


def check_command_line(words: list[str], folder: Path) -> None:
    """It ends with one of the exit codes, and without a traceback."""
    result = look(*words, cwd=folder)
    assert result.code in (0, 1, 2, 3, 4, 64), words
    assert "Traceback" not in result.err, (words, result.err[-2000:])
    assert "\x1b" not in result.out + result.err, words


def check_objectives(bodies: list[str], folder: Path) -> None:
    """One study in which trial N runs body N, all in one runner: every trial ends, the audit holds, and
    what was recorded as complete has a number that its objective returned. What failed on a worker
    that was sent away is tried again under another number, by the same body.
    """
    cases = "\n".join(
        f"def case_{n}(trial):\n" + "\n".join(f"    {line}" for line in body.split("\n"))
        for n, body in enumerate(bodies)
    )
    names = ", ".join(f"case_{n}" for n in range(len(bodies)))
    call = f"def objective(trial):\n    return [{names}][trial.number % {len(bodies)}](trial)"
    (folder / "faulty.py").write_text(f"import sys\nimport optuna\n\n{cases}\n\n{call}\n", "utf-8")
    spec: dict[str, Any] = {
        "study": "faulty",
        "objective": "faulty.py",
        "direction": "minimize",
        "sampler": "random",
    }
    spec |= {"budget": {"trials": len(bodies)}}
    (folder / "faulty.yaml").write_text(yaml.safe_dump(spec))
    storage = {"HPO_STORAGE": "sqlite:///faulty.db"}
    for _ in range(len(bodies)):  # a worker whose trials all fail leaves after some
        run_hpo(
            "run", "faulty.yaml", "--runners", "1", "--no-report", "-q", cwd=folder, env=storage, timeout=300
        )
        counts = look("show", "faulty", "--format", "json", cwd=folder, env=storage).json
        if counts["state"] == "finished":
            break
        look("resume", "faulty", cwd=folder, env=storage)
    trials = look("trials", "faulty", "--format", "json", cwd=folder, env=storage).json
    assert len(trials) >= len(bodies)
    numbers = ("1", "-1", "2**70", "1e308", "True", "float('inf')")  # infinity is told, and never the best
    for trial in trials:
        body = bodies[trial["number"] % len(bodies)]
        assert trial["state"] in ("complete", "failed", "diverged", "pruned"), (trial, body)
        if trial["state"] == "complete":
            assert body.split("\n")[-1].removeprefix("return ") in numbers, trial
    look("audit", "faulty", cwd=folder, env=storage).check()
