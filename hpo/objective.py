"""Find the objective a study names. An objective is named, never pickled."""

from __future__ import annotations

import functools
import importlib
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from hpo.errors import ObjectiveError
from objectives import imports
from objectives.imports import ObjectivePath

_OURS = ("storage", "objectives")  # names a user may well have taken
_OUR_FRAMES = ("hpo/objective.py", "objectives/imports.py")
CELL = "__main__"  # the module of an objective that only the process that defined it has
_importing: ContextVar[bool] = ContextVar("importing", default=False)


@dataclass(frozen=True)
class Objective:
    """An imported objective. While it runs, the relative paths of its settings begin at its `home`."""

    function: Callable[[Any], Any]
    module: ModuleType
    home: imports.Home
    is_program: bool = False  # a command: its module is empty, and its home's files are those it names

    def call(self, trial: Any) -> Any:
        """Run the objective on `trial`."""
        with imports.at(self.home):
            return self.function(trial)

    @property
    def evaluate(self) -> Callable[[Any, Any], Mapping[str, Any]] | None:
        """The module's `evaluate(trial, checkpoint)`, which alone sees the test set; None if it has none."""
        return self._export("evaluate")

    @property
    def find_data(self) -> Callable[[Mapping[str, Any]], Any] | None:
        """The module's `find_data(fixed)`, which says that its data is here or raises; None: it has none."""
        return self._export("find_data")

    @property
    def check(self) -> Callable[[Mapping[str, Any], Collection[str]], Any] | None:
        """The module's `check(fixed, searched)`, which raises what is wrong; None if it has none."""
        return self._export("check")

    def _export(self, name: str) -> Callable[..., Any] | None:
        found = getattr(self.module, name, None)
        if not callable(found):
            return None

        def at_home(*arguments: Any) -> Any:
            with imports.at(self.home):
                return found(*arguments)

        return at_home


@dataclass(frozen=True)
class Own:
    """A function of the process itself, as an objective."""

    objective: Objective
    function: Callable[[Any], Any]
    called: str  # its name; "lambda" has none
    named: str  # as a study file names it; `__main__:NAME` where no other process could import it
    why_not: str  # why none could; "" where one can

    @property
    def folder(self) -> Path:
        """What its path is relative to."""
        return self.objective.home.folder


def own_objective(function: Callable[[Any], Any]) -> Own:
    """What a function is as an objective: named where others can import it.

    Raises:
        ObjectiveError: it is not callable, or is a class.
    """
    if not callable(function) or isinstance(function, type):
        kind = "a class" if isinstance(function, type) else type(function).__name__
        raise ObjectiveError(f"the objective must be a function of a trial, got {kind}")
    plain: Any = function
    while isinstance(plain, functools.partial):
        plain = plain.func
    name = getattr(plain, "__name__", type(plain).__name__).strip("<>")
    file, why_not = _file_of(function)
    if file is None:
        cell = ModuleType("__main__")  # what else a notebook defines is no export of a module
        here = imports.Home(Path.cwd())
        return Own(Objective(function, cell, here), function, name, f"{CELL}:{name}", why_not)
    module = sys.modules[function.__module__]
    package = (getattr(module, "__package__", None) or "").split(".")[0]
    if package and function.__module__ != "__main__":
        home = imports.Home(Path.cwd())
        named = f"{function.__module__}:{function.__qualname__}"
    else:
        home = imports.Home(file.parent, {file})
        named = f"{file.name}:{function.__qualname__}"
    return Own(Objective(function, module, home), function, name, named, "")


def _file_of(function: Any) -> tuple[Path | None, str]:
    """The file from which any process can import the function; or None, and why it cannot."""
    name = getattr(function, "__qualname__", None)
    code = getattr(function, "__code__", None)
    if name is None or code is None:
        return None, f"a {type(function).__name__} object is no function of a file"
    if "<lambda>" in name:
        return None, "a lambda has no name that a runner could import"
    if "<locals>" in name:
        return None, f"{name} is defined inside another function"
    module = sys.modules.get(function.__module__)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file() or found is not function:
        return None, f"{name} is defined in a notebook or in an interactive session, not in a file"
    if Path(code.co_filename).name != Path(file).name or not file.endswith(".py"):
        return None, f"{name} is not defined in {Path(file).name} itself"
    return Path(file).resolve(), ""


def is_importing() -> bool:
    """Whether the file of an objective is being imported by this very process."""
    return _importing.get()


class Settled(Protocol):
    """What an objective's `check` is asked about: a spec, or what a runner is told of it."""

    @property
    def study(self) -> str: ...
    @property
    def objective(self) -> str | None: ...
    @property
    def fixed(self) -> Mapping[str, Any]: ...
    @property
    def space(self) -> Collection[str]: ...


def check_settings(objective: Objective, spec: Settled) -> None:
    """Let the objective's module refuse a study before its first trial, if it exports `check`.

    Raises:
        ObjectiveError: with its sentence.
    """
    if objective.check is None:
        return
    try:
        objective.check(dict(spec.fixed), tuple(spec.space))
    except Exception as error:
        raise ObjectiveError(f"study {spec.study}, objective {spec.objective}: {error}") from error


def load_objective(path: ObjectivePath, folder: Path) -> Objective:
    """Import what `path` names.

    Args:
        path: as written in the study file.
        folder: a file's path is relative to it; it goes last on `sys.path`, so that a user's
            `storage.py` shadows nothing of ours.

    Raises:
        ObjectiveError: no such module, file or callable; or importing it raised, with the traceback.
    """
    if path.module == CELL:
        raise ObjectiveError(
            f"{path.callable} is a function of a notebook or of an interactive session, which this process "
            "cannot import: go on there with hpo.optimize, or put it into a file and name that in a study"
        )
    for entry in (str(folder), str(Path.cwd())):
        if entry not in sys.path:
            sys.path.append(entry)
    home = imports.Home(folder.absolute())
    importing = _importing.set(True)
    try:
        with _their_own(path, folder), imports.at(home):
            module = _import(path)
    finally:
        _importing.reset(importing)
    found: Any = module
    for part in path.callable.split("."):
        found = getattr(found, part, None)
    if found is None:
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        hint = f"; it has {', '.join(sorted(names)[:8])}" if names else ""
        raise ObjectiveError(f"objective {path}: the module has no callable named {path.callable}{hint}")
    if not callable(found):
        raise ObjectiveError(
            f"objective {path}: {path.callable} is not callable, it is {type(found).__name__}"
        )
    return Objective(found, module, home)


@contextmanager
def _their_own(path: ObjectivePath, folder: Path) -> Iterator[None]:
    """While an objective is imported, its `import storage` means a storage.py beside it, if there is one.

    Ours were imported before; theirs are bound in the objective's own module and then step aside again.
    """
    asked = str(path.module).split(".")[0]  # `objectives.classifier` is ours, whatever lies here
    clash = [name for name in _OURS if name != asked and _is_theirs(folder, name)]
    ours = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in clash}
    if clash:
        sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if clash:
            sys.path.remove(str(folder))
            for name in [name for name in sys.modules if name.split(".")[0] in clash]:
                del sys.modules[name]
            sys.modules.update(ours)


def _is_theirs(folder: Path, name: str) -> bool:
    """Whether a module or package of this name lies in `folder` that is not our own."""
    own = Path(__file__).resolve().parents[1] / name / "__init__.py"
    files = (folder / name / "__init__.py", folder / f"{name}.py")
    return any(file.is_file() and file.resolve() != own for file in files)


def _import(path: ObjectivePath) -> ModuleType:
    file = imports.locate(path.file) if path.file is not None else None
    if file is not None and not file.is_file():
        raise ObjectiveError(
            f"objective {path}: there is no file {file}. A path is relative to the study file; for a "
            "worker in another directory name it with --code DIR"
        )
    try:
        return imports.import_file(file) if file else importlib.import_module(str(path.module))
    except ModuleNotFoundError as error:
        if path.module is not None and path.module.startswith(error.name or "\0"):
            raise ObjectiveError(
                f"objective {path}: there is no module {error.name} here. A file is written "
                "path/to/file.py:callable, relative to the study file; on another machine use "
                "`hpo worker --code DIR`"
            ) from error
        raise ObjectiveError(f"objective {path} cannot be imported:\n{_their_traceback()}") from error
    except (Exception, SystemExit) as error:
        raise ObjectiveError(f"objective {path} cannot be imported:\n{_their_traceback()}") from error


def _their_traceback() -> str:
    """The traceback without the frames that are ours or the import system's."""
    lines = traceback.format_exc().splitlines()
    frames = [i for i, line in enumerate(lines) if line.startswith('  File "')]
    first = next(
        (i for i in frames if not any(ours in lines[i] for ours in ("importlib", *_OUR_FRAMES))), None
    )
    return "\n".join([lines[0], *lines[first:]]) if first is not None else "\n".join(lines)
