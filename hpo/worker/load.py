"""How busy a worker's machine is: processors and memory by psutil, graphics cards by NVML."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

KEPT = 120  # samples of a worker, however long it lives


def machine_load() -> list[dict[str, Any]]:
    """Meters for the worker's status: `name`, `value`, `max` and `unit` ("%" or "bytes") each.

    The share of the processors is of the time since the last call in this process. A card that cannot be
    read is left out.
    """
    memory = psutil.virtual_memory()
    meters: list[dict[str, Any]] = [
        {"name": "processors", "value": psutil.cpu_percent(), "max": 100.0, "unit": "%"},
        {"name": "memory", "value": memory.total - memory.available, "max": memory.total, "unit": "bytes"},
    ]
    with contextlib.suppress(Exception):  # no driver, no library, a card that is lost: nothing to show
        meters += _cards()
    return meters


class Loads:
    """What a worker's meters showed since it started, thinned: `KEPT` samples at most.

    A sample is the mean of the looks up to its moment; when there are too many, two become one.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._began = now, now()
        self._names: list[str] = []
        self._samples: list[list[float]] = []  # seconds since it started, then each meter's share of 100
        self._looks: list[list[float]] = []  # of the next sample
        self._each = 1  # looks of a sample

    def add(self, meters: Sequence[dict[str, Any]]) -> str | None:
        """Take in a look; every sample as JSON, as `machines_of` reads it, where that completed one."""
        shares = {meter["name"]: 100 * meter["value"] / meter["max"] for meter in meters if meter["max"]}
        if not shares:
            return None
        self._names = self._names or list(shares)
        self._looks.append([self._now() - self._began, *(shares.get(name, 0.0) for name in self._names)])
        if len(self._looks) < self._each:
            return None
        self._samples.append(_mean(self._looks))
        self._looks = []
        if len(self._samples) == KEPT:
            self._samples = [_mean(self._samples[i : i + 2]) for i in range(0, KEPT, 2)]
            self._each *= 2
        rows = [[round(number) for number in sample] for sample in self._samples]
        return json.dumps({"names": self._names, "samples": rows}, separators=(",", ":"))


def _mean(samples: Sequence[list[float]]) -> list[float]:
    """Of samples one after another, at the last one's moment."""
    return [samples[-1][0], *(sum(column) / len(samples) for column in [*zip(*samples, strict=True)][1:])]


def _cards() -> list[dict[str, Any]]:
    import pynvml

    pynvml.nvmlInit()
    try:
        meters = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            card = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(card)
            busy = float(pynvml.nvmlDeviceGetUtilizationRates(card).gpu)
            name = f"GPU {index}"
            meters.append({"name": name, "value": busy, "max": 100.0, "unit": "%"})
            meters.append(
                {"name": f"{name} memory", "value": memory.used, "max": memory.total, "unit": "bytes"}
            )
        return meters
    finally:
        pynvml.nvmlShutdown()
