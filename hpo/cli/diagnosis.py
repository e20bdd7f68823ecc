"""What `hpo doctor` looks at."""

from __future__ import annotations

import platform
import shutil
import statistics
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.asked import sampling_code
from hpo.errors import HpoError
from hpo.fingerprint import PACKAGES, differences, fingerprint, versions
from hpo.runner.session import find_objective
from hpo.settings import Settings
from hpo.spec import StudySpec, load_spec
from hpo.studies.reading import get_study
from hpo.wiring import open_storage
from hpo.worker.devices import driver_version, find_gpus, plan, usable_cores
from storage.database.clock import read_now
from storage.database.engine import Database, parse_url
from storage.database.errors import ArtifactError, StorageError
from storage.database.migrate import HEAD
from storage.files.artifacts import ArtifactStore

_ROUND_TRIPS = 5
_CLOCKS_APART = 5.0  # seconds; more is worth a note, though nothing depends on it
_LITTLE_DISK = 2**30  # bytes; checkpoints need room


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `state` is ok, note, or wrong: wrong would cost a trial, or all of them."""

    check: str
    state: str
    found: str


def diagnose(
    settings: Settings, target: str | None, gpus: str, code: Path | None = None
) -> Iterator[Finding]:
    """Look at everything; nothing is created but one scratch file in the artifact store, removed again.

    Args:
        settings: of this machine.
        target: a study, or a study file; None: what no study is needed for.
        gpus: as `hpo worker --gpus` takes it.
        code: directory that the objective's path is relative to; default: that of the study file, or
            the working directory.
    """
    system = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("python", "ok", system)
    there = versions()
    for name in PACKAGES:
        yield Finding(name, "ok" if name in there else "wrong", there.get(name, "not installed"))
    yield from _devices(gpus)
    store = settings.artifact_url()
    database: Database | None = None
    try:
        database = open_storage(settings, create=False)
        yield from _database(database)
    except (HpoError, StorageError) as error:
        yield Finding("database", "note" if "there are no studies" in str(error) else "wrong", str(error))
    if target is not None and Path(target).suffix in (".yaml", ".yml"):
        try:
            spec = load_spec(target)
        except HpoError as error:
            yield Finding("study file", "wrong", str(error))
        else:
            yield Finding("study file", "ok", f"{target}: {spec.study}, {spec.sampler.name}")
            yield from _objective(spec, code or Path(target).absolute().parent, None)
    elif target is not None and database is not None:
        try:
            row = get_study(database, target)
        except (HpoError, StorageError) as error:
            yield Finding("study", "wrong", str(error))
        else:
            store = row.artifacts
            yield Finding("study", "ok", f"{row.name} is {row.state}")
            yield from _objective(StudySpec.model_validate(row.spec), code or Path.cwd(), row.code)
    yield from _artifacts(store)
    yield from _privacy(settings, store)


def _devices(wanted: str) -> Iterator[Finding]:
    """The cards, and whether PyTorch can use those that the driver shows."""
    try:
        shares = plan(wanted, 1, None)
    except HpoError as error:
        yield Finding("devices", "wrong", str(error))
        return
    gpus = find_gpus()
    if not gpus:
        yield Finding("devices", "ok", f"no GPU; {usable_cores()} CPU cores")
        return
    cards = ", ".join(f"{gpu.index}: {gpu.name}, {gpu.memory} MiB" for gpu in gpus)
    yield Finding("devices", "ok", f"{cards}; runners on {', '.join(share.shown for share in shares)}")
    import torch

    shown = f"NVIDIA {driver_version() or 'driver of unknown version'}"
    if torch.cuda.is_available():
        yield Finding("driver", "ok", f"{shown}, PyTorch for CUDA {torch.version.cuda}")
        return
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    why = f"{shown}, but PyTorch {torch.__version__} (built {built}) cannot use the cards"
    yield Finding("driver", "note" if wanted == "none" else "wrong", why)


def _database(database: Database) -> Iterator[Finding]:
    """How quickly it answers, its tables' version, and its clock, which alone decides."""
    waits, clocks = [], []
    for _ in range(_ROUND_TRIPS):
        began, before = time.perf_counter(), time.time()
        theirs = database.read(read_now)
        waits.append(time.perf_counter() - began)
        clocks.append(theirs - (before + time.time()) / 2)
    _, apart = min(zip(waits, clocks, strict=True))  # the quickest answer tells the time best
    took = statistics.median(waits) * 1000
    yield Finding("database", "ok", f"{database.shown_url}, {took:.1f} ms a read (median of {_ROUND_TRIPS})")
    yield Finding("schema", "ok", f"version {HEAD}, as this hpo needs it")
    if abs(apart) < _CLOCKS_APART:
        yield Finding("clock", "ok", f"{abs(apart):.1f} s from the database's")
    else:
        side = "behind" if apart > 0 else "ahead of"
        yield Finding("clock", "note", f"{abs(apart):.0f} s {side} the database's, which alone decides")


def _objective(spec: StudySpec, folder: Path, pinned: Mapping[str, Any] | None) -> Iterator[Finding]:
    """The objective, the study's code and versions against this machine's, and the objective's data."""
    try:
        objective = find_objective(spec, folder)
    except HpoError as error:
        yield Finding("objective", "wrong", str(error))
        return
    yield Finding(
        "objective", "ok", f"{spec.shown_objective} can be {'imported' if spec.command is None else 'run'}"
    )
    if pinned is not None:
        here = {**fingerprint(objective, folder), "sampling": sampling_code(spec, folder)}
        unlike = differences(here, pinned)
        same = "the study's code and versions are here"
        yield Finding("code", "wrong" if unlike else "ok", "; ".join(unlike) or same)
    if objective.find_data is not None:
        try:
            yield Finding("data", "ok", str(objective.find_data(dict(spec.fixed))))
        except Exception as error:  # whatever the objective's own code raises
            yield Finding("data", "wrong", f"{error or type(error).__name__}")


def _artifacts(url: str) -> Iterator[Finding]:
    """Write a scratch file, read it back, remove it; and the room there is."""
    key, content = f"doctor-{uuid.uuid4().hex[:8]}", b"hpo doctor"
    try:
        store = ArtifactStore(url)
        began = time.perf_counter()
        store.put(key, content)
        same = store.get(key) == content
        store.remove(key)
        took = (time.perf_counter() - began) * 1000
    except ArtifactError as error:
        yield Finding("artifacts", "wrong", str(error))
        return
    if not same:
        yield Finding("artifacts", "wrong", f"{url} gives back something else than was written")
        return
    yield Finding("artifacts", "ok", f"{url} can be written, read and cleared ({took:.0f} ms)")
    root = store.local_root
    place = root if root is not None and root.exists() else Path.cwd()
    free = shutil.disk_usage(place).free
    found, little = f"{free / 2**30:.1f} GiB free at {place}", free < _LITTLE_DISK
    yield Finding("disk", "wrong" if little else "ok", found + "; checkpoints may not find room" * little)


def _privacy(settings: Settings, store: str) -> Iterator[Finding]:
    """Files that every user of this machine can read: results, and perhaps a password or a token."""
    places = [Path(".env").absolute()]  # of the compose file: passwords and the token
    with suppress(StorageError):
        url = parse_url(settings.storage)
        if url.get_backend_name() == "sqlite":
            places.append(Path(str(url.database)).absolute())
    with suppress(StorageError):
        root = ArtifactStore(store).local_root
        if root is not None:
            places.append(root)
    for place in filter(_is_open_to_all, places):
        yield Finding(
            "privacy", "note", f"{place} can be read by every user of this machine; chmod o-rwx {place}"
        )


def _is_open_to_all(place: Path) -> bool:
    """Whether others may read it, and come to it through all directories above."""
    try:
        above = all(folder.stat().st_mode & 0o001 for folder in place.parents)
        return above and bool(place.stat().st_mode & 0o004)
    except OSError:
        return False
