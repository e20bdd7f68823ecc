"""Objects named by text: `package.module:name` or `path/to/file.py:name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from objectives.errors import ConfigError


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
        module = _from_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except FileNotFoundError:
        raise ConfigError(f"{field}: there is no file {where!r} (from {path!r})") from None
    except Exception as error:
        raise ConfigError(f"{field}: cannot import {where!r}: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        reason = "has no" if found is None else "has a value, not a callable, named"
        raise ConfigError(f"{field}: {where!r} {reason} {name!r}")
    return found  # type: ignore[no-any-return]


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(path)
    resolved = path.resolve()
    name = f"_user_{resolved.stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
