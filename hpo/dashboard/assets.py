"""Our own files for the browser: by exact name from a list made of the package, compressed once."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from hpo.errors import NotFoundError

_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}


async def asset(request: Request) -> Response:
    """A file of ours."""
    name = request.path_params["file"]
    found = load().get(name)
    if found is None:
        raise NotFoundError("there is no such file")
    plain, packed = found
    headers = {"Cache-Control": "max-age=3600", "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
    kind = _TYPES["." + name.rsplit(".", 1)[-1]]
    return Response(packed if "Content-Encoding" in headers else plain, media_type=kind, headers=headers)


@cache
def load() -> dict[str, tuple[bytes, bytes]]:
    """Every file by name: as it is, and compressed."""
    static = files("hpo.dashboard").joinpath("static")
    found = {item.name: item for item in static.iterdir() if item.is_file()}
    found |= {f"vendor/{item.name}": item for item in static.joinpath("vendor").iterdir()}
    found |= {name: files("hpo.report").joinpath("templates", name) for name in ("report.css", "drawing.js")}
    return {name: (item.read_bytes(), gzip.compress(item.read_bytes(), 6)) for name, item in found.items()}
