"""GET / and everything that the page loads: its files, the status, figures of the ledger and the latest results."""

import asyncio
import base64
import hashlib
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from miner.analytics import DEFAULT_SCALE, PERIODS, Json, Scale, TaskFilter, read_dashboard_view, task_figures
from miner.errors import OperatorError
from miner.ledger import LedgerReader, TaskRow
from miner.monitor.gallery import Gallery, StoredResult, read_upright
from miner.monitor.server import error_response
from miner.monitor.status import StatusSource
from pipeline import UP_AXES, FormatError, flip_up_axis, ply

STATIC = Path(__file__).parent / "static"
# The number of results that the page shows.
MAX_RESULTS = 24
# The most tasks that are told at once.
MAX_TASKS = 1000
# Seconds for which all pages get what was read from the ledger once.
CACHE_SECONDS = 10.0
# Answers that are kept so long; a query may name any moments.
MAX_CACHED = 16
# Seconds by which a task's key may precede its assignment in the ledger.
KEY_MARGIN = 60.0
# The files of the pages, with what they use of third-party software, by their path below STATIC.
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = {
    path.relative_to(STATIC).as_posix(): path
    for path in (*STATIC.glob("*"), *STATIC.glob("vendor/*/*"))
    if path.suffix in TYPES
}


def content_security_policy(page: str, *extra: str) -> str:
    """Return a policy that lets a page load only files of this server, import maps by their hash, and `extra` rules."""
    inline = re.findall(r'<script type="importmap">(.*?)</script>', page, re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline)
    scripts = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in hashes)])
    rules = ["default-src 'none'", f"script-src {scripts}", "style-src 'self'", "img-src 'self'", "connect-src 'self'"]
    policy = "; ".join([*rules, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])
    for rule in extra:
        name, _, sources = rule.partition(" ")
        existing = f"; {name} "
        policy = policy.replace(existing, f"{existing}{sources} ") if existing in policy else f"{policy}; {rule}"
    return policy


# The viewer's script contains a WebAssembly module that sorts splats, and the worker that runs it.
VIEWER_SOURCES = ("script-src 'wasm-unsafe-eval'", "worker-src blob:")


class Dashboard:
    """The routes of the operator's page."""

    def __init__(
        self, source: StatusSource, ledger: Path, gallery: Gallery | None, scale: Scale = DEFAULT_SCALE
    ) -> None:
        """Show a status, a ledger, whose file need not exist yet, rated on a scale, and a gallery, if there is one."""
        self._scale = scale
        self._source = source
        self._ledger = ledger
        self._gallery = gallery
        self._cache: OrderedDict[str, tuple[float, Json]] = OrderedDict()
        self._cache_lock = asyncio.Lock()
        self._page = (STATIC / "dashboard.html").read_text(encoding="utf-8")
        self._viewer = (STATIC / "viewer.html").read_text(encoding="utf-8")

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes, for the server."""
        return [
            web.get("/", self.page),
            web.get("/viewer", self.viewer),
            web.get("/status.json", self.status),
            web.get("/figures.json", self.figures),
            web.get("/tasks.json", self.tasks),
            web.get("/results.json", self.results),
            web.get("/results/{key:[0-9]{1,19}}.ply", self.splats),
            web.get(r"/pictures/{name:[0-9]{1,19}(\.prompt)?\.webp}", self.picture),
            web.get("/static/{path:.+}", self.file),
        ]

    async def page(self, _request: web.Request) -> web.Response:
        """Return the page."""
        return _page_response(self._page, content_security_policy(self._page))

    async def viewer(self, _request: web.Request) -> web.Response:
        """Return the page that shows the result ?key=... from all sides."""
        return _page_response(self._viewer, content_security_policy(self._viewer, *VIEWER_SOURCES))

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Return a file of the pages; the path of third-party software names its version."""
        name = request.match_info["path"]
        if name not in FILES:
            return error_response(404, "there is no such file")
        caching = "max-age=604800" if name.startswith("vendor/") else "no-cache"
        headers = {"Content-Type": TYPES[FILES[name].suffix], "Cache-Control": caching}
        return web.FileResponse(FILES[name], headers=headers)

    async def status(self, _request: web.Request) -> web.Response:
        """Return the status as JSON, with the validators."""
        status = self._source.status()
        return web.json_response(status.as_json() | {"now": time.time(), "able_to_work": status.able_to_work})

    async def figures(self, request: web.Request) -> web.Response:
        """Return figures of the tasks that the query chooses as JSON; "problem" says why the ledger cannot be read.

        ?period=, one of PERIODS, or ?since= and ?until=, unix seconds; ?phase=, ?validator= and ?type= may be repeated.
        """
        try:
            task_filter = _parse_filter(request)
        except ValueError as error:
            return error_response(400, str(error))
        key = request.query_string
        return web.json_response(await self._cached(key, lambda: self._read_figures(task_filter)))

    async def tasks(self, request: web.Request) -> web.Response:
        """Return the latest ?last= tasks of the ledger as JSON, the newest last, chosen as for the figures."""
        try:
            task_filter = _parse_filter(request, default="all")
            last = int(request.query.get("last", "20"))
        except ValueError as error:
            return error_response(400, str(error))
        if not 0 < last <= MAX_TASKS:
            return error_response(400, f"last must be from 1 to {MAX_TASKS}")
        key = f"tasks {request.query_string}"
        return web.json_response(await self._cached(key, lambda: self._read_latest(replace(task_filter, last=last))))

    async def results(self, _request: web.Request) -> web.Response:
        """Return the latest results and their outcomes as JSON, the newest first."""
        return web.json_response(await self._cached("results", lambda: {"results": self._read_results()}))

    async def splats(self, request: web.Request) -> web.Response:
        """Return a result as PLY, whatever format it was sent in; the axis ?up= points up, y by default."""
        key, up = int(request.match_info["key"]), request.query.get("up", "y")
        if up not in UP_AXES:
            return error_response(400, f"up must be one of {', '.join(UP_AXES)}")
        data = await asyncio.to_thread(self._read_splats, key, up == "y")
        if data is None:
            return error_response(404, "this result is not kept any more")
        name = f'attachment; filename="{key}.ply"'
        return web.Response(body=data, content_type="application/octet-stream", headers={"Content-Disposition": name})

    async def picture(self, request: web.Request) -> web.StreamResponse:
        """Return the thumbnail of a result or of its prompt."""
        path = self._gallery.pictures / request.match_info["name"] if self._gallery else None
        if path is None or not await asyncio.to_thread(path.is_file):
            return error_response(404, "there is no such picture")
        # The picture of a key never changes.
        return web.FileResponse(path, headers={"Content-Type": "image/webp", "Cache-Control": "max-age=86400"})

    async def _cached(self, key: str, read: Callable[[], Json]) -> Json:
        # One reader at a time, so that requests which come together are answered with one reading.
        async with self._cache_lock:
            read_at, content = self._cache.get(key, (float("-inf"), {}))
            if time.monotonic() - read_at > CACHE_SECONDS:
                content = await asyncio.to_thread(read)
                self._cache[key] = time.monotonic(), content
                if len(self._cache) > MAX_CACHED:
                    self._cache.popitem(last=False)
        return content

    def _read_tasks(self, since: float) -> list[TaskRow]:
        if not self._ledger.is_file():
            return []
        with LedgerReader(self._ledger) as reader:
            return reader.tasks(since)

    def _read_figures(self, task_filter: TaskFilter) -> Json:
        try:
            return read_dashboard_view(self._ledger, task_filter, self._scale) | {"problem": ""}
        except OperatorError as problem:
            return read_dashboard_view(Path(), task_filter, self._scale) | {"problem": str(problem)}

    def _read_latest(self, task_filter: TaskFilter) -> Json:
        if not self._ledger.is_file():
            return {"tasks": [], "problem": ""}
        try:
            with LedgerReader(self._ledger) as reader:
                return {"tasks": [task_figures(task) for task in task_filter.read(reader)], "problem": ""}
        except OperatorError as problem:
            return {"tasks": [], "problem": str(problem)}

    def _read_results(self) -> list[Json]:
        stored = self._gallery.read_latest(MAX_RESULTS) if self._gallery else []
        if not stored:
            return []
        try:
            rows = {row.key: row for row in self._read_tasks(min(result.key for result in stored) / 1e9 - KEY_MARGIN)}
        except OperatorError:
            rows = {}
        return [_result_json(result, rows.get(result.key)) for result in stored]

    def _read_splats(self, key: int, is_upright: bool) -> bytes | None:
        if self._gallery is None:
            return None
        try:
            splats = read_upright(self._gallery.results, key)
            return ply.to_bytes(splats if is_upright else flip_up_axis(splats), normals=False)
        except (OSError, ValueError, KeyError, FormatError):
            return None


def _parse_filter(request: web.Request, default: str = "24h") -> TaskFilter:
    """Return the filter that a request's query describes. Raise ValueError with the reason."""
    query = request.query
    period = query.get("period", default)
    if period not in PERIODS:
        raise ValueError(f"period must be one of {', '.join(PERIODS)}")
    try:
        since = float(query.get("since", time.time() - PERIODS[period]))
        until = float(query.get("until", math.inf))
    except ValueError:
        raise ValueError("since and until must be unix seconds") from None
    if not since < until:
        raise ValueError("since must lie before until")
    phases, validators, types = (tuple(query.getall(name, [])) for name in ("phase", "validator", "type"))
    return TaskFilter(since, until, phases, validators, types)


_LEDGER_FACTS = ("outcome", "score", "uid", "validator", "quality", "alignment", "estimated_score")


def _result_json(result: StoredResult, row: TaskRow | None) -> Json:
    return result.facts | {
        # As text, since JavaScript's numbers have only 53 bits.
        "key": str(result.key),
        "seed": str(result.facts.get("seed")),
        "made_at": result.key / 1e9,
        "size": result.size,
        "picture": result.has_picture,
        "prompt_picture": result.has_prompt_picture,
        **{name: getattr(row, name, None) for name in _LEDGER_FACTS},
    }


def _page_response(text: str, policy: str) -> web.Response:
    return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": policy})
