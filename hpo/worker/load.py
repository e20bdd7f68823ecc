"""How busy a worker's machine is: processors and memory by psutil, graphics cards by NVML."""

from __future__ import annotations

import contextlib
from typing import Any

import psutil


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
