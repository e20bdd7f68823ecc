"""The checkpoints of a program: files that it names, and gets again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.runner.values import ProgramError


def packed(directory: Path, place: Path) -> dict[str, Any]:
    """A file, or the regular files of a folder, as a checkpoint's state."""
    import torch  # its form is that of every checkpoint

    below = [Path(folder) / name for folder, _, names in os.walk(place) for name in names]
    files = {}
    for file in below if place.is_dir() else [place]:
        if file.is_file() and not file.is_symlink():
            content = torch.tensor(memoryview(file.read_bytes() or b"\0"), dtype=torch.uint8)
            files[file.relative_to(directory).as_posix()] = content[: file.stat().st_size]
    return {"name": place.relative_to(directory).as_posix(), "files": files}


def unpack(state: Mapping[str, Any], directory: Path) -> Path | None:
    """Put the files of a checkpoint into a new directory, and nowhere else; where the checkpoint is then."""
    for name, content in state.get("files", {}).items():
        file = within(directory, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.numpy().tobytes())
    return within(directory, state["name"]) if "name" in state else None


def within(directory: Path, name: Any) -> Path:
    """The path of that name in the directory.

    Raises:
        ProgramError: it leads out of it.
    """
    place = Path(os.path.normpath(directory / str(name)))
    if directory not in place.parents:
        raise ProgramError(f"names a checkpoint outside of HPO_CHECKPOINT: {str(name)[:100]!r}")
    return place
