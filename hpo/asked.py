"""What an objective asks its trial for, as far as its source says so without being run; what a study file
that says otherwise would change in silence."""

from __future__ import annotations

import ast
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.spec import CategoricalParameter, StudySpec
from hpo.spec.objective import parse_factory
from hpo.spec.problems import listed, nearest, shown
from hpo.spec.sampling import CustomPruner, CustomSampler

_KINDS = {"suggest_float": "float", "suggest_int": "int", "suggest_categorical": "categorical"}
_MOST = 200  # files of an objective that are read


@dataclass
class Asked:
    """By name of the parameter: every call that suggests it."""

    calls: defaultdict[str, list[tuple[str, list[Any]]]] = field(default_factory=lambda: defaultdict(list))
    patterns: list[str] = field(default_factory=list)  # of names that are made, as regular expressions
    words: set[str] = field(default_factory=set)  # every text and name: it may ask for it in another way
    whole: int = 0  # above 0: it reads `trial.config` or `trial.params` otherwise than by a name

    def suggests(self, name: str) -> bool:
        """Whether it may ask a trial to choose a parameter of this name."""
        return name in self.calls or any(re.fullmatch(pattern, name) for pattern in self.patterns)


def notes(spec: StudySpec, folder: Path) -> list[str]:
    """Sentences about what the study file and the objective in `folder` say differently, and of a space that
    has fewer settings than the budget has trials; mostly none.

    Objectives that come with hpo check their settings themselves.
    """
    few = f"the space has {spec.tickets} settings; each is trained once, and the study ends"
    said = [few] if spec.is_exhaustive else []
    if len(spec.directions) > 1 and spec.pruner.name in ("asha", "hyperband"):
        said.append(
            f"{spec.pruner.name} ranks {len(spec.directions)} directions by fronts, and within one by"
            " how much room a trial has; the objective reports them all, trial.report([..., ...], step)"
        )
    path = spec.objective_path
    if path is None or str(path.module).startswith("objectives."):
        return said
    asked = read([file for _, file in sources(path.file or str(path.module), folder)])
    if asked is None:
        return said
    return [*said, *_ranges(spec, asked), *_names(spec, asked)]


def places(spec: StudySpec, folder: Path) -> list[str]:
    """Where the objective is, and what is there of the files that `fixed` names: whole paths, for people.

    Args:
        spec: the study.
        folder: directory that its paths are relative to.
    """
    path, folder = spec.objective_path, Path(os.path.abspath(folder))  # noqa: PTH100 -- keeps symbolic links
    if path is None:
        found = [f"command {spec.shown_objective} in {folder}"]
    else:
        files = [Path(path.file)] if path.file else _files(str(path.module), folder)
        found = [f"objective {_whole(folder, files[0])}:{path.callable}" if files else f"objective {path}"]
    for name, value in spec.fixed.items():
        named = name.endswith(("path", "dir", "folder", "file", "root"))
        is_path = isinstance(value, str) and (named or "/" in value or "." in value)
        if is_path and os.path.exists(_whole(folder, value)):  # noqa: PTH110
            found.append(f"{name} {_whole(folder, value)}")
    return found


def sampling_code(spec: StudySpec, folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of the files that a sampler or pruner of the study's own is made of, by module's name."""
    chosen = (one for one in (spec.sampler, spec.pruner) if isinstance(one, CustomSampler | CustomPruner))
    paths = [parse_factory(one.factory) for one in chosen]
    files = [pair for path in paths for pair in sources(path.file or str(path.module), folder)]
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files if file.is_file()}


def _whole(folder: Path, path: str | Path) -> str:
    return os.path.abspath(folder / path)  # noqa: PTH100 -- as above


def read(files: Iterable[Path]) -> Asked | None:
    """What these files ask for; None when one of them cannot be read, or there is none."""
    asked, found = Asked(), False
    for file in files:
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):
            return None
        found = True
        for node in ast.walk(tree):
            _note(node, asked)
    return asked if found else None


def _note(node: ast.AST, asked: Asked) -> None:
    match node:
        case ast.Call(func=ast.Attribute(attr=attr)) if attr in _KINDS:
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            values = [*node.args, *(given[name] for name in ("low", "high", "choices") if name in given)]
            name = given.get("name") or (values.pop(0) if values else None)
            if isinstance(name, ast.Constant):
                asked.calls[str(name.value)].append((_KINDS[attr], [_literal(value) for value in values]))
            elif isinstance(name, ast.JoinedStr):
                parts = (
                    re.escape(str(v.value)) if isinstance(v, ast.Constant) else ".*" for v in name.values
                )
                asked.patterns.append("".join(parts))
            else:
                asked.patterns.append(".*")
        case ast.Subscript(value=ast.Attribute(attr="config" | "params"), slice=ast.Constant()):
            asked.whole -= 1
        case ast.Constant(value=str(text)):
            asked.words.add(text)
        case ast.Attribute(attr=word) | ast.arg(arg=word) | ast.keyword(arg=str(word)) | ast.Name(id=word):
            asked.words.add(word)
            asked.whole += isinstance(node, ast.Attribute) and word in ("config", "params")
        case _:
            pass


def _literal(node: ast.expr) -> Any:
    with suppress(ValueError, TypeError, SyntaxError, MemoryError):
        return ast.literal_eval(node)
    return None


def _ranges(spec: StudySpec, asked: Asked) -> Iterator[str]:
    """Where the study file's space goes further than the objective's own."""
    for name, parameter in spec.space.items():
        for kind, values in asked.calls.get(name, ()):
            if kind != parameter.type:
                yield (
                    f"space.{name} is of type {parameter.type}; the objective asks for {kind}. "
                    "The study file's counts"
                )
            elif isinstance(parameter, CategoricalParameter):
                if not values or not isinstance(values[0], list | tuple):
                    continue
                own = [choice for choice in parameter.labels if choice not in values[0]]
                if own:
                    yield (
                        f"space.{name} has choices that the objective's own lack: {listed(map(shown, own))}. "
                        "The study file's count, so it is handed these, too"
                    )
            elif len(values) >= 2 and all(isinstance(value, int | float) for value in values[:2]):
                low, high = values[:2]
                if parameter.low < low or parameter.high > high:
                    yield (
                        f"space.{name} goes from {parameter.low} to {parameter.high}, the objective's own "
                        f"range from {low} to {high}. The study file's counts, so it is handed values "
                        "outside its own"
                    )


def _names(spec: StudySpec, asked: Asked) -> Iterator[str]:
    """Names that only one of the two knows."""
    for name in spec.fixed:
        if name in asked.calls:
            yield (
                f"fixed.{name} fixes nothing: the objective suggests {name}, which searches it. Fixed values "
                "are read from trial.config; to hold what is suggested, give it a single value in `space`"
            )
    for name in spec.space:
        if not asked.suggests(name) and name not in asked.words and asked.whole <= 0:
            near = nearest(name, sorted(asked.calls))
            yield f"space.{name} is searched, and nothing in the objective's files asks for it{near}"
    if not spec.space:
        for name in dict.fromkeys(name for point in spec.enqueue for name in point):
            if not asked.suggests(name) and name not in asked.words:
                near = nearest(name, sorted(asked.calls))
                yield f"enqueue: nothing in the objective's files suggests {name}{near}; it has no effect"


def sources(named: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The file that `path/to/file.py` or a module is, and those that it imports from its own folder or the
    study's; each with the name under which it is imported."""
    first = [folder / named] if named.endswith(".py") else _files(named, folder)
    name = Path(named).stem if named.endswith(".py") else named
    todo, seen = [(name, file) for file in first], set[Path]()
    while todo and len(seen) < _MOST:
        name, file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        yield name, file
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            for name in _imported(node):
                todo += [(name, one) for one in (*_files(name, file.parent), *_files(name, folder))]


def _imported(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names):
            inside = [f"{module}.{alias.name}" if module else alias.name for alias in names]
            return [*([module] if module else []), *inside]
    return []


def _files(name: str, folder: Path) -> list[Path]:
    place = folder.joinpath(*name.split("."))
    return [file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()]
