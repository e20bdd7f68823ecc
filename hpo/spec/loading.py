"""From a study file to a `StudySpec`, and from pydantic's errors to sentences with file and line."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path as FilePath
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from hpo.errors import SpecError, printable
from hpo.spec.model import StudySpec
from hpo.spec.overrides import Override, apply_overrides
from hpo.spec.parameters import Choice, Parameter
from hpo.spec.problems import PROBLEM, Path, dotted, listed, nearest, shown, spec_error
from hpo.spec.reading import MAX_BYTES, Document, read_yaml
from hpo.spec.sampling import PrunerSpec, SamplerSpec, Wrapped

MAX_PROBLEMS = 10  # told at once
PIPE_SECONDS = 10.0  # for a study file that comes through a pipe
_SECONDS = (("budget", "seconds"), ("trial_timeout",), ("report_timeout",))
_REQUIRED = {
    ("directions",): "is required: minimize or maximize",
    ("objective",): "is required, or a `command` in its place",
}
_LIKE = {  # a mapping that may stand there
    ("space",): " like {type: float, low: 0.001, high: 0.1}",
    ("sampler",): " like {name: tpe, seed: 0}",
    ("pruner",): " like {name: asha, min_epochs: 1, max_epochs: 20}",
    ("budget",): " like {trials: 60}",
}


def load_spec(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> StudySpec:
    """Read and validate a study file.

    Args:
        path: The file, YAML 1.2 (or JSON), UTF-8, at most 1 MB.
        overrides: Fields to change, as `budget.trials=20`; values are YAML.

    Raises:
        SpecError: naming file, line, field, the value and what is allowed; several problems at once.
    """
    file = FilePath(path)
    document = read_yaml(_content(file), file.name)
    return _validated(document, file.name, overrides)


def parse_spec(
    source: str | bytes | Mapping[str, Any], name: str = "spec", overrides: Sequence[str] = ()
) -> StudySpec:
    """Validate a study given as YAML text or as a mapping; `name` stands for the file in errors.

    Raises:
        SpecError: as `load_spec` does.
    """
    if isinstance(source, Mapping):
        document = Document(dict(source))
    else:
        document = read_yaml(source.encode() if isinstance(source, str) else source, name)
    return _validated(document, name, overrides)


def _content(file: FilePath) -> bytes:
    try:
        if file.is_dir():
            raise spec_error(f"{file}: is a directory; name a study file")
        if file.suffix == ".ipynb":
            raise spec_error(
                f"{file} is a notebook: call hpo.optimize(objective, trials=30) in it, or put the objective "
                "into a .py file"
            )
        if file.suffix == ".py" and file.exists():
            raise spec_error(
                f"{file} is an objective, not a study file; `hpo run {file} --trials 30` runs it"
            )
        if not file.exists():
            raise spec_error(f"{file}: there is no such file{near_file(file, '.yaml', '.yml', '.json')}")
        with open(file, "rb", opener=_open_at_once) as stream:
            if not stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
                return stream.read(MAX_BYTES + 1)
            return _from_pipe(stream.fileno())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise spec_error(f"{shown(str(file))}: cannot be read: {reason}") from error


def _open_at_once(path: str, flags: int) -> int:
    """A pipe is opened too where nobody has written to it yet, or ever will."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _from_pipe(pipe: int) -> bytes:
    """What comes through a pipe, as in `hpo run <(make-study)`.

    Raises:
        TimeoutError: nobody writes to it, or not to the end.
    """
    content = b""
    until = time.monotonic() + PIPE_SECONDS
    while len(content) <= MAX_BYTES:
        try:
            chunk = os.read(pipe, MAX_BYTES)
        except BlockingIOError:
            chunk = None
        if chunk:
            content += chunk
        elif chunk == b"" and content:
            break
        elif time.monotonic() >= until:
            raise TimeoutError(f"nothing came through this pipe for {PIPE_SECONDS:g} s")
        else:  # nobody has written yet, or not all
            time.sleep(0.01)
    return content


def near_file(file: FilePath, *suffixes: str) -> str:
    """What to add where there is no such file: the nearest name of one beside it that ends so."""
    try:
        names = [entry.name for entry in file.parent.iterdir() if entry.suffix in suffixes]
    except OSError:
        return ""
    return nearest(file.name, names)


def _validated(document: Document, name: str, overrides: Sequence[str]) -> StudySpec:
    data, applied = apply_overrides(document.value, overrides)
    try:
        return StudySpec.model_validate(data)
    except ValidationError as error:
        raise SpecError(_told(error, data, Document(data, document.lines), name, applied)) from None


def _told(
    error: ValidationError, data: Any, document: Document, name: str, overrides: Sequence[Override]
) -> str:
    messages = []
    for detail in error.errors(include_url=False):
        path, sentence = _sentence(detail)
        if path[:1] == ("directions",) and isinstance(data, Mapping) and "directions" not in data:
            path = ("direction",)
        place = _place(path, document, name, overrides)
        messages.append(" ".join(part for part in (f"{place}:", dotted(path), sentence) if part))
    messages = list(dict.fromkeys(map(printable, messages)))
    if len(messages) > MAX_PROBLEMS:
        messages = [*messages[:MAX_PROBLEMS], f"... and {len(messages) - MAX_PROBLEMS} more"]
    return "\n".join(messages)


def _place(path: Path, document: Document, name: str, overrides: Sequence[Override]) -> str:
    """Where the part at `path` was written: in an override, or on a line of the file."""
    known = next((n for n in range(len(path), 0, -1) if path[:n] in document.lines), 0)
    for override in reversed(overrides):
        shared = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(path, override.path, strict=False))
        )
        if shared == len(override.path) or shared > known:
            return f"--set {override.text}"
    line = document.line(path)
    return f"{name}, line {line}" if line else name


def _sentence(detail: Any) -> tuple[Path, str]:
    """Path and sentence of one of pydantic's errors."""
    path, owner = _located(detail["loc"])
    kind, value, context = detail["type"], detail.get("input"), detail.get("ctx", {})
    if kind == PROBLEM:
        at, sentence = (*path, *context["at"]), context["sentence"]
        if at in _SECONDS:
            sentence = sentence.replace("a number,", "a number of seconds, like 3600,")
        return at, sentence
    match kind:
        case "extra_forbidden":
            allowed = _fields(owner)
            if str(path[-1]).partition(":")[0] in allowed:
                return path, "lacks the space after its colon"
            return path, f"is unknown{nearest(path[-1], allowed)} (allowed: {listed(allowed)})"
        case "missing":
            return path, _REQUIRED.get(path, "is required")
        case "union_tag_not_found":
            tag = context["discriminator"].strip("'")
            return (*path, tag), f"is required: one of {listed(_union(path))}"
        case "union_tag_invalid":
            tag = context["discriminator"].strip("'")
            names = list(_union(path))
            return (*path, tag), f"must be one of {listed(names)}, got {shown(context['tag'])}" + nearest(
                _as_here(context["tag"]), names
            )
        case "literal_error":
            return path, f"must be {context['expected']}, got {shown(value)}"
        case "model_type" | "model_attributes_type" | "dict_type" | "mapping_type":
            return path, f"must be a mapping{_LIKE.get(path[:1], '')}, got {shown(value)}"
        case "invalid_key":
            return path, "is no text; keys are text, and a number has a point, not a comma"
        case _:
            message = detail["msg"]
            return path, f"{message[0].lower()}{message[1:]}, got {shown(value)}"


_OPTUNAS = {"successivehalving": "asha", "nsgaii": "nsga2", "nsgaiii": "nsga3", "quasimontecarlo": "qmc"}


def _as_here(name: Any) -> str:
    """One of Optuna's classes as it is called here: `MedianPruner` is `median`."""
    text = str(name).lower().removesuffix("sampler").removesuffix("pruner")
    return _OPTUNAS.get(text, "none" if text == "nop" else text)


def _located(loc: Sequence[Any]) -> tuple[Path, type[BaseModel]]:
    """A path in the user's file for pydantic's `loc`, which also names the branch of a union.

    Returns it with the model that owns its last part.
    """
    path: list[Any] = []
    owner: type[BaseModel] = StudySpec
    inner: type[BaseModel] | None = StudySpec
    kinds: dict[str, type[BaseModel]] = {}
    for part in loc:
        if part in kinds:
            inner, kinds = kinds[part], {}
            continue
        owner = inner or owner
        path.append(part)
        inner, kinds = _plain_section(tuple(path)), _union(tuple(path))
    return tuple(path), owner


def _members(union: Any) -> dict[str, type[BaseModel]]:
    """The models of a discriminated union by their tag."""
    members: dict[str, type[BaseModel]] = {}
    for model in get_args(get_args(union)[0]):
        field = model.model_fields.get("name") or model.model_fields["type"]
        members[get_args(field.annotation)[0]] = model
    return members


_PARAMETERS, _SAMPLERS, _PRUNERS, _WRAPPED = map(_members, (Parameter, SamplerSpec, PrunerSpec, Wrapped))


def _union(path: Path) -> dict[str, type[BaseModel]]:
    """The kinds of thing that can stand at `path`, where there are several."""
    match path:
        case ("space", _):
            return _PARAMETERS
        case ("sampler",):
            return _SAMPLERS
        case ("pruner",):
            return _PRUNERS
        case ("pruner", "wrapped"):
            return _WRAPPED
    return {}


def _plain_section(path: Path) -> type[BaseModel] | None:
    match path:
        case (name,) if name in StudySpec.model_fields:
            found = StudySpec.model_fields[name].annotation
            return found if isinstance(found, type) and issubclass(found, BaseModel) else None
        case ("space", _, "choices", _):
            return Choice
    return None


def _fields(owner: type[BaseModel]) -> list[str]:
    names = list(owner.model_fields)
    return ["direction" if name == "directions" else name for name in names] if owner is StudySpec else names
