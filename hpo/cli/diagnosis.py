"""What `hpo doctor` looks at."""

from __future__ import annotations

import platform
import shutil
import statistics
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.errors import HpoError
from hpo.settings import Settings
from hpo.spec import StudySpec
from storage.database.engine import Database
from storage.database.records import StudyRow

_ROUND_TRIPS = 5
_CLOCKS_APART = 5.0  # seconds; more is worth a note, though nothing depends on it
_LITTLE_DISK = 2**30  # bytes; checkpoints need room


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `state` is ok, note, or wrong: wrong would cost a trial, or all of them."""

    check: str
    state: str
    found: str


def diagnose(settings: Settings, target: str | None, gpus: str, code: Path | None = None) -> list[Finding]:
    """Look at everything; nothing is created but one scratch file in the artifact store, removed again.

    Args:
        settings: of this machine.
        target: a study, or a study file; None: what no study is needed for.
        gpus: as `hpo worker --gpus` takes it.
        code: directory that the objective's path is relative to; default: that of the study file, or
            the working directory.
    """
    findings = [_python(), *_packages(), *_devices(gpus)]
    file = target if target is not None and Path(target).suffix in (".yaml", ".yml") else None
    database, found = _database(settings)
    findings += found
    store = settings.artifact_url()
    if file is not None:
        findings += _spec_file(file, code)
    elif target is not None and database is not None:
        row, found = _study(database, target)
        findings += found
        if row is not None:
            store = row.artifacts
            findings += _objective(StudySpec.model_validate(row.spec), code or Path.cwd(), row.code)
    return [*findings, *_artifacts(store), *_privacy(settings, store)]


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> list[Finding]:
    from hpo.fingerprint import PACKAGES, versions

    there = versions()
    return [
        Finding(name, "ok" if name in there else "wrong", there.get(name, "not installed"))
        for name in PACKAGES
    ]


def _devices(wanted: str) -> list[Finding]:
    from hpo.worker.devices import driver_version, find_gpus, plan, usable_cores

    try:
        shares = plan(wanted, 1, None)
    except HpoError as error:
        return [Finding("devices", "wrong", str(error))]
    gpus = find_gpus()
    if not gpus:
        return [Finding("devices", "ok", f"no GPU; {usable_cores()} CPU cores")]
    cards = ", ".join(f"{gpu.index}: {gpu.name}, {gpu.memory} MiB" for gpu in gpus)
    found = f"{cards}; runners on {', '.join(share.shown for share in shares)}"
    return [Finding("devices", "ok", found), _driver(driver_version(), wanted)]


def _driver(version: str | None, wanted: str) -> Finding:
    """Whether PyTorch can use the cards that the driver shows."""
    import torch

    shown = f"NVIDIA {version or 'driver of unknown version'}"
    if torch.cuda.is_available():
        return Finding("driver", "ok", f"{shown}, PyTorch for CUDA {torch.version.cuda}")
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    why = f"{shown}, but PyTorch {torch.__version__} (built {built}) cannot use the cards"
    return Finding("driver", "note" if wanted == "none" else "wrong", why)


def _database(settings: Settings) -> tuple[Database | None, list[Finding]]:
    """The database if it can be used, and what was found of it."""
    from hpo.wiring import open_storage
    from storage.database.errors import StorageError
    from storage.database.migrate import HEAD

    try:
        database = open_storage(settings, create=False)
    except (HpoError, StorageError) as error:
        absent = "there are no studies" in str(error)
        return None, [Finding("database", "note" if absent else "wrong", str(error))]
    waits = []
    apart = 0.0
    for _ in range(_ROUND_TRIPS):
        began, before = time.perf_counter(), time.time()
        theirs = database.read(database.clock.read)
        waits.append(time.perf_counter() - began)
        apart = theirs - (before + time.time()) / 2
    took = statistics.median(waits) * 1000
    return database, [
        Finding("database", "ok", f"{database.shown_url}, {took:.1f} ms a read (median of {_ROUND_TRIPS})"),
        Finding("schema", "ok", f"version {HEAD}, as this hpo needs it"),
        _clock(apart),
    ]


def _clock(apart: float) -> Finding:
    """The database's clock decides; a worker's own only dates its log."""
    if abs(apart) < _CLOCKS_APART:
        return Finding("clock", "ok", f"{abs(apart):.1f} s from the database's")
    side = "behind" if apart > 0 else "ahead of"
    return Finding("clock", "note", f"{abs(apart):.0f} s {side} the database's, which alone decides")


def _study(database: Database, name: str) -> tuple[StudyRow | None, list[Finding]]:
    from hpo.studies.reading import get_study
    from storage.database.errors import StorageError

    try:
        row = get_study(database, name)
    except (HpoError, StorageError) as error:
        return None, [Finding("study", "wrong", str(error))]
    return row, [Finding("study", "ok", f"{row.name} is {row.state}")]


def _spec_file(target: str, code: Path | None) -> list[Finding]:
    from hpo.spec import load_spec

    try:
        spec = load_spec(target)
    except HpoError as error:
        return [Finding("study file", "wrong", str(error))]
    file = Finding("study file", "ok", f"{target}: {spec.study}, {spec.sampler.name}")
    return [file, *_objective(spec, code or Path(target).absolute().parent, None)]


def _objective(spec: StudySpec, folder: Path, pinned: Mapping[str, Any] | None) -> list[Finding]:
    """The objective, the study's code and versions against this machine's, and the objective's data."""
    from hpo.asked import sampling_code
    from hpo.fingerprint import differences, fingerprint
    from hpo.runner.session import find_objective

    try:
        objective = find_objective(spec, folder)
    except HpoError as error:
        return [Finding("objective", "wrong", str(error))]
    can = "imported" if spec.command is None else "run"
    found = [Finding("objective", "ok", f"{spec.shown_objective} can be {can}")]
    if pinned is not None:
        here = {**fingerprint(objective, folder), "sampling": sampling_code(spec, folder)}
        unlike = differences(here, pinned)
        same = "the study's code and versions are here"
        found.append(Finding("code", "wrong" if unlike else "ok", "; ".join(unlike) or same))
    if objective.find_data is not None:
        try:
            found.append(Finding("data", "ok", str(objective.find_data(dict(spec.fixed)))))
        except Exception as error:  # whatever the objective's own code raises
            found.append(Finding("data", "wrong", f"{error or type(error).__name__}"))
    return found


def _artifacts(url: str) -> list[Finding]:
    """Write a scratch file, read it back, remove it; and the room there is."""
    from hpo.wiring import open_artifacts
    from storage.database.errors import ArtifactError

    key, content = f"doctor-{uuid.uuid4().hex[:8]}", b"hpo doctor"
    try:
        store = open_artifacts(url)
        began = time.perf_counter()
        store.put(key, content)
        same = store.get(key) == content
        store.remove(key)
        took = (time.perf_counter() - began) * 1000
    except ArtifactError as error:
        return [Finding("artifacts", "wrong", str(error))]
    if not same:
        return [Finding("artifacts", "wrong", f"{url} gives back something else than was written")]
    written = Finding("artifacts", "ok", f"{url} can be written, read and cleared ({took:.0f} ms)")
    place = store.local_root
    return [written, _disk(place if place is not None and place.exists() else Path.cwd())]


def _privacy(settings: Settings, store: str) -> list[Finding]:
    """Files that every user of this machine can read: results, and perhaps a password or a token."""
    from hpo.wiring import open_artifacts
    from storage.database.engine import parse_url
    from storage.database.errors import StorageError

    places = [Path(".env").absolute()]  # of the compose file: passwords and the token
    with suppress(StorageError):
        url = parse_url(settings.storage)
        if url.get_backend_name() == "sqlite":
            places.append(Path(str(url.database)).absolute())
    with suppress(StorageError):
        root = open_artifacts(store).local_root
        if root is not None:
            places.append(root)
    return [
        Finding("privacy", "note", f"{place} can be read by every user of this machine; chmod o-rwx {place}")
        for place in places
        if _is_open_to_all(place)
    ]


def _is_open_to_all(place: Path) -> bool:
    """Whether others may read it, and come to it through all directories above."""
    try:
        above = all(folder.stat().st_mode & 0o001 for folder in place.parents)
        return above and bool(place.stat().st_mode & 0o004)
    except OSError:
        return False


def _disk(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    found = f"{free / 2**30:.1f} GiB free at {place}"
    if free < _LITTLE_DISK:
        return Finding("disk", "wrong", f"{found}; checkpoints may not find room")
    return Finding("disk", "ok", found)
