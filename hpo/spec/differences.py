"""What keeps two specs from being the same study, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpo.spec.model import NOT_IDENTITY, StudySpec
from hpo.spec.problems import dotted, shown

_ABSENT = object()


def spec_differences(here: StudySpec, stored: StudySpec) -> list[str]:
    """`sampler.seed: 0 here, 1 in the stored study`, for every field that makes a study another one.

    Empty exactly when the digests agree. Budget, retry, keep, limits and notes may differ freely.
    """
    mine, theirs = (_flat(spec.model_dump(mode="json", exclude=set(NOT_IDENTITY))) for spec in (here, stored))
    lines = []
    for path in dict.fromkeys([*mine, *theirs]):
        a, b = mine.get(path, _ABSENT), theirs.get(path, _ABSENT)
        if path == ("directions",) and len(a) == len(b) == 1:
            path, (a,), (b,) = ("direction",), a, b
        if type(a) is not type(b) or a != b:
            lines.append(f"{dotted(path)}: {_told(a)} here, {_told(b)} in the stored study")
    return lines


def _flat(value: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    """Every single value, list or empty mapping by its path."""
    if not isinstance(value, Mapping) or (path and not value):
        return {path: value}
    parts: dict[tuple[Any, ...], Any] = {}
    for key, inner in value.items():
        parts |= _flat(inner, (*path, key))
    return parts


def _told(value: Any) -> str:
    return "absent" if value is _ABSENT else shown(value)
