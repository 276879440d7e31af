"""The report as a page."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from miner.analytics.aggregate import COMPARED
from tests.support.report import few, run_report


class Checked(HTMLParser):
    """Refuses tags that are not closed, scripts and anything that a browser would fetch."""

    VOID = frozenset({"meta", "line", "circle", "rect", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe")
        assert not {name for name, _ in attrs} & {"src", "href", "onclick", "xlink:href"}
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize("by", ["phase", "validator", "hour"])
def test_the_page_is_whole_and_fetches_nothing(ledger: Path, tmp_path: Path, by: str) -> None:
    page = tmp_path / "page.html"
    assert run_report("--ledger", ledger, "--by", by, "--format", "html", "-o", page) == (0, "", "")
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?://|\bnan\b|\binf\b", text)
    checked = Checked()
    checked.feed(text)
    assert checked.open == []
    # With a calibration of each type of task.
    assert checked.seen["svg"] == 6
    assert "prefers-color-scheme: dark" in text
    # A dot for each group and all, each bin of the time axis, each column.
    groups, bins = {"phase": 2, "validator": 7, "hour": 8}[by], 8
    calibrations = json.loads(run_report("--ledger", ledger, "--format", "json")[1])["gate"]["calibrations"]
    in_calibrations = sum(len(calibration["bins"]) for calibration in calibrations)
    assert in_calibrations > 8
    assert checked.seen["circle"] == groups + 1 + bins + len(COMPARED) + in_calibrations


def test_the_page_quotes_what_strangers_wrote(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    few(path, [("<script>alert(1)</script>", "accepted")] * 3, validator='"><img src=x>')
    for by in ("phase", "validator"):
        checked = Checked()
        checked.feed(run_report("--ledger", path, "--by", by, "--format", "html")[1])
        assert checked.open == []
    assert any('"><img s' in text for text in checked.text)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_shows_the_page(ledger: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run_report("--ledger", ledger, "--format", "html", "-o", page)
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*browser, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.count("<svg") == 6
    assert "Accepted against rejected results" in done.stdout
