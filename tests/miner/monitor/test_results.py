import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from miner.config import OperatorFiles
from miner.ledger.events import ResultGenerated
from miner.monitor.answer_cache import AnswerCache
from miner.monitor.gallery import Gallery
from miner.monitor.results import PAGE_RESULTS, ResultFilter, Results
from miner.monitor.thumbnail_worker import draw_validator_views
from pipeline import flip_up_axis, ply, render_validator_views, spz
from tests.support.generated import make_picture, make_splats, png
from tests.support.monitor import HOSTILE, HOTKEYS, Site, one_task, some_result, write_ledger

NOW = time.time_ns()


@pytest.fixture
def keys(site: Site) -> list[int]:
    """Those of five results, the newest first."""
    keys = [NOW - number for number in range(5)]
    tasks = [
        one_task(keys[0]),
        one_task(keys[1], outcome="rejected"),
        one_task(keys[2], validator=HOTKEYS[1], outcome="skipped"),
        one_task(keys[3])[:2],
        # The ledger knows nothing of the last one.
    ]
    write_ledger(site.ledger, [event for task in tasks for event in task])
    prompts = ("a red chair", "a RED house", HOSTILE, "a blue chair", "Straße")
    for key, prompt in zip(keys, prompts, strict=True):
        assert site.gallery._save(some_result(key, prompt=prompt, phase="test3" if key == keys[3] else "phase3"))
    return keys


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [0, 1, 2, 3, 4]),
        ("text=red", [0, 1]),
        ("text=STRASSE", [4]),
        ("text=task-", [0, 1, 2, 3, 4]),
        ("phase=test3", [3]),
        ("phase=phase", []),
        ("answer=accepted", [0]),
        ("answer=open", [3, 4]),
        (f"validator={HOTKEYS[1][:6]}", [2]),
        ("validator=27&answer=rejected", [1]),
        pytest.param(f"text=chair&before={NOW - 1}", [3], id="before"),
        ("text=%3Cimg", [2]),
    ],
)
async def test_results_that_are_searched_for(site: Site, keys: list[int], query: str, found: list[int]) -> None:
    told = await (await site.get(f"/results.json?{query}")).json()
    assert [one["key"] for one in told["results"]] == [str(keys[number]) for number in found]
    assert told["more"] is False


async def test_older_results_are_told_when_they_are_asked_for(site: Site) -> None:
    for number in range(2 * PAGE_RESULTS + 3):
        assert site.gallery._save(some_result(100 + number))
    seen: list[int] = []
    more, before = True, ""
    while more:
        told = await (await site.get(f"/results.json?{before}")).json()
        seen += [int(one["key"]) for one in told["results"]]
        more, before = told["more"], f"before={seen[-1]}"
    assert seen == list(range(2 * PAGE_RESULTS + 102, 99, -1))
    for before in ("x", "-1", "1" * 20):
        assert (await site.get(f"/results.json?before={before}")).status == 400


async def test_a_result_that_is_deleted_is_not_found_any_more(site: Site, keys: list[int]) -> None:
    await site.get("/results.json")
    (site.gallery.results / f"{keys[0]}.json").unlink()
    (site.gallery.results / f"{keys[0]}.spz").unlink()
    told = await (await site.get("/results.json?text=red")).json()
    assert [one["key"] for one in told["results"]] == [str(keys[1])]
    assert (await site.get(f"/results/{keys[0]}.json")).status == 404


async def test_all_facts_of_a_result(site: Site, keys: list[int]) -> None:
    candidates = ({"seed": 2**62 + 3, "fate": "best"}, {"seed": 1, "fate": "worse"})
    event = next(event for event in one_task(keys[1]) if isinstance(event, ResultGenerated))
    mattings = ({"chosen": "u2net", "models": [{"model": "u2net", "expected_iou": 0.8, "flaw": "", "area": 0.2}]},)
    event = replace(event, candidates=candidates, mattings=mattings)
    write_ledger(site.ledger, [replace(event, threshold=0.6, pass_probability=0.4, gate="sent")])
    told = await (await site.get(f"/results/{keys[1]}.json")).json()
    assert (told["outcome"], told["validator"], told["config_hash"]) == ("rejected", HOTKEYS[0], "phase3-hash")
    assert (told["threshold"], told["pass_probability"], told["gate"]) == (0.6, 0.4, "sent")
    assert [one["seed"] for one in told["candidates"]] == [str(2**62 + 3), "1"]
    assert told["mattings"] == list(mattings)
    assert (told["newer"], told["older"]) == (str(keys[0]), str(keys[2]))
    assert told["folder"] == str(site.gallery.results)
    told = await (await site.get(f"/results/{keys[1]}.json?text=chair")).json()
    assert (told["newer"], told["older"]) == (str(keys[0]), str(keys[3]))
    told = await (await site.get(f"/results/{keys[4]}.json?answer=accepted")).json()
    assert (told["outcome"], told["candidates"], told["newer"], told["older"]) == (None, [], str(keys[0]), None)


async def test_the_candidates_of_a_result_with_their_pictures(site: Site, keys: list[int]) -> None:
    seeds = (2**62 + 3, 1, 7)
    candidates = tuple({"seed": seed, "fate": "beaten"} for seed in seeds)
    event = next(event for event in one_task(keys[1]) if isinstance(event, ResultGenerated))
    write_ledger(site.ledger, [replace(event, candidates=candidates)])
    assert site.gallery._save(some_result(keys[1], sheets={seeds[0]: b"a picture", 1: b"another"}))
    told = await (await site.get(f"/results/{keys[1]}.json")).json()
    assert [one["sheet"] for one in told["candidates"]] == [True, True, False]
    reply = await site.get(f"/pictures/{keys[1]}/{seeds[0]}.jpg")
    assert (reply.status, reply.content_type) == (200, "image/jpeg")
    assert await site.data(f"/pictures/{keys[1]}/{seeds[0]}.jpg") == b"a picture"
    for path in (f"{keys[1]}/7", f"{keys[0]}/1", "404/1"):
        assert (await site.get(f"/pictures/{path}.jpg")).status == 404


async def test_phases_and_options_of_a_command_that_generates_again(tmp_path: Path, config_folder: Path) -> None:
    (config_folder / "phases" / "mine.yaml").write_text("extends: phase3\n")
    for config, state, options in (
        (None, None, []),
        (config_folder / "miner.yaml", tmp_path / "state", ["--config", config_folder / "miner.yaml"]),
    ):
        files = OperatorFiles.load(config, state)
        chosen = [*map(str, options), *(["--state", str(state)] if state else [])]
        assert list(files.options) == chosen
        gallery = Gallery(tmp_path)
        assert gallery._save(some_result(5))
        told = Results(files, gallery, AnswerCache())._describe(5, ResultFilter())
        assert told is not None
        assert {"phase3", "demo", "best-of-n"} <= set(told["phases"])
        assert ("mine" in told["phases"]) == (config is not None)
        assert list(told["options"]) == chosen


@pytest.mark.parametrize("data_format", ["spz", "ply"])
async def test_a_result_as_spz_whatever_it_was_sent_as(site: Site, data_format: str) -> None:
    assert site.gallery._save(some_result(5, data_format=data_format))
    reply = await site.get("/results/5.spz")
    assert 'filename="5.spz"' in reply.headers["Content-Disposition"]
    upright = spz.from_bytes(await site.data("/results/5.spz"))
    assert torch.allclose(upright.means, ply.from_bytes(await site.data("/results/5.ply")).means, atol=1e-3)
    turned = spz.from_bytes(await site.data("/results/5.spz?up=-y"))
    assert torch.allclose(turned.means, flip_up_axis(upright).means, atol=1e-3)
    assert (await site.get("/results/5.spz?up=z")).status == 400


@pytest.mark.slow
def test_the_views_are_those_of_a_validator(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path)
    assert gallery._save(some_result(7, data_format="ply"))
    draw_validator_views(gallery.results, 7, gallery.pictures)
    expected = render_validator_views(make_splats())
    with Image.open(gallery.pictures / "7.views.webp") as sheet:
        assert sheet.size == (4 * 518, 4 * 518)
        # The last view of the second row.
        drawn = torch.frombuffer(bytearray(sheet.crop((3 * 518, 518, 4 * 518, 2 * 518)).tobytes()), dtype=torch.uint8)
    # But for what WebP loses.
    assert (drawn.view(518, 518, 3).float() - expected[7].float()).abs().mean() < 3


@pytest.mark.slow
@pytest.mark.process
async def test_views_are_drawn_when_they_are_asked_for(site: Site) -> None:
    assert site.gallery._save(some_result(7, picture=png(make_picture())))
    assert site.gallery._save(some_result(8, data=b"damaged"))
    assert not (site.gallery.pictures / "7.views.webp").exists()
    reply = await site.get("/pictures/7.views.webp")
    assert (reply.status, reply.content_type) == (200, "image/webp")
    assert (await site.get("/pictures/7.views.webp")).status == 200
    for key in (8, 9):
        reply = await site.get(f"/pictures/{key}.views.webp")
        assert reply.status == 404
        assert "cannot be drawn" in (await reply.json())["error"]
    await site.gallery._views_worker.close()
