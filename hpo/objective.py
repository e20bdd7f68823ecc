"""Find the objective a study names. An objective is named, never pickled."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Protocol, TypeVar, cast

from hpo.errors import ObjectiveError
from objectives import imports
from objectives.imports import ObjectivePath
from objectives.theirs import their_own

_OUR_FRAMES = ("hpo/objective.py", "objectives/imports.py", "objectives/theirs.py")
CELL = "__main__"  # the module of an objective that only the process that defined it has
F = TypeVar("F")
_importing: ContextVar[bool] = ContextVar("importing", default=False)


class _Export(Generic[F]):
    """What an objective's module has of this name besides, called at the objective's home; None: nothing."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, objective: Objective, _kind: object = None) -> F | None:
        found = getattr(objective.module, self._name, None)
        if not callable(found):
            return None

        def at_home(*arguments: Any) -> Any:
            with _at_home(objective.home):
                return found(*arguments)

        return cast(F, at_home)


@dataclass(frozen=True)
class Objective:
    """An imported objective. While it runs, the relative paths of its settings begin at its `home`."""

    function: Callable[[Any], Any]
    module: ModuleType
    home: imports.Home
    is_program: bool = False  # a command: its module is empty, and its home's files are those it names

    # (trial, checkpoint): alone sees the test set
    evaluate = _Export[Callable[[Any, Any], Mapping[str, Any]]]("evaluate")
    # (config): what trials trained together share, and (lanes): trains several at once
    lane_key = _Export[Callable[[Mapping[str, Any]], Any]]("lane_key")
    _many = _Export[Callable[[Any], None]]("objective_many")
    # (fixed): says that its data is here, or raises
    find_data = _Export[Callable[[Mapping[str, Any]], Any]]("find_data")
    # (trial, checkpoint, path): one model for others; (config, training): settings to train it on all data
    export = _Export[Callable[[Any, Any, Path], Any]]("export")
    refit = _Export[Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]]("refit")
    # (fixed, searched): raises what is wrong
    check = _Export[Callable[[Mapping[str, Any], Collection[str]], Any]]("check")

    def call(self, trial: Any) -> Any:
        """Run the objective on `trial`."""
        with _at_home(self.home):
            return self.function(trial)

    @property
    def many(self) -> Callable[[Any], None] | None:
        """The module's `objective_many`; None where it has no `lane_key` beside it."""
        return self._many if self.lane_key is not None else None


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
    if not callable(function):
        raise ObjectiveError(f"the objective must be a function of a trial, got {type(function).__name__}")
    demand_objective(function, getattr(function, "__qualname__", type(function).__name__))
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
    """Import the objective that `path` names, as `load_callable` does.

    Raises:
        ObjectiveError: it cannot be imported, or cannot be called with a trial alone.
    """
    found = load_callable(path, folder)
    demand_objective(found.function, str(path))
    return found


def load_callable(path: ObjectivePath, folder: Path) -> Objective:
    """Import what `path` names: an objective, or a factory of samplers or pruners.

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
    file = None if path.file is None else Path(os.path.abspath(folder / path.file))  # noqa: PTH100
    for entry in dict.fromkeys(map(str, (file.resolve().parent if file else folder, folder, Path.cwd()))):
        if entry not in sys.path:
            sys.path.append(entry)
    home = imports.Home(folder.absolute(), script=str(file or path.module))
    importing = _importing.set(True)
    try:
        with _at_home(home):
            module = _import(path, file, folder)
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


def demand_objective(function: Callable[..., Any], named: str) -> None:
    """Refuse what cannot be called with a trial and return a value.

    Raises:
        ObjectiveError: it is a class, a coroutine function or a generator function, or takes something else.
    """
    if isinstance(function, type):
        raise ObjectiveError(
            f"objective {named} is a class; name a function, or an object of the class that can be called: "
            f"`objective = {function.__name__}(...)`"
        )
    for one in (function, getattr(function, "__call__", None)):  # noqa: B004 -- the method, of an object
        if inspect.iscoroutinefunction(one):
            raise ObjectiveError(
                f"objective {named} is async, and nobody would wait for it: write an ordinary function "
                "that calls asyncio.run(...)"
            )
        if inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one):
            raise ObjectiveError(
                f"objective {named} is a generator (it has a yield); it must return its value"
            )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of C, which does not say
        return
    try:
        signature.bind(None)
    except TypeError:
        raise ObjectiveError(
            f"objective {named} takes {signature}; it is called with the trial alone. Other arguments get a "
            "default, or are bound before: `objective = functools.partial(train, data=...)`"
        ) from None


@contextmanager
def _at_home(home: imports.Home) -> Iterator[None]:
    """Relative paths begin at `home`, and the command line is that of a script of the user's, not ours."""
    before = sys.argv
    sys.argv = [home.script] if home.script else before
    try:
        with imports.at(home):
            yield
    finally:
        sys.argv = before


def _import(path: ObjectivePath, file: Path | None, folder: Path) -> ModuleType:
    if file is not None and not file.is_file():
        raise ObjectiveError(
            f"objective {path}: there is no file {file}. A path is relative to the study file; for a "
            "worker in another directory name it with --code DIR"
        )
    try:
        if file is not None:
            return imports.import_file(file)
        name = str(path.module)
        with their_own(folder, asked=name.split(".")[0]):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if path.module is not None and path.module.startswith(error.name or "\0"):
            raise ObjectiveError(
                f"objective {path}: there is no module {error.name} here{_with_colon(path.module)}. A file "
                "is written path/to/file.py:callable, relative to the study file; on another machine use "
                "`hpo worker --code DIR`"
            ) from error
        raise ObjectiveError(f"objective {path} cannot be imported:\n{_their_traceback()}") from error
    except (Exception, SystemExit) as error:
        raise ObjectiveError(f"objective {path} cannot be imported:\n{_their_traceback()}") from error


def _with_colon(module: str) -> str:
    """A hint where the last part names something in a module that is there: `mypkg.train.objective`."""
    parent, _, name = module.rpartition(".")
    there = sys.modules.get(parent)
    return f" (did you mean {parent}:{name}?)" if hasattr(there, name) else ""


def _their_traceback() -> str:
    """The traceback without the frames that are ours or the import system's."""
    lines = traceback.format_exc().splitlines()
    frames = [i for i, line in enumerate(lines) if line.startswith('  File "')]
    first = next(
        (i for i in frames if not any(ours in lines[i] for ours in ("importlib", *_OUR_FRAMES))), None
    )
    return "\n".join([lines[0], *lines[first:]]) if first is not None else "\n".join(lines)
