"""Threads and memory of the device a runner works on. Nothing here imports torch; objectives decide that."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from pathlib import Path


def set_threads(threads: int) -> None:
    """Use `threads` CPU threads for torch from now on, when the objective has loaded it.

    Libraries that load later read OMP_NUM_THREADS, which the worker sets at the runner's start.
    """
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(threads)


def keep_to(cores: tuple[int, ...] | None) -> None:
    """Run on these CPU cores alone, threads and processes started later too (Linux)."""
    if cores and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):  # taken away from us meanwhile
            os.sched_setaffinity(0, cores)


def reset_peak_memory(device: str) -> None:
    """Begin to measure peak memory anew: the device's on CUDA, else this process's (Linux)."""
    torch = sys.modules.get("torch")
    if device.startswith("cuda"):
        if torch is not None and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # not Linux, or forbidden: then since the process began
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: str) -> float:
    """Peak memory since the reset in bytes: what PyTorch allocated on CUDA, else what this process held."""
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None and torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    kilo = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo)


_MEMORY_WORDS = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def out_of_device_memory(error: BaseException | None) -> bool:
    """Whether the error, or what caused it, is that the device's memory is exhausted (not the host's)."""
    torch = sys.modules.get("torch")
    kind = getattr(torch, "OutOfMemoryError", None)
    while error is not None:
        if kind is not None and isinstance(error, kind):
            return True
        if isinstance(error, RuntimeError) and any(word in str(error) for word in _MEMORY_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False
