"""The routes of kept results: searched, one with all that is known of it, as PLY and SPZ, and their pictures."""

import asyncio
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from aiohttp import web

from miner.analytics import Json
from miner.config import OperatorFiles, phase_names
from miner.errors import OperatorError
from miner.ledger import LedgerReader, TaskRow
from miner.monitor.answer_cache import AnswerCache
from miner.monitor.gallery import Gallery, StoredResult, read_upright
from miner.monitor.server import error_response
from miner.monitor.thumbnails import ThumbnailError
from pipeline import UP_AXES, FormatError, flip_up_axis, ply, spz

# The number of results that are told at once.
PAGE_RESULTS = 24
# Results whose rows are read together.
CHUNK = 200
# The picture of a key never changes.
UNCHANGING = {"Cache-Control": "max-age=86400"}

_LEDGER_FACTS = ("outcome", "score", "uid", "validator", "quality", "alignment", "estimated_score")
_MORE_FACTS = ("config_hash", "experiment", "arm", "ssim", "lpips", "threshold", "pass_probability", "gate", "error")


@dataclass(frozen=True)
class ResultFilter:
    """The results with a phase, of a validator (hotkey, its beginning or uid), with an answer and with a text.

    What is "" lets everything through. `answer` is an outcome, or "open"; `text` is looked for in prompts and task ids.
    """

    phase: str = ""
    validator: str = ""
    answer: str = ""
    text: str = ""

    @staticmethod
    def of(request: web.Request) -> "ResultFilter":
        """Return the filter of a request's query."""
        names = ("phase", "validator", "answer", "text")
        return ResultFilter(*(request.query.get(name, "") for name in names))

    def matches(self, result: StoredResult, row: TaskRow | None) -> bool:
        """Return whether a result, with its row if the ledger has it, is let through."""
        if self.phase and result.facts.get("phase") != self.phase:
            return False
        if self.text:
            words = f"{result.facts.get('prompt', '')}\n{result.facts.get('task_id', '')}"
            if self.text.casefold() not in words.casefold():
                return False
        if self.answer and ((row and row.outcome) or "open") != self.answer:
            return False
        is_validators = row is not None and (row.validator.startswith(self.validator) or str(row.uid) == self.validator)
        return not self.validator or is_validators


class Results:
    """The routes of the results in a gallery, if there is one, and what the ledger, if it exists, has of them."""

    def __init__(self, files: OperatorFiles, gallery: Gallery | None, cache: AnswerCache) -> None:
        """Show what is in the gallery's folders at the time of each request."""
        self._files = files
        self._ledger = files.ledger
        self._gallery = gallery
        self._cache = cache

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes, for the server."""
        return [
            web.get("/results.json", self.search),
            web.get("/results/{key:[0-9]{1,19}}.json", self.facts),
            web.get("/results/{key:[0-9]{1,19}}.{form:ply|spz}", self.splats),
            web.get("/pictures/{key:[0-9]{1,19}}.views.webp", self.views),
            web.get("/pictures/{key:[0-9]{1,19}}/{seed:[0-9]{1,19}}.jpg", self.candidate),
            web.get(r"/pictures/{name:[0-9]{1,19}(\.prompt)?\.webp}", self.picture),
        ]

    async def search(self, request: web.Request) -> web.Response:
        """Return the newest results that the query lets through, those older than ?before= alone, as JSON."""
        before = request.query.get("before", "")
        if before and not (before.isascii() and before.isdigit() and len(before) <= 19):
            return error_response(400, "before must be the key of a result")
        wanted = ResultFilter.of(request)
        return web.json_response(
            await self._cache.get(request.path_qs, lambda: self._search(wanted, int(before) if before else None))
        )

    async def facts(self, request: web.Request) -> web.Response:
        """Return all that is known of a result, its candidates, and its neighbours that the query lets through."""
        key, wanted = int(request.match_info["key"]), ResultFilter.of(request)
        found = await asyncio.to_thread(self._describe, key, wanted)
        return error_response(404, "this result is not kept any more") if found is None else web.json_response(found)

    async def splats(self, request: web.Request) -> web.Response:
        """Return a result as PLY or SPZ, whatever format it was sent in; the axis ?up= points up, y by default."""
        key, form, up = int(request.match_info["key"]), request.match_info["form"], request.query.get("up", "y")
        if up not in UP_AXES:
            return error_response(400, f"up must be one of {', '.join(UP_AXES)}")
        data = await asyncio.to_thread(self._read_splats, key, "ply" if form == "ply" else "spz", up == "y")
        if data is None:
            return error_response(404, "this result is not kept any more")
        name = f'attachment; filename="{key}.{form}"'
        return web.Response(body=data, content_type="application/octet-stream", headers={"Content-Disposition": name})

    async def picture(self, request: web.Request) -> web.StreamResponse:
        """Return the thumbnail of a result or of its prompt."""
        return await self._send_picture(request.match_info["name"])

    async def views(self, request: web.Request) -> web.StreamResponse:
        """Return the views that a validator judges, as one picture, which takes a while the first time."""
        if self._gallery is None:
            return error_response(404, "there is no such picture")
        try:
            await self._gallery.draw_views(int(request.match_info["key"]))
        except ThumbnailError as problem:
            return error_response(404, f"this result cannot be drawn: {problem}")
        return await self._send_picture(f"{request.match_info['key']}.views.webp")

    async def candidate(self, request: web.Request) -> web.Response:
        """Return the picture of a candidate, whether it was sent or not."""
        key, seed = int(request.match_info["key"]), int(request.match_info["seed"])
        sheet = await asyncio.to_thread(self._gallery.read_sheet, key, seed) if self._gallery else None
        if sheet is None:
            return error_response(404, "there is no such picture")
        return web.Response(body=sheet, content_type="image/jpeg", headers=UNCHANGING)

    async def _send_picture(self, name: str) -> web.StreamResponse:
        path = self._gallery.pictures / name if self._gallery else None
        if path is None or not await asyncio.to_thread(path.is_file):
            return error_response(404, "there is no such picture")
        return web.FileResponse(path, headers={"Content-Type": "image/webp", **UNCHANGING})

    def _search(self, wanted: ResultFilter, before: int | None) -> Json:
        keys = self._gallery.keys() if self._gallery else []
        older = [key for key in keys if before is None or key < before]
        # One more than is told, to know whether there are more.
        found = list(islice(self._matching(wanted, older), PAGE_RESULTS + 1))
        return {"results": [_describe(*one) for one in found[:PAGE_RESULTS]], "more": len(found) > PAGE_RESULTS}

    def _matching(self, wanted: ResultFilter, keys: Sequence[int]) -> Iterator[tuple[StoredResult, TaskRow | None]]:
        """Yield the results of some keys that are let through, with their rows, in the order of the keys."""
        gallery = self._gallery
        # Small first, for mostly the first ones are wanted.
        size = PAGE_RESULTS + 1
        while keys and gallery is not None:
            chunk, keys = keys[:size], keys[size:]
            size = CHUNK
            rows = self._read_rows(chunk)
            for result in filter(None, map(gallery.read, chunk)):
                row = rows.get(result.key)
                if wanted.matches(result, row):
                    yield result, row

    def _read_rows(self, keys: Iterable[int]) -> dict[int, TaskRow]:
        """Return the ledger's rows by key; none if it cannot be read, which the figures tell."""
        if not self._ledger.is_file():
            return {}
        try:
            with LedgerReader(self._ledger) as reader:
                return {row.key: row for row in reader.tasks_of(keys)}
        except OperatorError:
            return {}

    def _describe(self, key: int, wanted: ResultFilter) -> Json | None:
        result = self._gallery.read(key) if self._gallery else None
        if self._gallery is None or result is None:
            return None
        row = self._read_rows([key]).get(key)
        keys = self._gallery.keys()
        newer = next(self._matching(wanted, [one for one in reversed(keys) if one > key]), None)
        older = next(self._matching(wanted, [one for one in keys if one < key]), None)
        return _describe(result, row) | {
            **{name: getattr(row, name, None) for name in _MORE_FACTS},
            "candidates": _candidates(row, self._gallery.seeds_with_sheets(key)),
            "mattings": json.loads(row.mattings) if row and row.mattings else [],
            "newer": str(newer[0].key) if newer else None,
            "older": str(older[0].key) if older else None,
            "folder": str(self._gallery.results),
            "phases": phase_names(self._files.config),
            "options": self._files.options,
        }

    def _read_splats(self, key: int, form: Literal["ply", "spz"], is_upright: bool) -> bytes | None:
        if self._gallery is None:
            return None
        try:
            splats = read_upright(self._gallery.results, key)
            splats = splats if is_upright else flip_up_axis(splats)
            return ply.to_bytes(splats, normals=False) if form == "ply" else spz.to_bytes(splats)
        except (OSError, ValueError, KeyError, FormatError):
            return None


def _candidates(row: TaskRow | None, with_sheets: Collection[int]) -> list[Json]:
    candidates: list[Json] = json.loads(row.candidates) if row and row.candidates else []
    return [one | {"seed": str(one.get("seed")), "sheet": one.get("seed") in with_sheets} for one in candidates]


def _describe(result: StoredResult, row: TaskRow | None) -> Json:
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
