"""GET / and everything that the page loads: its files, the status, figures and tasks of the ledger."""

import base64
import hashlib
import math
import re
import time
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from miner.analytics import (
    PERIODS,
    Json,
    Scale,
    TaskFilter,
    read_dashboard_view,
    read_experiments,
    task_figures,
)
from miner.config import OperatorFiles
from miner.errors import OperatorError
from miner.ledger import LedgerReader
from miner.monitor.answer_cache import AnswerCache
from miner.monitor.gallery import Gallery
from miner.monitor.results import Results
from miner.monitor.server import error_response
from miner.monitor.status import StatusSource

STATIC = Path(__file__).parent / "static"
# The most tasks that are told at once.
MAX_TASKS = 1000
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

    def __init__(self, source: StatusSource, files: OperatorFiles, gallery: Gallery | None) -> None:
        """Show a status, the ledger, whose file need not exist yet, and a gallery, if there is one."""
        self._scale = Scale.of(files.settings.bands)
        self._source = source
        self._ledger = files.ledger
        self._cache = AnswerCache()
        self._results = Results(files, gallery, self._cache)
        self._page = (STATIC / "dashboard.html").read_text(encoding="utf-8")
        self._candidates = (STATIC / "candidates.html").read_text(encoding="utf-8")
        self._compare = (STATIC / "compare.html").read_text(encoding="utf-8")
        self._viewer = (STATIC / "viewer.html").read_text(encoding="utf-8")

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes, for the server."""
        return [
            web.get("/", self.page),
            web.get("/viewer", self.viewer),
            web.get("/compare", self.compare),
            web.get("/candidates", self.candidates),
            web.get("/status.json", self.status),
            web.get("/figures.json", self.figures),
            web.get("/experiments.json", self.experiments),
            web.get("/tasks.json", self.tasks),
            *self._results.routes(),
            web.get("/static/{path:.+}", self.file),
        ]

    async def page(self, _request: web.Request) -> web.Response:
        """Return the page."""
        return _page_response(self._page, content_security_policy(self._page))

    async def viewer(self, _request: web.Request) -> web.Response:
        """Return the page that shows the result ?key=... from all sides."""
        policy = content_security_policy(self._viewer, *VIEWER_SOURCES)
        # For the page that compares.
        return _page_response(self._viewer, policy.replace("frame-ancestors 'none'", "frame-ancestors 'self'"))

    async def compare(self, _request: web.Request) -> web.Response:
        """Return the page that shows the results ?a=... and ?b=... side by side, each in a frame with the viewer."""
        return _page_response(self._compare, content_security_policy(self._compare, "frame-src 'self'"))

    async def candidates(self, _request: web.Request) -> web.Response:
        """Return the page that shows all candidates of the task whose result is ?key=... side by side."""
        return _page_response(self._candidates, content_security_policy(self._candidates))

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
        return web.json_response(await self._cache.get(request.path_qs, lambda: self._read_figures(task_filter)))

    async def experiments(self, request: web.Request) -> web.Response:
        """Return the latest experiments as JSON, the newest first."""
        return web.json_response(await self._cache.get(request.path, self._read_experiments))

    async def tasks(self, request: web.Request) -> web.Response:
        """Return the latest ?last= tasks of the ledger as JSON, the newest last, chosen as for the figures."""
        try:
            task_filter = _parse_filter(request, default="all")
            last = int(request.query.get("last", "20"))
        except ValueError as error:
            return error_response(400, str(error))
        if not 0 < last <= MAX_TASKS:
            return error_response(400, f"last must be from 1 to {MAX_TASKS}")
        return web.json_response(
            await self._cache.get(request.path_qs, lambda: self._read_latest(replace(task_filter, last=last)))
        )

    def _read_figures(self, task_filter: TaskFilter) -> Json:
        try:
            return read_dashboard_view(self._ledger, task_filter, self._scale) | {"problem": ""}
        except OperatorError as problem:
            return read_dashboard_view(Path(), task_filter, self._scale) | {"problem": str(problem)}

    def _read_experiments(self) -> Json:
        try:
            return {"experiments": read_experiments(self._ledger), "problem": ""}
        except OperatorError as problem:
            return {"experiments": [], "problem": str(problem)}

    def _read_latest(self, task_filter: TaskFilter) -> Json:
        if not self._ledger.is_file():
            return {"tasks": [], "problem": ""}
        try:
            with LedgerReader(self._ledger) as reader:
                return {"tasks": [task_figures(task) for task in task_filter.read(reader)], "problem": ""}
        except OperatorError as problem:
            return {"tasks": [], "problem": str(problem)}


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


def _page_response(text: str, policy: str) -> web.Response:
    return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": policy})
