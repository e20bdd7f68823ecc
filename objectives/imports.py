"""Objects named by text: `package.module:name` or `path/to/file.py:name`, and where such paths begin."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from objectives import theirs
from objectives.errors import ConfigError


@dataclass(frozen=True)
class Home:
    """Where a study's relative paths begin, its script, and which of the user's files were imported."""

    folder: Path
    files: set[Path] = field(default_factory=set)
    script: str = ""  # what `sys.argv[0]` says while the objective is imported and runs


@dataclass(frozen=True)
class ObjectivePath:
    """Where an objective is: a module or a file, and the name of the callable in it."""

    module: str | None  # dotted module name
    file: str | None  # path of a .py file, relative to the study file unless absolute
    callable: str = "objective"

    def __str__(self) -> str:
        return f"{self.module or self.file}:{self.callable}"


_home: ContextVar[Home | None] = ContextVar("home", default=None)
_modules: dict[Path, ModuleType] = {}  # what `import_file` returned


@contextmanager
def at(home: Home) -> Iterator[None]:
    """Let relative paths begin at `home`; without it they begin at the working directory."""
    token = _home.set(home)
    try:
        yield
    finally:
        _home.reset(token)


def locate(path: str | os.PathLike[str]) -> Path:
    """Return `path` as an absolute one; symbolic links stay as the user wrote them."""
    home = _home.get()
    return Path(os.path.abspath((home.folder if home else Path()) / path))  # noqa: PTH100


def is_import_path(text: str) -> bool:
    """Whether `text` names a callable of the user's own."""
    return ":" in text


def load_callable(path: str, field: str) -> Callable[..., Any]:
    """Return what `path` names.

    Raises:
        ConfigError: naming `field`, where the module, the file or the name is missing or not callable.
    """
    where, _, name = path.rpartition(":")
    try:
        module = import_file(locate(where)) if where.endswith(".py") else importlib.import_module(where)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{field}: there is no file {where!r} (from {path!r}): looked for {error}. A path is relative to "
            "the study file; for a worker in another directory name its directory with --code DIR"
        ) from None
    except Exception as error:
        raise ConfigError(f"{field}: cannot import {where!r}: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        reason = "has no" if found is None else "has a value, not a callable, named"
        raise ConfigError(f"{field}: {where!r} {reason} {name!r}")
    return found  # type: ignore[no-any-return]


def located(make: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `arguments` of `make` with those that it takes as a `Path` made absolute by `locate`."""
    try:
        parameters = inspect.signature(make, eval_str=True).parameters
    except Exception:  # no signature, or annotations that only a type checker can read
        return dict(arguments)
    kinds = {name: parameter.annotation for name, parameter in parameters.items()}
    return {
        name: locate(value)
        if isinstance(value, str) and Path in (kinds.get(name), *get_args(kinds.get(name)))
        else value
        for name, value in arguments.items()
    }


def import_file(file: Path) -> ModuleType:
    """Import `file` under its own name, its directory last on `sys.path`; once, whoever asks.

    So what it defines is pickled, and digested, without a path, and processes that it starts find it again.
    A file whose name is that of another module, `storage.py` say, shadows nothing: it is imported by
    `objectives.theirs`, as is one that has such a file beside it.

    Raises:
        FileNotFoundError: there is no such file.
        Exception: whatever the file's own code raises.
    """
    file = file.resolve()
    if not file.is_file():
        raise FileNotFoundError(str(file))
    module = _modules.get(file) or _import(file)
    _modules[file] = module
    home = _home.get()
    if home is not None:
        home.files.add(file)
    return module


def is_imported_file(path: Path) -> bool:
    """Whether `path` was imported by `import_file`, for whichever study."""
    return path in _modules


def _import(file: Path) -> ModuleType:
    there = sys.modules.get(file.stem)
    if there is not None and _is_of(getattr(there, "__file__", None), file):
        return there  # imported beforehand by another file of the user's
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    free = _is_free(file)
    spec = importlib.util.spec_from_file_location(file.stem, file) if free else theirs.spec_of(file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _is_free(file: Path) -> bool:
    """Whether `import` of its name would find `file`, or nothing, here and in any process started here."""
    name = file.stem
    if name in sys.modules or "." in name or theirs.is_ours(name) or theirs.named_like_ours(file.parent):
        return False
    found = importlib.util.find_spec(name)
    return found is None or found.origin is None or _is_of(found.origin, file)


def _is_of(origin: str | None, file: Path) -> bool:
    return origin is not None and Path(origin).resolve() == file
