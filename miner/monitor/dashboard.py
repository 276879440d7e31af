"""GET / and what the page asks for: its files, the status, the ledger's figures, the latest results."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from miner.analytics.dashboard_view import PERIODS, Json, dashboard_view
from miner.errors import OperatorError
from miner.ledger.reader import LedgerReader, TaskRow
from miner.monitor.gallery import Gallery
from miner.monitor.server import error
from miner.monitor.status import Status
from pipeline import FormatError, ply

STATIC = Path(__file__).parent / "static"
VENDOR = STATIC / "vendor"
# Results that the page shows.
LATEST = 24
# Seconds for which what was read from the ledger serves all who look, however many pages are open.
FRESH = 10.0
# A task has its key a little before it is written down as assigned, and no earlier.
KEY_MARGIN = 60.0
FILES = {
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
    "charts.js": "text/javascript",
    "dom.js": "text/javascript",
    "viewer.css": "text/css",
    "viewer.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


def content_security_policy(page: str, *extra: str) -> str:
    """The policy of a page: nothing but ours; inline import maps, which a browser takes in no other form, by hash."""
    inline = re.findall(r'<script type="importmap">(.*?)</script>', page, re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline)
    scripts = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in hashes)])
    rules = ["default-src 'none'", f"script-src {scripts}", "style-src 'self'", "img-src 'self'", "connect-src 'self'"]
    policy = "; ".join([*rules, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])
    for rule in extra:
        name, _, sources = rule.partition(" ")
        found = f"; {name} "
        policy = policy.replace(found, f"{found}{sources} ") if found in policy else f"{policy}; {rule}"
    return policy


# The viewer's sorter is a module of WebAssembly that stands, like the worker that runs it, inside the script.
VIEWER_SOURCES = ("script-src 'wasm-unsafe-eval'", "worker-src blob:")


class Dashboard:
    """Serves the page. `status` as for Monitor; without a ledger file or a gallery their parts are empty."""

    def __init__(self, status: Callable[[], Status], ledger: Path, gallery: Gallery | None) -> None:
        self._status = status
        self._ledger = ledger
        self._gallery = gallery
        self._read: dict[int | str, tuple[float, Json]] = {}
        self._reading = asyncio.Lock()
        self._vendored = {path.relative_to(VENDOR).as_posix(): path for path in VENDOR.glob("*/*.js")}
        self._page = (STATIC / "dashboard.html").read_text(encoding="utf-8")
        self._viewer = (STATIC / "viewer.html").read_text(encoding="utf-8")

    def routes(self) -> list[web.AbstractRouteDef]:
        """For the server."""
        return [
            web.get("/", self.page),
            web.get("/viewer", self.viewer),
            web.get("/status.json", self.status),
            web.get("/figures.json", self.figures),
            web.get("/results.json", self.results),
            web.get("/results/{key:[0-9]{1,19}}.ply", self.splats),
            web.get(r"/pictures/{name:[0-9]{1,19}(\.prompt)?\.webp}", self.picture),
            web.get("/static/{name}", self.file),
            web.get("/static/vendor/{path:.+}", self.vendored),
        ]

    async def page(self, _request: web.Request) -> web.Response:
        """The page."""
        return _page(self._page, content_security_policy(self._page))

    async def viewer(self, _request: web.Request) -> web.Response:
        """The page that shows one result from all sides; ?key=... says which."""
        return _page(self._viewer, content_security_policy(self._viewer, *VIEWER_SOURCES))

    async def file(self, request: web.Request) -> web.StreamResponse:
        """A file of the pages."""
        name = request.match_info["name"]
        if name not in FILES:
            return error(404, "there is no such file")
        return web.FileResponse(STATIC / name, headers={"Content-Type": FILES[name], "Cache-Control": "no-cache"})

    async def vendored(self, request: web.Request) -> web.StreamResponse:
        """A file of others' software; its path names the version."""
        path = self._vendored.get(request.match_info["path"])
        if path is None:
            return error(404, "there is no such file")
        return web.FileResponse(path, headers={"Content-Type": "text/javascript", "Cache-Control": "max-age=604800"})

    async def status(self, _request: web.Request) -> web.Response:
        """The present state, validators included."""
        status = self._status()
        return web.json_response(status.as_json() | {"now": time.time(), "able_to_work": status.able_to_work})

    async def figures(self, request: web.Request) -> web.Response:
        """The ledger in figures, of the last ?hours=, one of PERIODS; "problem" says why it cannot be read."""
        asked = request.query.get("hours", "24")
        if asked not in map(str, PERIODS):
            return error(400, f"hours must be one of {', '.join(map(str, PERIODS))}")
        hours = int(asked)
        return web.json_response(await self._fresh(hours, lambda: self._read_figures(hours)))

    async def results(self, _request: web.Request) -> web.Response:
        """The latest results, the newest first, with what became of them."""
        return web.json_response(await self._fresh("results", lambda: {"results": self._read_results()}))

    async def splats(self, request: web.Request) -> web.Response:
        """A result as PLY, whatever it was sent as."""
        key = int(request.match_info["key"])
        data = await asyncio.to_thread(self._read_splats, key)
        if data is None:
            return error(404, "this result is not kept any more")
        name = f'attachment; filename="{key}.ply"'
        return web.Response(body=data, content_type="application/octet-stream", headers={"Content-Disposition": name})

    async def picture(self, request: web.Request) -> web.StreamResponse:
        """A picture that was drawn of a result, or its prompt."""
        path = self._gallery.pictures / request.match_info["name"] if self._gallery else None
        if path is None or not await asyncio.to_thread(path.is_file):
            return error(404, "there is no such picture")
        # A key's picture never changes.
        return web.FileResponse(path, headers={"Content-Type": "image/webp", "Cache-Control": "max-age=86400"})

    async def _fresh(self, what: int | str, read: Callable[[], Json]) -> Json:
        # One reader at a time: what the others wait for serves them, too.
        async with self._reading:
            read_at, content = self._read.get(what, (float("-inf"), {}))
            if time.monotonic() - read_at > FRESH:
                content = await asyncio.to_thread(read)
                self._read[what] = time.monotonic(), content
        return content

    def _tasks(self, since: float) -> list[TaskRow]:
        if not self._ledger.is_file():
            return []
        with LedgerReader(self._ledger) as reader:
            return reader.tasks(since)

    def _read_figures(self, hours: int) -> Json:
        now = time.time()
        try:
            return dashboard_view(self._tasks(now - 3600 * hours), now, hours) | {"problem": ""}
        except OperatorError as problem:
            return dashboard_view([], now, hours) | {"problem": str(problem)}

    def _read_results(self) -> list[Json]:
        kept = self._gallery.latest(LATEST) if self._gallery else []
        if not kept:
            return []
        try:
            rows = {row.key: row for row in self._tasks(min(one.key for one in kept) / 1e9 - KEY_MARGIN)}
        except OperatorError:
            rows = {}
        found = []
        for one in kept:
            row = rows.get(one.key)
            found.append(
                one.facts
                | {
                    # As text: JavaScript's numbers are too short for them.
                    "key": str(one.key),
                    "seed": str(one.facts.get("seed")),
                    "made_at": one.key / 1e9,
                    "size": one.size,
                    "picture": one.has_picture,
                    "prompt_picture": one.has_prompt_picture,
                    "outcome": row.outcome if row else None,
                    "score": row.score if row else None,
                    "quality": row.local_score if row else None,
                    "uid": row.uid if row else None,
                    "validator": row.validator if row else None,
                }
            )
        return found

    def _read_splats(self, key: int) -> bytes | None:
        try:
            splats = self._gallery.splats(key) if self._gallery else None
        except (OSError, FormatError):
            return None
        return None if splats is None else ply.to_bytes(splats, normals=False)


def _page(text: str, policy: str) -> web.Response:
    return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": policy})
