"""What a result came from: the objective's source, the versions under it, the git commit.

A study keeps the fingerprint of its first completed trial; a worker whose own differs must not add
results to it. A first mistake can be mended before that. What of the sources is the user's own is kept
with the study, so that `hpo replay --code stored` can run it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import platform
import stat
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from hpo.errors import UserError
from hpo.objective import Objective, Own
from hpo.reached import imported_by, in_environment, reached
from objectives.imports import is_imported_file
from objectives.theirs import is_of_theirs

PACKAGES = ("hpo", "torch", "torchvision", "optuna", "sqlalchemy", "numpy")
_RECORDED = ("hpo", "torch", "optuna")  # part of a fingerprint
_OURS = ("hpo", "storage", "objectives")
_DECISIVE = ("torch", "optuna")  # a difference in these is a difference in the study's code
LARGEST = 5_000_000  # bytes of a study's own files that are kept with it
_FILE = "./"  # before the name of a file that a command names
_NOT_THE_OBJECTIVE = ("hpo", "storage", "__main__", "__mp_main__")  # nor the command that started us


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def fingerprint(objective: Objective, folder: Path) -> dict[str, Any]:
    """Digests of the objective's module and the local modules it has imported, versions, git commit.

    Local is what lies in the objective's own package, beside a file that the study names, in `folder` or in
    the working directory, and not in an environment's site-packages. Modules are named as imported, so
    machines with other paths agree. Of a command, the files that it names beside the study file.
    """
    return _found(objective, folder, list(sys.modules.items()), _Local(objective, folder, whole_process=True))


def own_fingerprint(own: Own) -> dict[str, Any]:
    """As `fingerprint`, of a function of this very process, which has imported much else besides.

    Of a function of a notebook: its text, that of the functions and classes it uses and the plain values
    that it reads, by name under "parts", and the local modules among what it uses.
    """
    parts, used = ({}, [own.objective.module]) if not own.why_not else reached(own.function)
    modules: dict[str, ModuleType] = {}
    local = _Local(own.objective, own.folder)
    while used:
        module = used.pop()
        own_file = module is own.objective.module
        if modules.setdefault(module.__name__, module) is module and (
            own_file or local.file(module.__name__, module) is not None
        ):
            used += [one for one in imported_by(module) if one.__name__ not in modules]
    found = _found(own.objective, own.folder, list(modules.items()), local)
    return {**found, "parts": parts} if parts else found


def _found(
    objective: Objective, folder: Path, among: Iterable[tuple[str, ModuleType]], local: _Local
) -> dict[str, Any]:
    there = versions()
    if objective.is_program:
        sources = {f"{_FILE}{os.path.relpath(file, folder)}": {file} for file in objective.home.files}
    else:
        sources = _local_modules(objective, among, local)
    return {
        "sources": {name: _digest(files) for name, files in sorted(sources.items())},
        "versions": {name: there[name] for name in _RECORDED if name in there},
        "commit": _commit(folder),
    }


def differences(here: Mapping[str, Any], pinned: Mapping[str, Any]) -> list[str]:
    """Readable differences between two fingerprints; [] when results may stand side by side.

    The commit alone makes no difference: it is kept for people.
    """
    found = []
    for kind, changed, most in (("sources", "edited", 12), ("parts", "changed", 60)):
        mine, theirs = here.get(kind, {}), pinned.get(kind, {})
        for name in sorted({*mine, *theirs}):
            file = name.startswith(_FILE)
            told = name if kind == "parts" else f"file {name[2:]}" if file else f"module {name}"
            if name not in mine:
                verb = "used here" if kind == "parts" else "here" if file else "imported here"
                found.append(f"{told} is part of the study's code and is not {verb}")
            elif name not in theirs:
                found.append(f"{told} is not part of the study's code")
            elif mine[name] != theirs[name]:
                found.append(f"{told} was {changed}: {mine[name][:most]} here, {theirs[name][:most]} there")
    mine, theirs = here.get("sampling"), pinned.get("sampling")
    if mine and theirs:  # of results from before it was kept nothing is known
        found += [
            f"module {name} of the study's own sampler or pruner is not what it was"
            for name in sorted({*mine, *theirs})
            if mine.get(name) != theirs.get(name) and name not in here.get("sources", {})
        ]
    return found + _versions_apart(here, pinned, _DECISIVE)


def other_hpo(here: Mapping[str, Any], pinned: Mapping[str, Any]) -> list[str]:
    """The versions of hpo where they differ: said on the trial, and no reason to refuse.

    A study must be finished after an upgrade, and how trials are handed out is not what they compute.
    """
    return _versions_apart(here, pinned, ("hpo",))


def packed(objective: Objective, code: Mapping[str, Any]) -> tuple[bytes | None, str | None]:
    """What of a fingerprint's sources is the user's own, as a zip file; or None, and what to say of that.

    Neither ours nor what is installed, and nothing of a notebook. A file that the study names outside of its
    directory could not be found again: nothing is packed then.
    """
    folder, own = objective.home.folder.resolve(), {}
    files = {file.resolve(): "" for file in objective.home.files}
    for name in code["sources"]:
        found = getattr(sys.modules.get(name), "__file__", None)
        if found and name.split(".")[0] not in _OURS and not in_environment(file := Path(found).resolve()):
            files.setdefault(file, name)
    for file, name in files.items():
        member = name.replace(".", "/") + ("/__init__.py" if file.stem == "__init__" else ".py")
        if file.is_relative_to(folder):
            member = file.relative_to(folder).as_posix()
        elif not name:
            return None, None
        own[member] = file.read_bytes()
    if not own or "parts" in code:
        return None, None
    if (size := sum(map(len, own.values()))) > LARGEST:
        return None, f"its code is not kept for `hpo replay --code stored`: {size:,} bytes, over {LARGEST:,}"
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for member, content in sorted(own.items()):  # without dates: the same files are the same bytes
            archive.writestr(zipfile.ZipInfo(member), content, zipfile.ZIP_DEFLATED)
    return held.getvalue(), None


def unpack(content: bytes, folder: Path) -> None:
    """Write what was packed into an empty directory, and nowhere else.

    Raises:
        UserError: it is something else, or would lead out of the directory; nothing is written then.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for one in archive.infolist():
                place, is_link = PurePosixPath(one.filename), stat.S_ISLNK(one.external_attr >> 16)
                if place.is_absolute() or ".." in place.parts or is_link:
                    raise UserError(
                        f"the stored code has a file that may not be there: {one.filename[:100]!r}"
                    )
            if sum(one.file_size for one in archive.infolist()) > LARGEST:
                raise UserError(f"the stored code has more than {LARGEST:,} bytes, which is never kept")
            for name in archive.namelist():
                Path(archive.extract(name, folder)).chmod(0o700)  # a command's program may be among them
    except zipfile.BadZipFile as error:
        raise UserError(f"the stored code cannot be read: {error}") from error


def _versions_apart(here: Mapping[str, Any], pinned: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    mine, theirs = here.get("versions", {}), pinned.get("versions", {})
    return [
        f"{name} {mine.get(name, 'missing')} here, {theirs.get(name, 'missing')} there"
        for name in names
        if mine.get(name) != theirs.get(name)
    ]


def _digest(files: set[Path]) -> str:
    """Of the contents alone: files of one name count in the order of their digests, not of their paths."""
    digests = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _local_modules(
    objective: Objective, among: Iterable[tuple[str, ModuleType]], local: _Local
) -> dict[str, set[Path]]:
    """Source files by module name; files that the study names go by their stems, wherever they lie."""
    found: defaultdict[str, set[Path]] = defaultdict(set)
    for path in objective.home.files:
        found[path.stem].add(path)
    for name, module in among:
        file = local.file(name, module)
        if file is not None and file not in objective.home.files:
            found[name].add(file)
    return found


class _Local:
    """Tells which modules are the study's own.

    A process has thousands of modules in hundreds of directories: each of these is looked up once.

    Args:
        objective, folder: the study's.
        whole_process: leave out what was imported because another study names it.
    """

    def __init__(self, objective: Objective, folder: Path, whole_process: bool = False) -> None:
        self._own_name = objective.module.__name__
        roots = {folder.resolve(), Path.cwd().resolve(), *(file.parent for file in objective.home.files)}
        self._roots = tuple(os.path.join(root, "") for root in roots)  # noqa: PTH118 -- ends in one "/"
        self._whole_process = whole_process
        self._directories: dict[str, tuple[str, bool]] = {}

    def file(self, name: str, module: ModuleType) -> Path | None:
        """The module's file, if it is local."""
        file = str(getattr(module, "__file__", None) or "")
        if not file.endswith(".py") or (top := name.split(".")[0]) in _NOT_THE_OBJECTIVE:
            return None
        if os.path.islink(file):  # noqa: PTH114 -- each of these is ten times as fast as with Path
            file = os.path.realpath(file)
        place, file = os.path.split(file)
        directory, beside = self._directory(place)
        its_own = top == self._own_name.split(".")[0] and not is_of_theirs(self._own_name)
        if not its_own and (not beside or name.startswith("objectives.")):
            return None
        path = Path(directory, file)
        if not path.is_file() or (self._whole_process and is_imported_file(path)):
            return None  # torch.classes names a file that is nowhere
        return path

    def _directory(self, name: str) -> tuple[str, bool]:
        """Where it really is, and whether modules there are the study's."""
        known = self._directories.get(name)
        if known is None:
            path = os.path.realpath(name)
            local = os.path.join(path, "").startswith(self._roots) and not in_environment(Path(path))  # noqa: PTH118
            known = self._directories[name] = path, local
        return known


def _commit(folder: Path) -> str | None:
    """The git commit of the objective's folder, with "+" when files were changed; None outside git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        dirty = _git(folder, "status", "--porcelain", "--untracked-files=no").strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if dirty else "")


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(  # noqa: S603
        ["git", "-C", str(folder), *words],  # noqa: S607 -- whichever git the user has
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    ).stdout
