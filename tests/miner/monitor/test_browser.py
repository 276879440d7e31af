"""The pages in a real browser."""

import io
import json
import re
import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from miner.monitor.thumbnail_worker import draw_result
from miner.monitor.turntable import EXTENT
from miner.runtime.gpu_memory import GpuMemory
from pipeline import Splats, normalise, spz
from pipeline.rendering.cameras import orbit
from pipeline.rendering.rasterizer import render
from tests.support.generated import make_picture, make_splats, png
from tests.support.monitor import HOSTILE, OK, Browser, Site, Tab, one_task, some_result, write_ledger

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
        await tab.until("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
        assert await tab.evaluate("document.querySelector('.views').naturalWidth") == 8 * 176
        await check_figures(tab)
        await check_that_words_stay_words(tab)
        paper = await tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, paper[4:-1].split(","))) < 384) is dark
        assert tab.problems == []
        assert all(address.startswith(site.url) for address in tab.asked), tab.asked

    # Another span, and a tooltip.
    await tab.evaluate("document.querySelector('nav button').click()")
    await tab.until("document.querySelector('#tiles h3').textContent === 'Accepted, 6 h'")
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
    assert re.fullmatch(words + r"\d+ % of its tasks in the last 24 h\.", unanswered)
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
    write_ledger(site.ledger, one_task(key))
    assert site.gallery._save(some_result(key, prompt=HOSTILE, data=spz.to_bytes(splats)))
    tab = await browser.open(f"{site.url}/viewer?key={key}", size=(SIZE, SIZE))
    await tab.until("document.getElementById('progress').hidden && document.querySelector('dd')")
    assert HOSTILE in await tab.evaluate("document.getElementById('title').textContent")
    assert "accepted, 0.71" in await tab.evaluate("document.getElementById('numbers').textContent")
    await tab.evaluate("document.getElementById('facts').remove(); document.getElementById('controls').remove()")
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
