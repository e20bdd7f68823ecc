"""Run an objective without the service: from a script, a notebook, a test, or plain Optuna.

from objectives.classifier import objective
from objectives.standalone import LocalTrial

trial = LocalTrial({"dataset": "digits", "epochs": 5})
print(objective(trial), trial.reports)
"""

from __future__ import annotations

import io
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from objectives.protocol import Resting


class LocalCheckpoint:
    """The newest saved state, in memory."""

    def __init__(self) -> None:
        self.latest: int | None = None
        self._content = b""

    def save(self, state: dict[str, Any], step: int) -> None:
        """Keep a copy of `state` as the state after `step`."""
        import torch

        if self.latest is not None and step < self.latest:
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.latest, self._content = step, buffer.getvalue()

    held: Any = None

    def hold(self, resting: Resting, step: int) -> None:
        """As `save`: nothing is `held` here."""
        self.save(resting.state(), step)

    @property
    def saved(self) -> int | None:
        """The step of the newest state."""
        return self.latest

    def load(self) -> dict[str, Any] | None:
        """Return the newest state with its tensors on the CPU; None where none was saved."""
        import torch

        if self.latest is None:
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(self._content), map_location="cpu", weights_only=True)
        return state


class LocalTrial:
    """The `Trial` protocol in memory.

    Args:
        config: what the objective reads; `suggest_*` returns a value of this mapping where it has the name,
            asks `optuna_trial` where one is given, and draws from `seed` otherwise.
        seed: training seed.
        device: "cpu", "cuda:0", ...
        optuna_trial: reports, pruning and suggestions go to this trial as well.
        prune: called with (step, value) after each report; True asks the objective to prune.
        on_check: called at every `check()`; raise from it to interrupt the objective.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        device: str = "cpu",
        *,
        number: int = 0,
        attempt: int = 1,
        optuna_trial: optuna.Trial | None = None,
        prune: Callable[[int, Any], bool] | None = None,
        on_check: Callable[[], None] | None = None,
    ) -> None:
        self.number = number
        self.seed = seed
        self.device = device
        self.attempt = attempt
        self.params: dict[str, Any] = dict(optuna_trial.params) if optuna_trial is not None else {}
        self.checkpoint = LocalCheckpoint()
        self.reports: dict[int, Any] = {}
        self.logs: dict[int, dict[str, float]] = {}
        self.artifacts: dict[str, bytes] = {}  # name -> content
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
        return {**self.params, **self._config}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return the configured value, else ask Optuna, else draw between `low` and `high`."""
        chosen = self._choose(
            name,
            lambda trial: trial.suggest_float(name, low, high, step=step, log=log),
            lambda draw: _draw_float(draw, low, high, step, log),
        )
        return float(chosen)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return the configured value, else ask Optuna, else draw between `low` and `high` inclusive."""
        chosen = self._choose(
            name,
            lambda trial: trial.suggest_int(name, low, high, step=step, log=log),
            lambda draw: round(_draw_float(draw, low, high, step, log)),
        )
        return int(chosen)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return the configured value, else ask Optuna, else draw one of `choices`."""
        return self._choose(
            name,
            lambda trial: trial.suggest_categorical(name, choices),
            lambda draw: draw.choice(list(choices)),
        )

    def report(self, value: float | Sequence[float], step: int) -> None:
        """Record the objective's value after `step`, or a tuple of several, of which plain Optuna takes none;
        the first report of a step stands, as in Optuna.
        """
        if isinstance(value, Sequence):
            self.reports.setdefault(step, tuple(map(float, value)))
            return
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
        if self._optuna_trial is None or isinstance(self.reports[step], tuple):
            return False
        return self._optuna_trial.should_prune()

    def log(self, step: int | None = None, **metrics: float) -> None:
        """Record named metrics of `step`, by default the last reported one."""
        if step is None:
            step = max(self.reports, default=0)
        self.logs.setdefault(step, {}).update({name: float(value) for name, value in metrics.items()})

    def artifact(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Keep the content of the file in `artifacts`."""
        source = Path(path)
        self.artifacts[name or source.name] = source.read_bytes()

    def read_artifact(self, name: str) -> bytes:
        """Return the content of an artifact.

        Raises:
            KeyError: there is none of that name.
        """
        return self.artifacts[name]

    def check(self) -> None:
        """Call `on_check`, which may raise."""
        if self._on_check is not None:
            self._on_check()

    def set_user_attr(self, key: str, value: Any) -> None:
        """Record a value with the trial."""
        self.user_attrs[key] = value
        if self._optuna_trial is not None:
            self._optuna_trial.set_user_attr(key, value)

    def _choose(
        self, name: str, ask: Callable[[optuna.Trial], Any], draw: Callable[[random.Random], Any]
    ) -> Any:
        if name in self._config:
            self.params[name] = self._config[name]
        elif self._optuna_trial is not None:
            self.params[name] = ask(self._optuna_trial)
        elif name not in self.params:
            self.params[name] = draw(random.Random(f"{self.seed}/{name}"))
        return self.params[name]


def _draw_float(draw: random.Random, low: float, high: float, step: float | None, log: bool) -> float:
    if log:
        return min(high, max(low, math.exp(draw.uniform(math.log(low), math.log(high)))))
    if step is not None:
        return low + step * draw.randint(0, int((high - low) / step + 1e-9))
    return draw.uniform(low, high)
