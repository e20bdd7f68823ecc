"""What `hpo doctor` looks at."""

from __future__ import annotations

import platform
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from hpo.errors import HpoError
from hpo.settings import Settings


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `state` is ok, wrong, or note."""

    check: str
    state: str
    found: str


def diagnose(settings: Settings, target: str | None, gpus: str) -> list[Finding]:
    """Look at everything; nothing is created but one scratch file in the artifact store, removed again."""
    findings = [_python(), *_packages(), _gpus(gpus)]
    findings += _database(settings, target)
    return findings


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> list[Finding]:
    from hpo.fingerprint import PACKAGES, versions

    there = versions()
    return [
        Finding(name, "ok" if name in there else "wrong", there.get(name, "not installed"))
        for name in PACKAGES
    ]


def _gpus(wanted: str) -> Finding:
    from hpo.worker.devices import find_gpus, plan, usable_cores

    try:
        shares = plan(wanted, 1, None)
    except HpoError as error:
        return Finding("devices", "wrong", str(error))
    gpus = find_gpus()
    if not gpus:
        return Finding("devices", "ok", f"no GPU; {usable_cores()} CPU cores")
    cards = ", ".join(f"{gpu.index}: {gpu.name}, {gpu.memory} MiB" for gpu in gpus)
    return Finding("devices", "ok", f"{cards}; runners on {', '.join(share.shown for share in shares)}")


def _database(settings: Settings, target: str | None) -> list[Finding]:
    from hpo.wiring import open_storage
    from storage.migrate import head

    try:
        database = open_storage(settings, create=False)
    except HpoError as error:
        absent = "there are no studies" in str(error)
        found = [Finding("database", "note" if absent else "wrong", str(error))]
        return found + (_spec_file(target) if target else [])
    began = time.perf_counter()
    for _ in range(5):
        database.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
    took = (time.perf_counter() - began) / 5 * 1000
    found = [Finding("database", "ok", f"{database.shown_url}, schema {head()}, {took:.1f} ms a query")]
    if target is None:
        return found
    if Path(target).suffix in (".yaml", ".yml"):
        return found + _spec_file(target)
    from hpo.spec import StudySpec
    from hpo.studies.reading import get_study

    try:
        row = get_study(database, target)
    except HpoError as error:
        return [*found, Finding("study", "wrong", str(error))]
    found.append(Finding("study", "ok", f"{row.name} is {row.state}"))
    found.append(_artifacts(row.artifacts))
    found.append(_objective(StudySpec.model_validate(row.spec), Path.cwd()))
    return found


def _spec_file(target: str) -> list[Finding]:
    from hpo.spec import load_spec

    try:
        spec = load_spec(target)
    except HpoError as error:
        return [Finding("study file", "wrong", str(error))]
    file = Finding("study file", "ok", f"{target}: {spec.study}, {spec.sampler.name}")
    return [file, _objective(spec, Path(target).absolute().parent)]


def _artifacts(url: str) -> Finding:
    from hpo.wiring import open_artifacts
    from storage.errors import ArtifactError

    key = f"doctor-{uuid.uuid4().hex[:8]}"
    try:
        store = open_artifacts(url)
        store.put(key, b"hpo doctor")
        store.get(key)
        store.remove(key)
    except (HpoError, ArtifactError) as error:
        return Finding("artifacts", "wrong", str(error))
    return Finding("artifacts", "ok", f"{url} can be written")


def _objective(spec: object, folder: Path) -> Finding:
    from hpo.objective import check_settings, load_objective
    from hpo.spec import StudySpec

    assert isinstance(spec, StudySpec)
    try:
        check_settings(load_objective(spec.objective_path, folder), spec)
    except HpoError as error:
        return Finding("objective", "wrong", str(error))
    return Finding("objective", "ok", f"{spec.objective} can be imported")
