"""Commands to paste into a terminal."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.spec import StudySpec
from storage.database.engine import Database
from storage.database.faults import without_secrets
from storage.database.records import StudyRow


def worker_command(
    database: Database, row: StudyRow, code: str = "DIR", *, allow_commands: bool = False
) -> str:
    """The command that attaches a worker. A password stays out of it: libpq reads PGPASSWORD.

    Args:
        database: the one the study is in.
        row: the study.
        code: the directory its objective's file is in; told only where it is a file or a command.
        allow_commands: whether the worker may run a command; only who makes the study says so unasked.
    """
    url = database.url
    secret = url.password or url.query.get("password")
    if url.get_backend_name() == "sqlite":
        shown = f"sqlite:///{Path(str(url.database)).absolute()}"
    else:
        shown = without_secrets(url).render_as_string()
    prefix = "PGPASSWORD=... " if secret else ""
    path = StudySpec.model_validate(row.spec).objective_path
    where = "" if path is not None and path.file is None else f" --code {shlex.quote(code)}"
    allowed = " --allow-commands" if path is None and allow_commands else ""
    return f"{prefix}hpo worker {shlex.quote(row.name)} --storage {shlex.quote(shown)}{where}{allowed}"


def enqueue_command(row: StudyRow, params: Mapping[str, Any]) -> str:
    """The command that has these parameters tried again."""
    words = [f"{name}={_scalar(value)}" for name, value in params.items()]
    return shlex.join(["hpo", "enqueue", row.name, *words])


def point_yaml(params: Mapping[str, Any]) -> str:
    """The parameters as one line of a study file's `enqueue`."""
    import yaml

    shown = {name: tidy(value) for name, value in params.items()}
    return str(yaml.safe_dump([shown], default_flow_style=None, sort_keys=False, width=10_000)).strip()


def tidy(value: Any) -> Any:
    """0.01 for 0.010000000000000004: the last bits of a grid's arithmetic; any other value as it is."""
    if not isinstance(value, float):
        return value
    short = float(f"{value:.14g}")
    return short if math.isclose(short, value, rel_tol=1e-15) else value


def _scalar(value: Any) -> str:
    value = tidy(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else repr(value) if isinstance(value, float) else str(value)
