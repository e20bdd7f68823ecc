"""`--set budget.trials=20`: change single fields of a study file from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpo.spec.problems import Path, listed, nearest, shown, spec_error
from hpo.spec.reading import read_yaml
from hpo.spec.sampling import named

_EITHER_OR = {"direction": "directions", "directions": "direction"}
_NAMED = ("sampler", "pruner", "wrapped")  # a bare name stands for a mapping


@dataclass(frozen=True)
class Override:
    """One changed field: where it is, and how the user wrote it."""

    path: Path
    text: str  # "budget.trials=20"
    value: Any


def apply_overrides(data: Any, texts: Sequence[str]) -> tuple[Any, list[Override]]:
    """`data` with each override applied in turn, and where each one ended up.

    Each text is `path=value`: keys and list indexes joined by dots, and a YAML value. Missing
    mappings on the way are made.

    Raises:
        SpecError: for a text without `=`, a value that is no YAML, or a path through a single value.
    """
    overrides = []
    for text in texts:
        dotted, equals, written = text.partition("=")
        if not equals or not dotted.strip():
            raise spec_error(f"--set {text}: must be PATH=VALUE, such as budget.trials=20")
        value = read_yaml((written.strip() or "null").encode(), f"--set {text}", numbered=False).value
        if not isinstance(data, dict):
            raise spec_error(f"--set {text}: the study file is no mapping, so it has no {dotted}")
        data, path = _changed(data, dotted.strip().split("."), value, (), text)
        other = _EITHER_OR.get(path[0]) if len(path) == 1 else None
        data.pop(other, None)
        overrides.append(Override(path, text, value))
    return data, overrides


def _changed(holder: Any, parts: list[str], value: Any, at: Path, text: str) -> tuple[Any, Path]:
    """A copy of `holder` with the value at `parts` replaced, and the path that `parts` meant."""
    if not parts:
        return value, at
    if at and at[-1] in _NAMED:
        holder = named(holder)
    if isinstance(holder, list):
        index = _index(holder, parts[0], at, text)
        inner, path = _changed(holder[index], parts[1:], value, (*at, index), text)
        return [*holder[:index], inner, *holder[index + 1 :]], path
    if holder is None:
        holder = {}
    if not isinstance(holder, dict):
        raise spec_error(
            f"--set {text}: {'.'.join(map(str, at))} is {shown(holder)}, which has no part {parts[0]!r}"
        )
    key, rest = _key(holder, parts)
    if not key:
        raise spec_error(f"--set {text}: the path has an empty part; write keys joined by single dots")
    inner, path = _changed(holder.get(key), rest, value, (*at, key), text)
    return {**holder, key: inner}, path


def _key(holder: dict[Any, Any], parts: list[str]) -> tuple[Any, list[str]]:
    """The longest existing key that the parts begin with (keys may hold dots), else the first part."""
    by_text = {str(key): key for key in holder}
    for length in range(len(parts), 0, -1):
        candidate = ".".join(parts[:length])
        if candidate in by_text:
            return by_text[candidate], parts[length:]
    return parts[0], parts[1:]


def _index(holder: list[Any], part: str, at: Path, text: str) -> int:
    where = ".".join(map(str, at))
    if not (part.isascii() and part.isdigit() and len(part) < 9):
        numbers = listed(range(min(len(holder), 10)))
        raise spec_error(
            f"--set {text}: {where} is a list; name an item by its index ({numbers or 'it is empty'}),"
            f" not {part!r}{nearest(part, [])}"
        )
    if int(part) >= len(holder):
        raise spec_error(f"--set {text}: {where} has {len(holder)} items, counted from 0; there is no {part}")
    return int(part)
