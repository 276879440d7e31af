"""The pages of one result, of two and of all candidates of a task, in a real browser."""

import io
import math
import shlex
import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from miner.config import phase_names
from miner.ledger import ResultGenerated
from miner.monitor.thumbnail_worker import draw_result
from miner.monitor.turntable import EXTENT
from pipeline import Splats, normalise, spz
from pipeline.rendering.cameras import orbit
from pipeline.rendering.rasterizer import render
from pipeline.scoring.candidate_sheet import draw_candidate_sheet
from tests.support.browser import CHECKS, FINE, Browser, Tab
from tests.support.generated import make_picture, make_splats, png
from tests.support.monitor import HOSTILE, HOTKEYS, Site, one_task, some_result, write_ledger
from tests.support.score_views import golden_views

pytestmark = [pytest.mark.slow, pytest.mark.process]

SIZE = 256


async def test_the_viewer_shows_what_the_validator_sees(site: Site, browser: Browser) -> None:
    splats = uneven_splats()
    key = time.time_ns()
    models = [
        {"model": "u2net", "expected_iou": 0.81, "flaw": "", "area": 0.2, "agreement": None},
        {"model": HOSTILE, "expected_iou": 0.0, "flaw": "full", "area": 1.0, "agreement": None},
    ]
    mattings = ({"chosen": "u2net", "models": models},)
    events = [
        replace(event, mattings=mattings) if isinstance(event, ResultGenerated) else event for event in one_task(key)
    ]
    write_ledger(site.ledger, events)
    assert site.gallery._save(some_result(key, prompt=HOSTILE, data=spz.to_bytes(splats)))
    tab = await browser.open(f"{site.url}/viewer?key={key}", size=(SIZE, SIZE))
    await tab.until("document.getElementById('progress').hidden && document.querySelector('dd')")
    assert HOSTILE in await tab.evaluate("document.getElementById('title').textContent")
    assert "accepted, 0.71" in await tab.evaluate("document.getElementById('numbers').textContent")
    shown = await tab.evaluate("document.getElementById('mattings').textContent")
    assert "Cut out by u2netu2net: IoU of 0.81 expectedarea 0.2" in shown
    assert f"{HOSTILE}: no cut-out, full" in shown
    await tab.evaluate("document.querySelector('aside').remove(); document.getElementById('controls').remove()")
    expected = render(normalise(splats, EXTENT), orbit((0,), size=SIZE))[0].numpy()
    shown = await picture_of(tab)
    while np.abs(shown - 1).max() < 0.2:
        shown = await picture_of(tab)
    # A mirrored or turned object, or other colours, would be far off.
    assert np.abs(shown - expected).mean() < 0.005
    assert np.abs(shown[:, ::-1] - expected).mean() > 0.04
    assert tab.problems == []
    assert all(address.startswith((site.url, f"blob:{site.url}")) for address in tab.asked), tab.asked

    await tab.load(f"{site.url}/viewer?key=404")
    await tab.until("document.getElementById('progress').textContent.includes('not kept any more')")
    await tab.load(f"{site.url}/viewer?key=<script>")
    await tab.until("document.getElementById('progress').textContent.includes('names no result')")


def uneven_splats() -> Splats:
    """Opaque, and different on each side."""
    splats = make_splats(7000)
    means = splats.means.clone()
    means[:, 0] *= 0.5 + (means[:, 1] + 0.5) * 0.8
    colour = (means - means.amin(0)) / (means.amax(0) - means.amin(0))
    return replace(
        splats,
        means=means,
        log_scales=splats.log_scales * 0 - 4.0,
        opacity_logits=splats.opacity_logits * 0 + 4,
        f_dc=(colour - 0.5) * 3,
    )


async def picture_of(tab: Tab) -> npt.NDArray[np.float32]:
    with Image.open(io.BytesIO(await tab.screenshot())) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255


CAMERA = "document.getElementById('canvas').dataset.camera"
READY = f"document.getElementById('progress').hidden && document.querySelector('dd') && {CAMERA}"


@pytest.fixture
def few_results(site: Site) -> tuple[str, str, str]:
    """Keys of three results, the newest first: a sentence's accepted, a picture's rejected, one that is still open."""
    now = time.time_ns()
    keys = [now - number * 10**9 for number in range(3)]
    events = [one_task(keys[0]), one_task(keys[1], outcome="rejected", phase="test3"), one_task(keys[2])[:2]]
    write_ledger(site.ledger, [event for task in events for event in task])
    assert site.gallery._save(some_result(keys[0], prompt="a duck that isn't red", data=spz.to_bytes(uneven_splats())))
    assert site.gallery._save(some_result(keys[1], picture=png(make_picture()), phase="test3"))
    assert site.gallery._save(some_result(keys[2], prompt="a blue chair"))
    draw_result(site.gallery.results, keys[1], site.gallery.pictures)
    return str(keys[0]), str(keys[1]), str(keys[2])


@pytest.mark.parametrize("width", [400, 1400])
async def test_an_object_is_turned_by_mouse_finger_and_keys(
    site: Site, browser: Browser, few_results: tuple[str, str, str], width: int
) -> None:
    tab = await browser.open(f"{site.url}/viewer?key={few_results[0]}", dark=width == 400, size=(width, 800))
    await tab.until(READY)
    assert await tab.evaluate(CHECKS) == FINE
    assert await tab.evaluate("document.getElementById('facts').open") is (width == 1400)
    places = [await tab.evaluate(CAMERA)]
    left, right = (0.6 * width, 500.0), (0.85 * width, 480.0)
    for turn in (tab.drag(left, right), tab.swipe(right, left)):
        await turn
        await tab.until(f"{CAMERA} !== {places[-1]!r}")
        places.append(await tab.evaluate(CAMERA))
    # Again and again, since what is left of the gesture may come later.
    await tab.until(f"(document.getElementById('front').click(), {CAMERA} === {places[0]!r})")
    await tab.evaluate("document.getElementById('canvas').focus()")
    await tab.press("ArrowRight", 39)
    await tab.until(f"{CAMERA} !== {places[0]!r}")
    x, _, z = (float(part) for part in (await tab.evaluate(CAMERA)).split())
    assert math.degrees(math.atan2(x, z)) == pytest.approx(10, abs=0.5)
    assert tab.problems == []


async def test_all_that_is_known_of_a_result(site: Site, browser: Browser, few_results: tuple[str, str, str]) -> None:
    first, second, third = few_results
    tab = await browser.open(f"{site.url}/viewer?key={first}", size=(1400, 900))
    await tab.until(READY)
    numbers = await tab.evaluate("document.getElementById('numbers').textContent")
    assert HOTKEYS[0] in numbers
    assert str(2**62 + 1) in numbers
    command = await tab.evaluate("document.getElementById('command').textContent")
    assert shlex.split(command) == [
        *("sn17-miner", "generate", *site.files.options, "--phase", "phase3", "--seed", str(2**62 + 1)),
        *("-o", f"{first}-phase3.ply", "--", "a duck that isn't red"),
    ]
    # With another phase, of those that there are.
    names = await tab.evaluate("[...document.querySelectorAll('#phase option')].map((one) => one.value).join(' ')")
    assert names == " ".join(phase_names(site.files.config))
    await tab.evaluate("document.getElementById('phase').value = 'baseline'")
    await tab.evaluate("document.getElementById('phase').dispatchEvent(new Event('change'))")
    changed = await tab.evaluate("document.getElementById('command').textContent")
    assert changed == command.replace("phase3", "baseline")
    assert await tab.evaluate("document.getElementById('newer').hidden") is True
    # The views that a validator judges.
    await tab.evaluate("document.getElementById('see').click()")
    await tab.until("document.getElementById('views-picture').naturalWidth === 4 * 518")
    await tab.evaluate("document.querySelector('dialog button').click()")

    await tab.load(f"{site.url}{await tab.evaluate('document.getElementById(`older`).getAttribute(`href`)')}")
    await tab.until(READY)
    # A picture, not an id.
    await tab.until("document.getElementById('prompt').naturalWidth > 0")
    command = await tab.evaluate("document.getElementById('command').textContent")
    assert shlex.split(command)[-1] == str(site.gallery.results / f"{second}.prompt")
    assert await tab.evaluate("document.getElementById('newer').getAttribute('href')") == f"/viewer?key={first}"
    # Neighbours are those that were searched for.
    await tab.load(f"{site.url}/viewer?key={first}&phase=phase3")
    await tab.until(READY)
    older = await tab.evaluate("document.getElementById('older').getAttribute('href')")
    assert older == f"/viewer?key={third}&phase=phase3"
    assert tab.problems == []


async def test_results_are_searched_and_compared(
    site: Site, browser: Browser, few_results: tuple[str, str, str]
) -> None:
    tab = await browser.open(site.url, size=(1400, 900))
    shown = "[...document.querySelectorAll('.result a')].map((one) => one.dataset.key).join(' ')"
    await tab.until(f"{shown} === {' '.join(few_results)!r}")
    # The picture of an image task stands where others have their sentence.
    await tab.evaluate("document.querySelector('#results').scrollIntoView()")
    await tab.until("document.querySelector('.result .words .prompt')?.naturalWidth > 0")
    await tab.evaluate("document.getElementById('answer').value = 'open'")
    await tab.evaluate("document.getElementById('answer').dispatchEvent(new Event('input'))")
    await tab.until(f"{shown} === {few_results[2]!r}")
    assert "answer=open" in await tab.evaluate("document.querySelector('.result a').getAttribute('href')")
    await tab.evaluate("document.getElementById('answer').value = ''")
    await tab.evaluate("document.getElementById('text').value = 'DUCK'")
    await tab.evaluate("document.getElementById('text').dispatchEvent(new Event('input'))")
    await tab.until(f"{shown} === {few_results[0]!r}")
    await tab.evaluate("document.getElementById('text').value = ''")
    await tab.evaluate("document.getElementById('text').dispatchEvent(new Event('input'))")
    await tab.until(f"{shown} === {' '.join(few_results)!r}")
    await tab.evaluate("[...document.querySelectorAll('.result input')].slice(0, 2).forEach((one) => one.click())")
    link = await tab.evaluate("document.getElementById('compare').getAttribute('href')")
    assert link == f"/compare?a={few_results[0]}&b={few_results[1]}"

    await tab.load(f"{site.url}{link}")
    inside = "[...document.querySelectorAll('iframe')].map((one) => one.contentDocument)"
    await tab.until(f"{inside}.length === 2 && {inside}.every((one) => one?.getElementById('progress')?.hidden)")
    cameras = f"{inside}.map((one) => one.getElementById('canvas').dataset.camera)"
    await tab.until(f"new Set({cameras}).size === 1 && {cameras}[0]")
    before = await tab.evaluate(f"{cameras}[0]")
    # What turns one turns both.
    await tab.drag((300, 500), (450, 480))
    await tab.until(f"new Set({cameras}).size === 1 && {cameras}[0] !== {before!r}")
    assert tab.problems == []


@pytest.fixture
def all_candidates(site: Site) -> int:
    """The key of a result of four candidates: one was sent, one was beaten, one dropped, and one failed."""
    key = time.time_ns()
    parts = {"alignment": 0.52, "ssim": 0.9, "lpips": 0.97}
    candidates = (
        {"seed": 11, "seconds": 1.4, "fate": "beaten", "problem": "", "voxels": 9_000, "quality": 0.61, **parts},
        {"seed": 2**62 + 1, "seconds": 1.6, "fate": "chosen", "problem": "", "voxels": 12_345, "quality": 0.7, **parts},
        {"seed": 13, "seconds": 0.4, "fate": "failed", "problem": f"EmptyStructure: {HOSTILE}", "voxels": None},
        {"seed": 14, "seconds": 0.9, "fate": "dropped", "problem": "", "voxels": 8_000, "quality": 0.65, **parts},
    )
    events = [replace(one, candidates=candidates) if isinstance(one, ResultGenerated) else one for one in one_task(key)]
    write_ledger(site.ledger, events)
    shown = {11: "robocop", 2**62 + 1: "hamburger", 14: "robocop"}
    sheets = {seed: draw_candidate_sheet(golden_views(name)) for seed, name in shown.items()}
    assert site.gallery._save(some_result(key, prompt=HOSTILE, sheets=sheets))
    return key


@pytest.mark.parametrize("width", [400, 1400])
async def test_all_candidates_of_a_task_side_by_side(
    site: Site, browser: Browser, all_candidates: int, width: int
) -> None:
    tab = await browser.open(f"{site.url}/viewer?key={all_candidates}", size=(width, 800))
    await tab.until("document.querySelector('#candidates a')")
    await tab.load(f"{site.url}{await tab.evaluate('document.querySelector(`#candidates a`).getAttribute(`href`)')}")
    cards = "[...document.querySelectorAll('.candidate')]"
    await tab.until(f"{cards}.length === 4 && [...document.images].filter((one) => one.naturalWidth === 320).length")
    order = f"{cards}.map((one) => one.dataset.seed).join(' ')"
    assert await tab.evaluate(order) == f"{2**62 + 1} 14 11 13"
    assert await tab.evaluate(CHECKS) == FINE
    words = await tab.evaluate(f"{cards}.map((one) => one.innerText)")
    assert "chosen" in words[0]
    assert "0.700" in words[0]
    assert "12,345 voxels" in words[0]
    # What the others lack of the one that was sent.
    assert "−0.050" in words[1]
    assert "not scored" in words[3]
    assert "no picture" in words[3]
    assert f"EmptyStructure: {HOSTILE}" in words[3]
    assert await tab.evaluate("document.title") == "Candidates · Miner"
    lefts = await tab.evaluate(f"new Set({cards}.map((one) => one.getBoundingClientRect().left)).size")
    assert lefts == (2 if width == 400 else 4)
    await tab.evaluate("document.getElementById('order').value = 'made'")
    await tab.evaluate("document.getElementById('order').dispatchEvent(new Event('change'))")
    assert await tab.evaluate(order) == f"11 {2**62 + 1} 13 14"
    assert tab.problems == []
    await tab.load(f"{site.url}/candidates?key=404")
    await tab.until("document.getElementById('problem').textContent.includes('not kept any more')")
