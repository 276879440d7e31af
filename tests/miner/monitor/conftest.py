from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.browser import Browser, find_browser
from tests.support.monitor import Site


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.monitor.start()
    yield site
    await site.monitor.stop()


@pytest_asyncio.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    command = find_browser()
    if command is None:
        pytest.skip("no Chromium on this machine: sudo apt-get install -y chromium")
    browser = await Browser.start(command, tmp_path / "profile")
    yield browser
    await browser.stop()
