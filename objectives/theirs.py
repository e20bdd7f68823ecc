"""Users' files whose names are taken: `storage.py` is imported as `objectives.theirs.storage_1a2b3c4d`.

Any process that inherits `sys.path` can import it by that name, as `multiprocessing` and joblib do when they
read a pickle: it is looked for there by its own name and the digest of its content, so that no pickle names
a path. A file with a `storage.py` of its own beside it is found here, too, and means that one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType

__path__: list[str] = []  # so that modules may be imported from here

_OURS = ("storage", "objectives")  # names a user may well have taken
_ROOT = Path(__file__).resolve().parents[1]


def spec_of(file: Path) -> ModuleSpec | None:
    """What `file` is imported from, under which name."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    name = f"{_named(file)}_{digest}"
    return importlib.util.spec_from_file_location(name, file, loader=_Loader(name, str(file)))


def is_of_theirs(module: str) -> bool:
    """Whether a module of this name was imported here, and so is a file of a user's."""
    return module.startswith(f"{__name__}.")


def is_ours(name: str) -> bool:
    """Whether a package of this name belongs to the service."""
    return (_ROOT / name / "__init__.py").is_file()


def named_like_ours(folder: Path) -> list[str]:
    """Names of modules in `folder` that we have ourselves, and that are not ours."""
    return [
        name
        for name in _OURS
        if any(
            file.is_file() and file.resolve() != _ROOT / name / "__init__.py"
            for file in (folder / name / "__init__.py", folder / f"{name}.py")
        )
    ]


@contextmanager
def their_own(folder: Path, asked: str = "") -> Iterator[None]:
    """While a module of theirs is imported, its `import storage` means a storage.py in `folder`, if one is.

    Ours were imported before; theirs are bound in the user's own module and then step aside again. Except
    `asked`: `objectives.classifier` is ours, whatever lies here.
    """
    clash = [name for name in named_like_ours(folder) if name != asked]
    if not clash:
        yield
        return
    ours = _taken_out(clash)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        _taken_out(clash)
        sys.modules.update(ours)


def _taken_out(names: Sequence[str]) -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in names}


def _named(file: Path) -> str:
    return __name__ + "." + re.sub(r"\W", "_", file.stem)


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        with their_own(Path(self.path).parent):
            super().exec_module(module)


class _Finder:
    """Finds modules of this package, in whichever process asks."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        if not is_of_theirs(name):
            return None
        for folder in map(Path, reversed(sys.path)):  # users' own come last
            for file in folder.glob("*.py"):
                spec = spec_of(file) if _named(file) == name.rpartition("_")[0] else None
                if spec is not None and spec.name == name:
                    return spec
        return None


sys.meta_path.append(_Finder)
