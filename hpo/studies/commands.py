"""Commands to paste into a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.spec import StudySpec
from storage.engine import Database
from storage.records import StudyRow


def worker_command(database: Database, row: StudyRow) -> str:
    """The command that attaches a worker. A password stays out of it: libpq reads PGPASSWORD."""
    url = database.url
    if url.get_backend_name() == "sqlite":
        shown = f"sqlite:///{Path(str(url.database)).absolute()}"
    else:
        shown = url.set(password=None, query={}).render_as_string()
    prefix = "PGPASSWORD=... " if url.password else ""
    file = StudySpec.model_validate(row.spec).objective_path.file
    code = "" if file is None else " --code DIR"
    return f"{prefix}hpo worker {shlex.quote(row.name)} --storage {shlex.quote(shown)}{code}"


def enqueue_command(row: StudyRow, params: Mapping[str, Any]) -> str:
    """The command that has these parameters tried again."""
    words = [f"{name}={_scalar(value)}" for name, value in params.items()]
    return shlex.join(["hpo", "enqueue", row.name, *words])


def point_yaml(params: Mapping[str, Any]) -> str:
    """The parameters as one line of a study file's `enqueue`."""
    import yaml

    return str(yaml.safe_dump([dict(params)], default_flow_style=None, sort_keys=False, width=10_000)).strip()


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else repr(value) if isinstance(value, float) else str(value)
