"""The pages in a real browser."""

import io
import json
import math
import re
import shlex
import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from miner.analytics import PERIODS
from miner.ledger import ResultGenerated
from miner.localnet.synthetic_ledger import TASKS_PER_HOUR, fill_ledger
from miner.monitor.thumbnail_worker import draw_result
from miner.monitor.turntable import EXTENT
from miner.runtime.gpu_memory import GpuMemory
from pipeline import Splats, normalise, spz
from pipeline.rendering.cameras import orbit
from pipeline.rendering.rasterizer import render
from tests.support.generated import make_picture, make_splats, png
from tests.support.monitor import HOSTILE, HOTKEYS, OK, Browser, Site, Tab, one_task, some_result, write_ledger
from tests.support.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.process]

SIZE = 256
# The pointer at six tenths of the first picture's width.
TURN = """(() => {
  const stand = document.querySelector(".turntable:has(.views)");
  const box = stand.getBoundingClientRect();
  const at = { clientX: box.left + 0.6 * box.width, clientY: box.top + 5 };
  stand.dispatchEvent(new PointerEvent("pointermove", at));
  return stand.querySelector(".views").style.transform;
})()"""


async def test_the_dashboard(site: Site, browser: Browser) -> None:
    now = time.time_ns()
    outcomes = ["accepted", "rejected", "accepted", "skipped", "accepted", "rejected"]
    keys = [now - int(60e9 * minutes) for minutes in range(600, 0, -100)]
    events = [one_task(key, outcome=outcome, phase=HOSTILE) for key, outcome in zip(keys, outcomes, strict=True)]
    events.append(one_task(now - int(60e9), phase="phase3"))
    write_ledger(site.ledger, [event for task in events for event in task])
    hostile = replace(OK.validators[0], task=HOSTILE, stage=HOSTILE)
    site.status = replace(
        OK, phase=HOSTILE, validators=(hostile, OK.validators[1]), gpus=(GpuMemory("cuda:0", HOSTILE, 1, 2**31, 2**36),)
    )
    arms = [{"phase": HOSTILE, "accepted": 3, "counted": 5}, {"phase": "phase3", "accepted": 1, "counted": 1}]
    experiment = {"experiment": "e1", "arms": arms, "winner": None, "losers": [HOSTILE]}
    site.status = replace(site.status, experiment=experiment, unanswered={"phase3": ("text",), HOSTILE: ()})
    site.status = replace(site.status, problems=(HOSTILE, "the file of phase a has changed"))
    assert site.gallery._save(some_result(keys[0], prompt=HOSTILE, phase=HOSTILE, task_id=HOSTILE))
    assert site.gallery._save(some_result(keys[1], picture=png(make_picture())))
    draw_result(site.gallery.results, keys[1], site.gallery.pictures)

    for dark in (False, True):
        tab = await browser.open(site.url, dark)
        await tab.until("document.querySelectorAll('.result').length === 2 && document.querySelector('#over-time svg')")
        await tab.until("document.querySelectorAll('#validators tbody tr').length === 2")
        # The picture's eight views have come, and the prompt.
        await tab.evaluate("document.querySelector('#results').scrollIntoView()")
        await tab.until("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
        assert await tab.evaluate("document.querySelector('.views').naturalWidth") == 8 * 176
        await check_figures(tab)
        await check_that_words_stay_words(tab)
        paper = await tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, paper[4:-1].split(","))) < 384) is dark
        assert tab.problems == []
        assert all(address.startswith(site.url) for address in tab.asked), tab.asked

    # Another period, and a tooltip.
    await tab.evaluate("document.querySelector('#periods button[value=\"6h\"]').click()")
    await tab.until("document.querySelector('#tiles h3').textContent === 'Accepted, 6 h'")
    await tab.until("document.querySelector('#over-time .dot')")
    await tab.evaluate("document.querySelector('#over-time').scrollIntoView()")
    box = await tab.evaluate("JSON.stringify(document.querySelector('#over-time .dot').getBoundingClientRect())")
    dot = json.loads(box)
    await tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=dot["x"] + 2, y=dot["y"] + 2)
    await tab.until("!document.querySelector('.tooltip').hidden")
    assert "of 1" in await tab.evaluate("document.querySelector('.tooltip').textContent")

    # The miner ends.
    await site.monitor.stop()
    await tab.until("document.getElementById('state').textContent === 'unreachable'")
    assert await tab.evaluate("document.querySelectorAll('#phases tbody tr').length") > 0


async def check_figures(tab: Tab) -> None:
    assert await tab.evaluate("document.getElementById('state').textContent") == "ok"
    rows = await tab.evaluate("[...document.querySelectorAll('#phases tbody tr')].map((row) => row.textContent)")
    assert len(rows) == 2
    assert "3 of 5" in rows[1]
    assert "60 %" in rows[1]
    assert "23–88 %" in rows[1]
    assert await tab.evaluate("document.querySelectorAll('#stages rect').length") == 10
    assert "needs 20 judged results" in await tab.evaluate("document.getElementById('bands').textContent")
    badges = await tab.evaluate("[...document.querySelectorAll('.badge')].map((one) => one.textContent)")
    await tab.until("document.getElementById('unanswered').textContent.includes('%')")
    unanswered = await tab.evaluate("document.getElementById('unanswered').textContent")
    words = "Phase phase3 has no checkpoint for text tasks, which get the empty result: "
    assert re.fullmatch(words + r"\d+ % of its tasks shown here\.", unanswered)
    assert "3 of 5, phase3 1 of 1" in await tab.evaluate("document.getElementById('experiment').textContent")
    assert sorted(badges) == ["0.71", "rejected"]
    assert await tab.evaluate(TURN) == "translateX(-50%)"


async def check_that_words_stay_words(tab: Tab) -> None:
    """A prompt, a task's id, names of phases and GPUs: shown as they came, and never run."""
    assert "; the file of phase a has changed" in await tab.evaluate("document.getElementById('notice').textContent")
    for place in (
        "#notice",
        "#identity",
        "#experiment",
        "#tiles",
        "#phases",
        "#validators",
        ".result:last-child .words",
    ):
        assert HOSTILE in await tab.evaluate(f"document.querySelector({place!r}).textContent"), place
    assert await tab.evaluate("document.title") != "1"
    assert await tab.evaluate("document.querySelectorAll('main script, img[onerror]').length") == 0


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


@pytest.fixture
def full_site(site: Site) -> Site:
    """20,000 tasks up to now, of seven validators and two phases, and four results."""
    now = time.time()
    fill_ledger(site.ledger, 20_000, now - 20_000 / TASKS_PER_HOUR * 3600)
    for number in range(4):
        picture = png(make_picture()) if number % 2 else b""
        assert site.gallery._save(some_result(int(1e9 * now) - number, prompt="a red chair " * 9, picture=picture))
    return site


DRAWN = "document.querySelectorAll('#over-time svg').length === 4 && document.querySelector('#validators tbody')"
CHECKS = (ROOT / "tests" / "support" / "page_checks.js").read_text()
FINE = {"cut": [], "pale": [], "unnamed": []}


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True])
async def test_the_page_of_many_tasks_at_every_width(full_site: Site, browser: Browser, width: int, dark: bool) -> None:
    tab = await browser.open(f"{full_site.url}/#period=all", dark, (width, 800))
    await tab.until(f"{DRAWN} && document.querySelector('.result')")
    await tab.until("document.querySelector('#experiments svg[width]')")
    await tab.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert await tab.evaluate(CHECKS) == FINE
    experiment = await tab.evaluate("document.querySelector('#experiments').textContent")
    assert "phase3 has won" in experiment
    assert "phase3 better: over 10" in experiment
    # The newest point lies inside the plot, and every column is there.
    assert await tab.evaluate("document.querySelectorAll('#grid tbody td').length") == 2 * 8
    assert await tab.evaluate("document.querySelectorAll('#phases tbody td').length") == 2 * 11
    for period, view in (("24h", "by=validator"), ("1h", "period=1h"), ("all", "period=all&type=text")):
        await tab.evaluate(f"location.hash = {view!r}")
        words = f"Accepted, {period.replace('h', ' h')}"
        await tab.until(f"document.querySelector('#tiles h3').textContent === {words!r} && {DRAWN}")
        assert await tab.evaluate(CHECKS) == FINE
    assert tab.problems == []


async def test_choosing_and_zooming(full_site: Site, browser: Browser) -> None:
    tab = await browser.open(f"{full_site.url}/#period=all", size=(1400, 900))
    await tab.until(DRAWN)
    judged = "document.querySelector('#tiles small').textContent"
    whole = await tab.evaluate(judged)
    names = await tab.evaluate("[...document.querySelectorAll('#phase option')].map((one) => one.textContent)")
    assert names == ["all phases", "baseline 9f0c5a1b", "phase3 1a2b3c4d"]
    await tab.evaluate("document.querySelector('#phase').value = 'phase3 1a2b3c4d5e6f'")
    await tab.evaluate("document.querySelector('#phase').dispatchEvent(new Event('change'))")
    await tab.until(f"{judged} !== {whole!r}")
    assert await tab.evaluate("document.querySelectorAll('#phases tbody tr').length") == 1
    assert "phase=phase3" in await tab.evaluate("location.hash")

    # A range that is drawn over a plot.
    await tab.evaluate("document.querySelector('#over-time').scrollIntoView()")
    box = json.loads(
        await tab.evaluate("JSON.stringify(document.querySelector('#over-time figure').getBoundingClientRect())")
    )
    before = await tab.evaluate(judged)
    y = box["y"] + 100
    await tab.drag((box["x"] + 0.4 * box["width"], y), (box["x"] + 0.6 * box["width"], y))
    await tab.until(f"{judged} !== {before!r} && document.querySelector('#range').textContent.includes(' to ')")
    assert await tab.evaluate("document.querySelectorAll('#periods [aria-pressed=true]').length") == 0
    start, end = (float(part) for part in re.findall(r"(?:since|until)=(\d+)", await tab.evaluate("location.hash")))
    # Of the time since the phase's first task, which ran in the last two thirds.
    shown = 20_000 / TASKS_PER_HOUR * 3600 * 2 / 3
    assert (end - start) / shown == pytest.approx(0.2, abs=0.03)
    # The address leads others to the same.
    other = await browser.open(f"{full_site.url}/{await tab.evaluate('location.hash')}", size=(1400, 900))
    await other.until(DRAWN)
    assert await other.evaluate(judged) == await tab.evaluate(judged)

    # By keys: closer, and the cursor. A page that nobody sees is not drawn.
    await tab.call("Page.bringToFront")
    await tab.evaluate("document.querySelector('#closer').click()")
    await tab.until(f"!location.hash.includes('since={start:.0f}&') && {DRAWN}")
    await tab.evaluate("document.querySelector('#over-time figure').focus()")
    await tab.press("ArrowRight", 39)
    await tab.until("!document.querySelector('.tooltip').hidden")
    first = await tab.evaluate("document.querySelector('.tooltip').textContent")
    await tab.press("ArrowRight", 39)
    await tab.until(f"document.querySelector('.tooltip').textContent !== {first!r}")
    await tab.evaluate("document.querySelector('#reset').click()")
    await tab.until(f"{judged} === {before!r}")
    assert tab.problems == []


async def test_many_tasks_are_shown_at_once(full_site: Site, browser: Browser) -> None:
    """How long that takes is in scripts/validation/page.md."""
    tab = await browser.open(full_site.url)
    for period in PERIODS:
        await tab.evaluate(f"document.querySelector('#periods [value=\"{period}\"]').click()")
        words = f"Accepted, {period.replace('h', ' h').replace('d', ' d')}"
        await tab.until(f"document.querySelector('#tiles h3')?.textContent === {words!r} && {DRAWN}")
    assert tab.problems == []


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
        *("sn17-miner", "generate", "--phase", "phase3", "--seed", str(2**62 + 1)),
        *("-o", f"{first}-phase3.ply", "--", "a duck that isn't red"),
    ]
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
