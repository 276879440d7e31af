"""The page at the root, in a real browser."""

import json
import re
import time
from dataclasses import replace

import pytest

from miner.analytics import PERIODS
from miner.localnet.synthetic_ledger import TASKS_PER_HOUR, fill_ledger
from miner.monitor.thumbnail_worker import draw_result
from miner.runtime.gpu_memory import GpuMemory
from tests.support.browser import CHECKS, FINE, Browser, Tab
from tests.support.generated import make_picture, png
from tests.support.monitor import HOSTILE, OK, Site, one_task, some_result, write_ledger

pytestmark = [pytest.mark.slow, pytest.mark.process]

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
        OK,
        phase=HOSTILE,
        validators=(hostile, OK.validators[1]),
        own_gpus=(GpuMemory("cuda:0", HOSTILE, 1, 2**31, 2**36),),
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
