"""What a function of a notebook uses: other functions and classes there, plain values, modules."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def reached(function: Any) -> tuple[dict[str, str], list[ModuleType]]:
    """The text of the function and of what it uses from its notebook, by name; and the modules among that.

    Plain values count with what they are, for they are read: numbers, text, tuples of such. What the
    functions themselves set, lists, arrays and objects do not: they change while trials run.
    """
    found = _Reach()
    found.see("the objective", function)
    values = {name: value for name, value in found.values.items() if name not in found.set_here}
    return {**found.texts, **values}, list({id(module): module for module in found.modules}.values())


def imported_by(module: ModuleType) -> list[ModuleType]:
    """The modules that a module's own file imports when it is itself imported."""
    try:
        tree = ast.parse(Path(str(module.__file__)).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    names: list[str] = []
    for node in _outside_functions(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    parents = (".".join(name.split(".")[:n]) for name in names for n in range(1, name.count(".") + 2))
    return [sys.modules[name] for name in dict.fromkeys(parents) if name in sys.modules]


def _absolute(module: ModuleType, node: ast.ImportFrom) -> str:
    package = (module.__package__ or "").split(".")
    above = package[: len(package) - node.level + 1] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _outside_functions(child)


def in_environment(path: Path) -> bool:
    """Whether the path belongs to what is installed."""
    places = (Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve())
    return "site-packages" in path.parts or any(place in (path, *path.parents) for place in places)


class _Reach:
    """Follows names from function to function."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self.modules: list[ModuleType] = []
        self.set_here: set[str] = set()
        self._seen: set[int] = set()

    def see(self, name: str, value: Any) -> None:
        """Take note of what a name stands for."""
        if isinstance(value, _PLAIN) or (
            isinstance(value, tuple) and all(isinstance(one, _PLAIN) for one in value)
        ):
            text = repr(value)
            self.values[name] = text if len(text) <= 60 else _digest(text)
            return
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, ModuleType):
            self.modules.append(value)
        elif isinstance(value, functools.partial):
            self.see(name, value.func)
            for key, given in (*enumerate(value.args), *value.keywords.items()):
                self.see(f"{name}({key})", given)
        elif isinstance(value, MethodType):
            self.see(name, value.__func__)
            self.see(name, type(value.__self__))
        elif isinstance(value, staticmethod | classmethod):
            self.see(name, value.__func__)
        elif isinstance(value, property):
            self.see(name, value.fget)
        elif isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, type):
            self._class(value)
        elif hasattr(value, "__wrapped__"):
            self.see(name, value.__wrapped__)
        else:
            self.see(name, type(value))

    def _function(self, function: FunctionType) -> None:
        in_file = self._is_of_a_file(function)
        if in_file and ("<" not in function.__qualname__ or in_environment(Path(in_file))):
            return
        self.texts[f"function {function.__qualname__}"] = _text(function)
        there, names = function.__globals__, _names(function.__code__)
        self.set_here |= _set_by(function.__code__)
        for name in sorted(names & there.keys()) if not in_file else ():
            self.see(name, there[name])
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            with suppress(ValueError):  # not bound yet
                self.see(name, cell.cell_contents)
        for number, default in enumerate(function.__defaults__ or ()):
            self.see(f"{function.__qualname__}({number})", default)
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            self.see(function.__qualname__, wrapped)

    def _class(self, kind: type) -> None:
        if self._is_of_a_file(kind):
            return
        for name, member in vars(kind).items():
            if not name.startswith("__") or isinstance(member, FunctionType):
                self.see(f"{kind.__qualname__}.{name}", member)
        for base in kind.__bases__:
            self.see(base.__qualname__, base)

    def _is_of_a_file(self, value: Any) -> str:
        """The file, or the builtin module, that has it and so its text, but for what its closure holds."""
        module = sys.modules.get(getattr(value, "__module__", None) or "builtins")
        if module is None or module.__name__ == "__main__":
            return ""
        self.modules.append(module)
        return str(getattr(module, "__file__", None) or sys.prefix)


def _text(function: FunctionType) -> str:
    """The digest of a function's text; of a lambda, or where the text is lost, of what it was compiled to."""
    with suppress(OSError, TypeError, SyntaxError, IndentationError):
        if function.__name__ != "<lambda>":
            return _digest(textwrap.dedent(inspect.getsource(function)))
    return _digest(repr(_compiled(function.__code__)))


def _compiled(code: CodeType) -> tuple[Any, ...]:
    constants = (_compiled(one) if isinstance(one, CodeType) else one for one in code.co_consts)
    shown = (tuple(sorted(map(repr, one))) if isinstance(one, frozenset) else one for one in constants)
    return code.co_code, code.co_names, code.co_varnames, tuple(shown)


def _names(code: CodeType) -> set[str]:
    """Every name that the code, or code within it, looks up."""
    inner = (one for one in code.co_consts if isinstance(one, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _set_by(code: CodeType) -> set[str]:
    """The global and outer names that the code, or code within it, sets."""
    import dis

    stores = ("STORE_GLOBAL", "STORE_DEREF", "DELETE_GLOBAL")
    own = {str(one.argval) for one in dis.get_instructions(code) if one.opname in stores}
    return own.union(*(_set_by(one) for one in code.co_consts if isinstance(one, CodeType)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
