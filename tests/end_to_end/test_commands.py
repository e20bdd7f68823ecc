"""Every command explains itself, and help costs next to nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.cli import command_for
from hpo.errors import ExitCode
from tests.end_to_end.workplace import Workplace
from tests.support.command import COMMAND, every_command, hpo_environment

README = Path(__file__).parents[2] / "README.md"
HEAVY = {
    "torch",
    "optuna",
    "sqlalchemy",
    "pandas",
    "numpy",
    "plotly",
    "pydantic",
    "scipy",
    "alembic",
    "yaml",
    "mcp",
}
TIMES = 3.5  # two, as measured; optuna or SQLAlchemy alone would make it more than four


COMMANDS = dict(every_command())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_for_itself_and_each_of_its_options(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert command.help.strip().endswith((".", "1", "leaves."))
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"


def test_help_names_no_type_of_python() -> None:
    """A person types a number or a path, not an <int> or a <list[str]>."""
    command = command_for([])
    for name, each in command.commands.items():
        told = each.get_help(each.make_context(name, [], resilient_parsing=True))
        assert not re.search(r"<(int|str|float|list|path|bool)\b|\b(INTEGER|FLOAT)\b", told), told


def test_a_command_that_is_made_alone_takes_what_it_takes_among_all() -> None:
    for name, among_all in COMMANDS.items():
        made = dict(every_command(command_for(name.split())))
        assert " " in name or list(made) == [name]
        alone = made[name]
        assert alone.help == among_all.help
        assert [(one.opts, one.help) for one in alone.params] == [
            (one.opts, one.help) for one in among_all.params
        ]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_stands_in_the_readme(name: str) -> None:
    assert re.search(rf"[`\n](?:hpo )?{name}\b", README.read_text())


PROMISED = [
    "run",
    "check",
    "create",
    "worker",
    "enqueue",
    "ls",
    "show",
    "trials",
    "trial",
    "logs",
    "workers",
    "pause",
    "resume",
    "stop",
    "cancel",
    "retry",
    "extend",
    "delete",
    "audit",
    "evaluate",
    "best",
    "export",
    "report",
    "dashboard",
    "schema",
    "doctor",
]


def test_the_promised_commands_exist() -> None:
    assert set(PROMISED) <= COMMANDS.keys()
    assert "db upgrade" in COMMANDS


def test_help_imports_nothing_heavy(place: Workplace) -> None:
    result = place.hpo("--help", env={"PYTHONPROFILEIMPORTTIME": "1"}).check()
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.err.splitlines()}
    assert "typer" in imported, "the list of imports is there"
    assert imported & HEAVY == set()


def test_help_takes_little_more_cpu_than_the_library_that_prints_it() -> None:
    """Which is measured in turn with it: a slow machine is slow in both."""
    ours, bare = (
        [str(Path(sys.executable).with_name("hpo")), "--help"],
        [sys.executable, "-c", "import typer"],
    )
    taken = [(cpu_of(ours), cpu_of(bare)) for _ in range(5)]
    assert min(one for one, _ in taken) < TIMES * min(other for _, other in taken), taken


def cpu_of(command: list[str]) -> float:
    """Seconds of CPU of a command; other processes can only make it look longer."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=hpo_environment())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_help_lists_every_command_once_and_the_exit_codes(place: Workplace) -> None:
    text = place.hpo("--help").check().out
    for name in {name.split()[0] for name in COMMANDS}:
        assert text.count(f"\n  {name} ") == 1, name
    codes = {value for name, value in vars(ExitCode).items() if name.isupper()}
    for code in codes:
        assert f"{code} " in text.rpartition("Exit codes:")[2].replace("\n", " ")


@pytest.mark.parametrize(
    "arguments", [["bogus"], ["show"], ["run", "a.yaml", "--bogus"], ["ls", "--format", "xml"]]
)
def test_a_usage_error_ends_with_exit_2_on_standard_error(arguments: list[str], place: Workplace) -> None:
    result = place.hpo(*arguments).check(2)
    assert result.out == ""
    assert "Error" in result.err or "hpo:" in result.err
    assert "Traceback" not in result.err


def test_the_module_and_the_command_are_the_same(place: Workplace) -> None:
    script = Path(sys.executable).with_name("hpo")
    texts = [
        subprocess.run(
            [*command, "--help"], capture_output=True, text=True, env=hpo_environment(), cwd=place.path
        ).stdout
        for command in (COMMAND, [script])
    ]
    assert texts[0] == texts[1] != ""
