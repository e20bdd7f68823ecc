"""Run an objective without the service: from a script, a notebook, a test, or plain Optuna.

from objectives.classifier import objective
from objectives.standalone import LocalTrial

trial = LocalTrial({"dataset": "digits", "epochs": 5})
print(objective(trial), trial.reports)
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import optuna

Value = TypeVar("Value")


class LocalCheckpoint:
    """Checkpoints in a directory, or in memory where there is none; the newest two are kept."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._memory: dict[int, bytes] = {}

    def save(self, state: dict[str, Any], step: int) -> None:
        """Keep `state` as the state after `step`."""
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer)
        if self._directory is None:
            self._memory[step] = buffer.getvalue()
            for old in sorted(self._memory)[:-2]:
                del self._memory[old]
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
        aside = self._directory / f".{step}.tmp"
        aside.write_bytes(buffer.getbuffer())
        for old in self._steps()[:-1]:
            for path in self._directory.glob(f"step-{old:08d}-*.pt"):
                path.unlink(missing_ok=True)
        aside.replace(self._directory / f"step-{step:08d}-{digest}.pt")

    def load(self) -> dict[str, Any] | None:
        """Return the newest state whose digest is right, on the CPU; None where there is none."""
        import torch

        for step in reversed(self._steps()):
            content = self._read(step)
            if content is not None:
                state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                return state
        return None

    @property
    def latest(self) -> int | None:
        """The step of the newest state whose digest is right."""
        return next((step for step in reversed(self._steps()) if self._read(step) is not None), None)

    def _steps(self) -> list[int]:
        if self._directory is None:
            return sorted(self._memory)
        return sorted({int(path.name.split("-")[1]) for path in self._directory.glob("step-*-*.pt")})

    def _read(self, step: int) -> bytes | None:
        if self._directory is None:
            return self._memory[step]
        for path in self._directory.glob(f"step-{step:08d}-*.pt"):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == path.stem.split("-")[2]:
                return content
        return None


class LocalTrial:
    """The `Trial` protocol in memory.

    Args:
        config: what the objective reads; `suggest_*` returns a value of this mapping where it has the name,
            asks `optuna_trial` where one is given, and draws from `seed` otherwise.
        seed: training seed.
        device: "cpu", "cuda:0", ...
        directory: where artifacts (and checkpoints, in `checkpoints/`) are kept; None keeps checkpoints in
            memory and artifacts as bytes in `artifacts`.
        optuna_trial: reports, pruning and suggestions go to this trial as well.
        prune: called with (step, value) after each report; True asks the objective to prune.
        on_check: called at every `check()`; raise from it to interrupt the objective.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        device: str = "cpu",
        directory: str | os.PathLike[str] | None = None,
        *,
        number: int = 0,
        attempt: int = 1,
        optuna_trial: optuna.Trial | None = None,
        prune: Callable[[int, float], bool] | None = None,
        on_check: Callable[[], None] | None = None,
    ) -> None:
        self.number = number
        self.seed = seed
        self.device = device
        self.attempt = attempt
        self.directory = Path(directory) if directory is not None else None
        self.params: dict[str, Any] = dict(optuna_trial.params) if optuna_trial is not None else {}
        self.checkpoint = LocalCheckpoint(self.directory / "checkpoints" if self.directory else None)
        self.reports: dict[int, float] = {}
        self.logs: dict[int, dict[str, float]] = {}
        self.artifacts: dict[str, bytes] = {}
        self.user_attrs: dict[str, Any] = {}
        self._config = dict(config or {})
        self._optuna_trial = optuna_trial
        self._prune = prune
        self._on_check = on_check

    @property
    def study(self) -> optuna.Study | None:
        """The Optuna study behind this trial, or None."""
        return self._optuna_trial.study if self._optuna_trial is not None else None

    @property
    def config(self) -> Mapping[str, Any]:
        """The given values and everything suggested so far."""
        return {**self._config, **self.params}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return the configured value, else ask Optuna, else draw between `low` and `high`."""
        if self._optuna_trial is not None and name not in self._config:
            return self._remember(name, self._optuna_trial.suggest_float(name, low, high, step=step, log=log))
        return float(self._choose(name, lambda draw: _draw_float(draw, low, high, step, log)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return the configured value, else ask Optuna, else draw between `low` and `high` inclusive."""
        if self._optuna_trial is not None and name not in self._config:
            return self._remember(name, self._optuna_trial.suggest_int(name, low, high, step=step, log=log))
        return int(self._choose(name, lambda draw: round(_draw_float(draw, low, high, step, log))))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return the configured value, else ask Optuna, else draw one of `choices`."""
        if self._optuna_trial is not None and name not in self._config:
            return self._remember(name, self._optuna_trial.suggest_categorical(name, choices))
        return self._choose(name, lambda draw: draw.choice(list(choices)))

    def report(self, value: float, step: int) -> None:
        """Record the objective's value after `step`; the first report of a step stands, as in Optuna."""
        self.reports.setdefault(step, float(value))
        if self._optuna_trial is not None:
            self._optuna_trial.report(value, step)

    def should_prune(self) -> bool:
        """Ask `prune`, then Optuna; False where neither was given or nothing was reported."""
        if not self.reports:
            return False
        step = max(self.reports)
        if self._prune is not None and self._prune(step, self.reports[step]):
            return True
        return self._optuna_trial is not None and self._optuna_trial.should_prune()

    def log(self, step: int | None = None, **metrics: float) -> None:
        """Record named metrics of `step`, by default the last reported one."""
        if step is None:
            step = max(self.reports, default=0)
        self.logs.setdefault(step, {}).update({name: float(value) for name, value in metrics.items()})

    def artifact(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Keep a copy of the file."""
        source = Path(path)
        name = name or source.name
        if self.directory is None:
            self.artifacts[name] = source.read_bytes()
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, self.directory / name)

    def read_artifact(self, name: str) -> bytes:
        """Return the content of an artifact. Raises KeyError or FileNotFoundError where there is none."""
        return self.artifacts[name] if self.directory is None else (self.directory / name).read_bytes()

    def check(self) -> None:
        """Call `on_check`, which may raise."""
        if self._on_check is not None:
            self._on_check()

    def set_user_attr(self, key: str, value: Any) -> None:
        """Record a value with the trial."""
        self.user_attrs[key] = value
        if self._optuna_trial is not None:
            self._optuna_trial.set_user_attr(key, value)

    def _choose(self, name: str, draw: Callable[[random.Random], Any]) -> Any:
        if name in self._config:
            return self._remember(name, self._config[name])
        if name in self.params:
            return self.params[name]
        return self._remember(name, draw(random.Random(f"{self.seed}/{name}")))

    def _remember(self, name: str, value: Value) -> Value:
        self.params[name] = value
        return value


def _draw_float(draw: random.Random, low: float, high: float, step: float | None, log: bool) -> float:
    if log:
        return min(high, max(low, math.exp(draw.uniform(math.log(low), math.log(high)))))
    if step is not None:
        return low + step * draw.randint(0, int((high - low) / step + 1e-9))
    return draw.uniform(low, high)
