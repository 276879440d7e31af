import asyncio
import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from miner.ledger.writer import LedgerWriter
from miner.localnet.synthetic_ledger import fill_ledger
from miner.monitor.dashboard import FILES, STATIC, Dashboard, content_security_policy
from pipeline import flip_up_axis, ply
from tests.support.cli import run
from tests.support.generated import make_splats
from tests.support.monitor import HOSTILE, HOTKEYS, Site, one_task, some_result, write_ledger


def key_of(minutes_ago: float) -> int:
    return time.time_ns() - int(60e9 * minutes_ago)


async def test_figures_of_the_ledger(site: Site) -> None:
    write_ledger(
        site.ledger, [*one_task(key_of(90)), *one_task(key_of(30), outcome="rejected"), *one_task(key_of(500))]
    )
    told = await (await site.get("/figures.json?period=6h")).json()
    assert (told["now"] - told["since"], told["problem"]) == (pytest.approx(6 * 3600, abs=60), "")
    assert (told["total"]["accepted"], told["total"]["rejected"]) == (1, 1)
    told = await (await site.get("/figures.json")).json()
    assert (told["now"] - told["since"], told["total"]["accepted"]) == (pytest.approx(24 * 3600, abs=60), 2)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("period=7", "period must be one of 1h, 6h, 24h, 7d, 30d, all"),
        ("period=", "period must be one of"),
        ("since=x", "since and until must be unix seconds"),
        ("since=nan", "since must lie before until"),
        ("since=2&until=1", "since must lie before until"),
    ],
)
async def test_other_periods_are_refused(site: Site, query: str, words: str) -> None:
    reply = await site.get(f"/figures.json?{query}")
    assert reply.status == 400
    assert words in (await reply.json())["error"]


@pytest.mark.parametrize(
    ("options", "query"),
    [
        ((), "period=all"),
        (("--since", "2025-11-01T13:00", "--until", "2025-11-01T16:30"), "since=1762002000&until=1762014600"),
        (("--phase", "phase3", "--validator", "142"), "period=all&phase=phase3&validator=142"),
        (("--type", "text"), "period=all&type=text"),
    ],
)
async def test_the_page_and_the_report_have_the_same_numbers(site: Site, options: tuple[str, ...], query: str) -> None:
    fill_ledger(site.ledger, 600)
    told = await (await site.get(f"/figures.json?{query}")).json()
    figures = set(told["total"])
    assert {"tasks", "accepted", "rate", "interval", "score", "quality", "seconds_p50", "verdict"} <= figures

    def report(by: str) -> dict[str, Any]:
        done = run("report", "--ledger", site.ledger, "--by", by, *options, "--format", "json")
        return dict(json.loads(done.stdout))

    def shared(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(({name: row[name] for name in figures} for row in rows), key=str)

    by_phase, by_validator, by_both = map(report, ("phase", "validator", "phase,validator"))
    assert shared([by_phase["total"]]) == shared([told["total"]])
    assert {row["key"]: shared([row]) for row in by_phase["groups"]} == {
        row["key"]: shared([row]) for row in told["phases"]
    }
    assert {row["key"]: shared([row]) for row in by_validator["groups"]} == {
        row["hotkey"]: shared([row]) for row in told["validators"]
    }
    cells = {
        (told["phases"][cell["phase"]]["key"], told["validators"][cell["validator"]]["hotkey"]): shared([cell])
        for cell in told["grid"]
    }
    assert {tuple(row["keys"]): shared([row]) for row in by_both["groups"]} == cells
    assert told["markers"] == by_phase["markers"]
    assert {**told["gate"], "lines": [], "titles": []} == {**by_phase["gate"], "lines": [], "titles": []}
    for name in ("accepted", "judged", "tasks"):
        assert sum(found[name] for phase in told["phases"] for found in phase["bins"]) == told["total"][name]


async def test_figures_of_some_tasks(site: Site) -> None:
    events = [*one_task(key_of(90)), *one_task(key_of(60), validator=HOTKEYS[1], outcome="rejected")]
    write_ledger(site.ledger, [*events, *one_task(key_of(30), phase="other")])
    now = time.time()
    for query, tasks in {
        "period=all": 3,
        f"since={now - 4800}&until={now - 2400}": 1,
        "phase=phase3": 2,
        "phase=phase3%20phase3-h&phase=other": 3,
        f"validator={HOTKEYS[1]}": 1,
        f"validator=27&validator={HOTKEYS[1][:9]}": 3,
        "type=text": 0,
        f"phase=other&validator={HOTKEYS[1]}": 0,
    }.items():
        told = await (await site.get(f"/figures.json?{query}")).json()
        assert (query, told["total"]["tasks"], told["problem"]) == (query, tasks, "")
        assert [phase["name"] for phase in told["known_phases"]] == ["other", "phase3"]
        assert {one["hotkey"] for one in told["known_validators"]} == set(HOTKEYS)
    told = await (await site.get("/figures.json?phase=none")).json()
    assert told["problem"] == "the ledger has no task of phase 'none'; it has other, phase3"


async def test_whoever_asks_for_something_else_does_not_get_what_another_one_was_told(site: Site) -> None:
    fill_ledger(site.ledger, 20)
    assert "experiments" in await (await site.get("/experiments.json")).json()
    assert "total" in await (await site.get("/figures.json?experiments")).json()
    one = await (await site.get("/figures.json?period=all&phase=phase3&type=image")).json()
    other = await (await site.get("/figures.json?period=all&phase=phase3%26type=image")).json()
    assert one["problem"] == ""
    assert "no task of phase 'phase3&type=image'" in other["problem"]


async def test_figures_serve_all_who_look_for_a_while(site: Site) -> None:
    write_ledger(site.ledger, one_task(key_of(1)))
    replies = await asyncio.gather(*(site.get("/figures.json") for _ in range(4)))
    write_ledger(site.ledger, one_task(key_of(0)))
    told = [await reply.json() for reply in (*replies, await site.get("/figures.json"))]
    assert len({one["now"] for one in told}) == 1
    assert told[-1]["total"]["tasks"] == 1


async def test_without_a_ledger_and_with_a_damaged_one(site: Site) -> None:
    told = await (await site.get("/figures.json?period=6h")).json()
    assert (told["phases"], told["problem"]) == ([], "")
    site.ledger.write_bytes(b"no database" * 100)
    told = await (await site.get("/figures.json?period=24h")).json()
    assert told["phases"] == []
    assert "cannot be read" in told["problem"]


async def test_the_status_names_validators(site: Site) -> None:
    told = await (await site.get("/status.json")).json()
    assert [view["hotkey"] for view in told["validators"]] == list(HOTKEYS)
    assert told["able_to_work"] is True
    assert told["now"] == pytest.approx(time.time(), abs=60)


async def test_results_with_what_became_of_them(site: Site) -> None:
    accepted, open_, unknown = key_of(3), key_of(2), key_of(1)
    write_ledger(site.ledger, [*one_task(accepted), *one_task(open_)[:2]])
    for key in (accepted, open_, unknown):
        assert site.gallery._save(some_result(key, prompt=HOSTILE))
    first, second, third = (await (await site.get("/results.json")).json())["results"]
    assert [one["key"] for one in (first, second, third)] == [str(unknown), str(open_), str(accepted)]
    assert (third["outcome"], third["score"], third["uid"], third["validator"]) == ("accepted", 0.71, 27, HOTKEYS[0])
    assert (second["outcome"], second["uid"]) == (None, 27)
    assert (first["outcome"], first["uid"]) == (None, None)
    assert (third["prompt"], third["seed"], third["picture"]) == (HOSTILE, str(2**62 + 1), False)


@pytest.mark.parametrize("data_format", ["spz", "ply"])
async def test_a_result_as_ply_whatever_it_was_sent_as(site: Site, data_format: str) -> None:
    assert site.gallery._save(some_result(5, data_format=data_format))
    reply = await site.get("/results/5.ply")
    assert reply.content_type == "application/octet-stream"
    assert 'filename="5.ply"' in reply.headers["Content-Disposition"]
    upright = ply.from_bytes(await site.data("/results/5.ply"))
    assert len(upright) == len(make_splats())
    assert torch.equal(ply.from_bytes(await site.data("/results/5.ply?up=-y")).means, flip_up_axis(upright).means)
    assert (await site.get("/results/5.ply?up=z")).status == 400


@pytest.mark.parametrize(
    "path",
    [
        "/results/404.ply",
        "/results/6.ply",
        "/results/..%2F5.ply",
        "/results/5.json",
        "/pictures/5.webp",
        "/pictures/..%2F..%2Fledger.sqlite",
        "/static/nothing.js",
        "/static/..%2Fnode.py",
        "/static/vendor/THIRD_PARTY.md",
        "/static/vendor/three-0.180.0/..%2F..%2F..%2Fnode.py",
        "/static/vendor/",
        "/ledger.sqlite",
    ],
)
async def test_nothing_else_can_be_had(site: Site, path: str) -> None:
    site.gallery.results.mkdir()
    (site.gallery.results / "6.spz").write_bytes(b"damaged")
    (site.gallery.results / "6.json").write_text("{}")
    site.ledger.write_bytes(b"")
    assert (await site.get(path)).status == 404


async def test_pages_and_their_files_are_whole(site: Site) -> None:
    """Whatever a page, a style sheet or a script asks for is served, with its type, and nothing asks elsewhere."""
    seen, asked = set[str](), {"/", "/viewer", "/compare", "/candidates"}
    while asked:
        path = asked.pop()
        seen.add(path)
        reply = await site.get(path)
        assert reply.status == 200, path
        if "vendor" not in path:
            text = await reply.text()
            outside = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text)
            assert set(outside) <= {"http://www.w3.org"}, path
            found = re.findall(r'(?:src|href|from) ?=? ?"((?:/static/|\./)[^"]+)"', text)
            asked |= {one.replace("./", "/static/") for one in found} - seen
    own = {file.name for file in STATIC.iterdir() if file.is_file() and file.suffix != ".html"}
    assert own <= FILES.keys()
    assert {f"/static/{name}" for name in own} <= seen


async def test_the_policy_lets_nothing_in(site: Site) -> None:
    pages = {"/": "'none'", "/viewer": "'self'", "/compare": "'none'", "/candidates": "'none'"}
    policies = [(await site.get(path)).headers["Content-Security-Policy"] for path in pages]
    for policy, framers in zip(policies, pages.values(), strict=True):
        assert "default-src 'none'" in policy
        # Two viewers stand in the page that compares.
        assert f"frame-ancestors {framers}" in policy
        assert "unsafe-inline" not in policy
        assert "'unsafe-eval'" not in policy
        assert not re.search(r"https?:|\*", policy)
    assert "wasm" not in policies[0]
    assert re.search(r"script-src 'self'? 'wasm-unsafe-eval'|'wasm-unsafe-eval' 'self'", policies[1])


def test_an_inline_import_map_is_known_by_its_hash() -> None:
    import base64
    import hashlib

    page = '<script type="importmap">{"imports": {}}</script>'
    digest = base64.b64encode(hashlib.sha256(b'{"imports": {}}').digest()).decode()
    assert f"script-src 'self' 'sha256-{digest}';" in content_security_policy(page)
    assert "sha256" not in content_security_policy("<p>")


async def test_without_a_gallery_there_are_no_results(tmp_path: Path) -> None:
    from miner.localnet.validator import LOOPBACK, free_port
    from miner.monitor import Monitor

    site = Site(tmp_path, free_port())
    site.monitor = Monitor(site.source, LOOPBACK, site.port, Dashboard(site.source, site.files, None).routes())
    await site.monitor.start()
    assert await (await site.get("/results.json")).json() == {"results": [], "more": False}
    assert (await site.get("/results/1.ply")).status == (await site.get("/pictures/1.webp")).status == 404
    await site.monitor.stop()


async def test_reading_goes_on_beside_the_writer(site: Site) -> None:
    ledger = LedgerWriter(site.ledger)
    for event in one_task(key_of(1)):
        ledger.record(event)
    assert await asyncio.to_thread(ledger.flush, 30)
    assert (await (await site.get("/figures.json?period=6h")).json())["total"]["tasks"] == 1
    assert await asyncio.to_thread(ledger.close, 30)
