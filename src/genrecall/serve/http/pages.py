"""The console's files, out of the package: a page, modules and styles, nothing from elsewhere."""

from __future__ import annotations

import hashlib
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from genrecall.serve.problems import Problem

_KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}


class Pages:
    """Serves the files that were there when the process started; no path is ever opened by name."""

    def __init__(self) -> None:
        folder = resources.files("genrecall.serve") / "console"
        self._files: dict[str, tuple[bytes, str, str]] = {}
        for file in folder.iterdir():
            kind = _KINDS.get(file.name.rpartition(".")[2])
            if kind is not None:
                body = file.read_bytes()
                self._files[file.name] = body, kind, f'"{hashlib.sha256(body).hexdigest()[:16]}"'

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/", self.page, methods=["GET"]),
            Route("/console/{name}", self.page, methods=["GET"]),
        ]

    async def page(self, request: Request) -> Response:
        """One file; browsers ask again each time and are told when it is still the same."""
        found = self._files.get(request.path_params.get("name", "index.html"))
        if found is None:
            raise Problem("not_found", "no such page")
        body, kind, tag = found
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=kind, headers=headers)
