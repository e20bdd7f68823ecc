"""Tensors to bytes and back. Torch is imported when called: an objective without it needs none."""

from __future__ import annotations

import io
import pickle
from typing import Any

from hpo.errors import HpoError, first_line


def dump_state(state: Any) -> bytes:
    """Tensors, numbers, strings, lists and dicts as the bytes of a `torch.save` file."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def read_state(content: bytes) -> Any:
    """What `dump_state` wrote, tensors on the CPU. Code in it is refused, never run.

    Raises:
        HpoError: it holds anything but tensors and plain values.
    """
    import torch

    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise HpoError(
            f"a saved state holds more than tensors and plain values: {first_line(error)}"
        ) from error
