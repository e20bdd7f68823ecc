"""What an objective will need, imported beforehand: told from its source, none of which runs here."""

from __future__ import annotations

import gc
import importlib
import re
from contextlib import suppress
from pathlib import Path

from objectives.imports import ObjectivePath

_COSTLY = {"numpy", "torch"}  # dear to import, and they start no thread by that
_OPTIMIZERS = "torch._dynamo"  # as dear again; torch imports it when the first optimizer is made
_IMPORT = re.compile(r"^[ \t]*(?:import|from)[ \t]+\.*([\w.]+)", re.MULTILINE)


def preload(path: ObjectivePath | None, folder: Path) -> None:
    """Import what the objective's source, or the user's files that it imports, will.

    Every runner does, or was forked from a process that did: so what is loaded when a trial begins, and is
    seeded then, is the same in both, and in a runner's first trial as in its next. What cannot be imported is
    left to the objective, whose error speaks for itself.

    Python looks for no cycles among it, now or later: an eighth of what importing torch costs, and in a
    forked runner each look would write to, and so copy, every page.

    Args:
        path: as written in the study file; None: the objective is a command, which needs nothing here.
        folder: a file's path is relative to it.
    """
    gc.disable()
    for name in sorted(needed(path, folder)) if path is not None else ():
        with suppress(Exception):
            importlib.import_module(name)
    gc.freeze()
    gc.enable()


def needed(path: ObjectivePath, folder: Path) -> set[str]:
    """Which modules that are dear to import an objective's files import, at any place in them."""
    if path.module is not None and path.module.startswith("objectives."):
        return {path.module}
    found: set[str] = set()
    files = [folder / path.file] if path.file is not None else _files(str(path.module), folder)
    seen: set[Path] = set()
    while files:
        file = files.pop()
        seen.add(file)
        with suppress(OSError, UnicodeDecodeError):
            text = file.read_text(encoding="utf-8")
            found |= {_OPTIMIZERS} if "optim" in text else set()
            for name in _IMPORT.findall(text):
                found.add(name.split(".")[0])
                more = {*_files(name, file.parent), *_files(name, folder)}
                files += more - seen - set(files)
    return found & (_COSTLY | {_OPTIMIZERS} if "torch" in found else _COSTLY)


def _files(name: str, folder: Path) -> list[Path]:
    """Where a module of this name is, if it is the user's own."""
    there = folder.joinpath(*name.split("."))
    return [file for file in (there.with_suffix(".py"), there / "__init__.py") if file.is_file()]
