"""A study without a study file: `hpo run train.py --trials 30 --direction maximize`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo.errors import UserError
from hpo.files import write_whole
from hpo.spec import StudySpec, load_spec, parse_spec
from hpo.spec.loading import near_file
from hpo.spec.objective import DEFAULT_CALLABLE


def read_study(
    source: Path, asked: Mapping[str, Any], overrides: Sequence[str]
) -> tuple[StudySpec, Path, bool]:
    """The study that `source` is or names, the directory its objective is relative to, and whether the number
    of trials is the command line's. What that says in a study file's place is `asked`, by option.

    Raises:
        UserError: options that a study file says itself, or an objective of which too little is known.
        SpecError: the study is wrong.
    """
    place, _, callable_ = str(source).rpartition(":")
    if not place or callable_.endswith(".py"):
        place, callable_ = str(source), DEFAULT_CALLABLE
    is_file = place.endswith(".py")
    is_module = not is_file and ":" in str(source) and all(part.isidentifier() for part in place.split("."))
    if not is_file and not is_module:
        if asked and source.suffix != ".ipynb":
            options = ", ".join(f"--{name}" for name in asked)
            raise UserError(
                f"{options}: a study file says that itself; change it there, or for once with --set, as in "
                "--set budget.trials=30"
            )
        return load_spec(source, overrides), source.absolute().parent, False
    if is_file and not Path(place).is_file():
        raise UserError(f"there is no file {place}{near_file(Path(place), '.py')}")
    return _of_objective(place, callable_, is_module, asked, overrides)


def _of_objective(
    place: str, callable_: str, is_module: bool, asked: Mapping[str, Any], overrides: Sequence[str]
) -> tuple[StudySpec, Path, bool]:
    folder = Path.cwd() if is_module else Path(place).absolute().parent
    if "write" in asked:
        folder = asked["write"].absolute().parent
    path = place if is_module else os.path.relpath(place, folder)
    name = place.rpartition(".")[2] if is_module else Path(place).stem
    suffix = "" if callable_ == DEFAULT_CALLABLE else f":{callable_}"
    directions = asked.get("direction") or ["minimize"]
    one = len(directions) == 1
    content: dict[str, Any] = {
        "study": asked.get("study") or name + suffix.replace(":", "-"),
        "objective": path + (suffix or (f":{callable_}" if is_module else "")),
        "direction" if one else "directions": directions[0] if one else directions,
        **{part: asked[part] for part in ("sampler", "pruner") if part in asked},
    }
    if "trials" in asked:
        content["budget"] = {"trials": asked["trials"]}
    elif not any(word.startswith("budget") for word in overrides):
        raise UserError(f"say how many trials {content['study']} has in all, as in --trials 30")
    spec = parse_spec(content, f"hpo run {place}", overrides)
    if "write" in asked:
        _write(asked["write"], content, overrides)
    return spec, folder, "trials" in asked


def _write(file: Path, content: dict[str, Any], overrides: Sequence[str]) -> None:
    import yaml

    from hpo.spec.overrides import apply_overrides

    text = yaml.safe_dump(apply_overrides(content, overrides)[0], sort_keys=False, allow_unicode=True)
    if file.exists() and file.read_bytes() != text.encode():
        raise UserError(
            f"--write {file}: there is such a file, and it says something else; give another name"
        )
    write_whole(file, text, "study file")
