"""`hpo init`: a study file and an objective that runs; of a script with argparse, a space proposed for it."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from hpo.cli.app import STUDY_FILE, app
from hpo.cli.output import say
from hpo.errors import UserError

_EXAMPLE = "objective.py"
_EXAMPLE_STUDY = {
    "objective": _EXAMPLE,
    "pruner": {"name": "asha", "min_epochs": 1, "max_epochs": 9},
    "enqueue": [{"lr": 0.003, "hidden": 64, "dropout": 0.2}],
    "space": {
        "lr": {"type": "float", "low": 1e-4, "high": 0.3, "log": True},
        "hidden": {"type": "int", "low": 8, "high": 256, "log": True},
        "dropout": {"type": "float", "low": 0.0, "high": 0.5},
    },
    "fixed": {"epochs": 9},
}
_SHARES = re.compile(r"dropout|momentum|beta|smooth|mix|frac|ratio|prob|gamma|rho|alpha")
_NO_SETTING = re.compile(
    r"epoch|seed|step|worker|gpu|port|rank|every|interval|verbos|patience|thread|print|max_"
)
_LIKE = {int: "int", float: "float"}


@app.command()
def init(
    from_: Annotated[
        Path | None,
        typer.Option("--from", metavar="SCRIPT", help="A script with argparse; it is read, never run."),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- ARGUMENT...]", help="Of the script, to stay as they are."),
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="NAME", help="Default: search.")] = None,
    direction: Annotated[str | None, typer.Option(help="maximize (default) or minimize the result.")] = None,
    trials: Annotated[int | None, typer.Option(metavar="N", help="Default: 20.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Of search at most; default: no limit.")] = None,
    write: Annotated[Path, typer.Option(metavar="FILE", help="The study file.")] = Path(STUDY_FILE),
) -> None:
    """Write a study file and an objective that runs, so that `hpo run` is all that is left.

    In a terminal and without options it asks five questions. Files that are there stay as they are.
    """
    from importlib.resources import files as files_of

    import yaml

    from hpo.files import write_whole
    from hpo.spec import parse_spec

    asked = (from_, study, direction, trials, minutes)
    if all(one is None for one in asked) and sys.stdin.isatty():
        ask = partial(typer.prompt, err=True)
        script = ask("A script of yours to search over; nothing: an example is written", default="")
        from_ = Path(script) if script else None
        study = ask("Name of the study", default="search")
        direction = ask("Is a larger result better, or a smaller: maximize, minimize", default="maximize")
        trials = ask("How many trials", default=20, type=int)
        minutes = ask("How many minutes at most; 0: no limit", default=0.0, type=float) or None
    budget = {"trials": 20 if trials is None else trials} | ({"seconds": minutes * 60} if minutes else {})
    content: dict[str, Any] = {"study": study or "search", "direction": direction or "maximize"}
    content["budget"] = budget
    files: dict[Path, str] = {}
    if from_ is None:
        content |= _EXAMPLE_STUDY
        starter = files_of("objectives") / "starter.py"
        files[write.parent / _EXAMPLE] = starter.read_text(encoding="utf-8")
    else:
        content |= _of_script(from_, write.parent, arguments or [])
    body = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)
    files[write] = (
        f"# docs: README.md, `hpo schema`. Check it with `hpo check`, search with `hpo run`.\n{body}"
    )
    parse_spec(files[write], write.name)
    for file in files:
        if file.exists():
            raise UserError(
                f"{file} is there already, and stays as it is; --write DIR/{STUDY_FILE} writes elsewhere"
            )
    for file, text in files.items():
        write_whole(file, text, "study file" if file == write else "objective")
    say(f"wrote {' and '.join(map(str, files))}; search with")
    print("hpo run" if write == Path(STUDY_FILE) else f"hpo run {shlex.quote(str(write))}")


@dataclass(frozen=True)
class Setting:
    """What a script says of one of its options."""

    name: str
    option: str
    kind: type | None  # of its value; None: not known
    default: Any
    choices: tuple[Any, ...]
    required: bool

    def space(self) -> dict[str, Any] | None:
        """What may be searched, as a study file says it; None: it is better left alone."""
        if len(self.choices) > 1:
            return {"type": "categorical", "choices": list(self.choices)}
        if self.kind not in _LIKE or not isinstance(self.default, int | float) or self.default < 0:
            return None
        low, high, log = self._range(self.default)
        return {"type": _LIKE[self.kind], "low": low, "high": high} | ({"log": True} if log else {})

    def _range(self, default: float) -> tuple[float, float, bool]:
        if self.kind is int:
            return max(1, int(default) // 4), max(4, int(default) * 4), default >= 8
        if default <= 1 and _SHARES.search(self.name):
            return 0.0, 0.5 if default <= 0.5 else 0.99, False
        if default == 0:
            return 1e-6, 1e-2, True
        return float(f"{default / 10:.3g}"), float(f"{default * 10:.3g}"), True


def settings_of(source: str, name: str) -> list[Setting]:
    """The options that a script gives `argparse`, as far as they are written out in it. Nothing is run.

    Raises:
        UserError: it is no Python.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UserError(f"{name} is no Python that can be read: {error}") from None
    known: dict[str, Any] = {}  # what names stand for, where that is written out
    for line in tree.body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            known[line.targets[0].id] = _literal(line.value, known)
    found: dict[str, Setting] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            setting = _setting(node, known)
            if setting is not None:
                found.setdefault(setting.name, setting)
    return list(found.values())


def _setting(call: ast.Call, known: dict[str, Any]) -> Setting | None:
    words = [word for word in (_literal(arg, known) for arg in call.args) if isinstance(word, str)]
    said = {word.arg: word.value for word in call.keywords if word.arg is not None}
    options = sorted((word for word in words if word.startswith("-")), key=len)
    if not words or "action" in said or "nargs" in said:
        return None
    option = options[-1] if options else words[0]
    default = _literal(said["default"], known) if "default" in said else None
    choices = _literal(said["choices"], known) if "choices" in said else None
    kind = {"int": int, "float": float, "str": str}.get(getattr(said.get("type"), "id", ""))
    if kind is None and "type" not in said and default is not None:
        kind = type(default)
    plain = [one for one in choices or () if isinstance(one, str | int | float)]
    required = not options or ("required" in said and _literal(said["required"], known) is True)
    dest = _literal(said["dest"], known) if "dest" in said else None
    name = dest if isinstance(dest, str) else option.lstrip("-").replace("-", "_")
    return Setting(name, option if options else "", kind, default, tuple(plain), required)


def _literal(node: ast.expr, known: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return known.get(node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError):
        return None


def _of_script(script: Path, folder: Path, arguments: list[str]) -> dict[str, Any]:
    """The part of a study file that searches over a script's settings.

    Raises:
        UserError: it cannot be read, demands what nobody has given, or has nothing to search.
    """
    import os

    try:
        source = script.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{script} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    space: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    first: dict[str, Any] = {}  # the script's own setting, where the space has it
    path = Path(os.path.relpath(script, folder)).as_posix()
    command = ["{python}", path.replace("{", "{{").replace("}", "}}"), *arguments]
    given = {word.partition("=")[0] for word in arguments}
    lacking, alone = [], []
    for setting in settings_of(source, str(script)):
        if setting.option in given or (setting.required and not setting.option and arguments):
            continue
        found = None if _NO_SETTING.search(setting.name) else setting.space()
        if found is not None:
            space[setting.name] = found
            if setting.default in found["choices"] if "choices" in found else setting.default >= found["low"]:
                first[setting.name] = setting.default
        elif setting.name == "epochs" and isinstance(setting.default, int):
            fixed["epochs"] = setting.default
        elif setting.required:
            lacking.append(setting.option or setting.name)
        elif setting.name != "seed":
            alone.append(setting.option)
        if setting.name in space or setting.name in fixed or setting.name == "seed":
            command += [setting.option, f"{{{setting.name}}}"]
    if lacking:
        words = " ".join(f"{word} VALUE" if word[0] == "-" else "VALUE" for word in lacking)
        raise UserError(
            f"{script} demands {', '.join(lacking)}, of which it does not say a value; give them: "
            f"hpo init --from {script} -- {words}"
        )
    if not space:
        raise UserError(
            f"{script} has no settings to search that can be read: argparse options with a type and a "
            "default, or choices. Write a study file by hand: docs/programs.md"
        )
    if alone:
        say(f"left at what {script.name} says: {', '.join(alone)}")
    if '"result"' not in source and "'result'" not in source and '"value"' not in source:
        say(
            f"note: {script.name} does not seem to print its result. As its last line it must: "
            'print(json.dumps({"result": accuracy})), and after an epoch {"step": 3, "value": 0.91}'
        )
    found = {"command": command, "enqueue": [first] if first else None, "space": space, "fixed": fixed}
    return {name: part for name, part in found.items() if part}
