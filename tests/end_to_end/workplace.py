"""A person's directory: study files, objectives, and the real command run there."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.command import HpoProcess, HpoResult, look, run_hpo

PARABOLA = """
    def objective(trial):
        x = trial.suggest_float("x", -10, 10)
        for step in range(1, 4):
            trial.report(x * x + 3 - step, step)
        return x * x
"""
X = {"x": {"type": "float", "low": -10.0, "high": 10.0}}
SECONDS = 150.0  # a run takes two on an idle machine; builds share theirs


@dataclass
class Workplace:
    """A directory with study files in it. Nothing of the project is beside them."""

    path: Path
    env: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, content: str | bytes) -> Path:
        """A file of that name; text loses its indentation."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(textwrap.dedent(content).lstrip())
        return file

    def study(self, name: str, objective: str = PARABOLA, **fields: Any) -> Path:
        """NAME.py with the objective and NAME.yaml: six random trials over one float, unless `fields` say."""
        self.write(f"{name}.py", objective)
        return self.spec(name, **fields)

    def spec(self, name: str, **fields: Any) -> Path:
        """NAME.yaml alone; a field given as None is left out."""
        content = {
            "study": name,
            "objective": f"{name}.py",
            "direction": "minimize",
            "sampler": {"name": "random", "seed": 0},
            "pruner": {"name": "none"},
            "budget": {"trials": 6},
            "space": X,
            **fields,
        }
        kept = {key: value for key, value in content.items() if value is not None}
        plain = json.loads(json.dumps(kept))  # else yaml writes what stands twice as an alias
        return self.write(f"{name}.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))

    def hpo(self, *args: str | Path, **options: Any) -> HpoResult:
        """Run the command here to its end."""
        return run_hpo(*args, **self._options(options))

    def look(self, *args: str | Path) -> HpoResult:
        """Run a command that only looks, creates or steers on the way, in this process."""
        return look(*args, cwd=self.path, env=self.env)

    def run(self, spec: Path, *args: str, runners: int = 1, **options: Any) -> HpoResult:
        """`hpo run SPEC` without a report, which takes longer than the search."""
        return self.hpo("run", spec.name, "--runners", str(runners), "--no-report", *args, **options)

    def start(self, *args: str | Path, **options: Any) -> HpoProcess:
        """Start the command here and go on; use as a context manager."""
        options.pop("timeout", None)
        found = self._options(options)
        del found["timeout"]
        return HpoProcess(*args, **found)

    def trials(self, study: str) -> list[dict[str, Any]]:
        """What `hpo trials` lists."""
        found: list[dict[str, Any]] = self.look("trials", study, "--format", "json").check().json
        return found

    def show(self, study: str) -> dict[str, Any]:
        """What `hpo show` says."""
        found: dict[str, Any] = self.look("show", study, "--format", "json").check().json
        return found

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        env = {**self.env, **(options.pop("env", None) or {})}
        return {"cwd": self.path, "timeout": SECONDS, **options, "env": env}
