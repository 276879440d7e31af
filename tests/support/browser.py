"""A browser that looks at pages, and what is checked of every page."""

import asyncio
import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.paths import ROOT

CHECKS = (ROOT / "tests" / "support" / "page_checks.js").read_text()
"""Finds what is cut off, too pale or without a name on a page; FINE if nothing is."""
FINE = {"cut": [], "pale": [], "unnamed": []}


def find_browser() -> str | None:
    """Debian's Chromium, or one of the others' names for it."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """A headless Chromium, spoken to in its DevTools protocol, in real time."""

    def __init__(self, process: asyncio.subprocess.Process, session: aiohttp.ClientSession) -> None:
        self._process = process
        self._session = session

    @staticmethod
    async def start(command: str, folder: Path) -> "Browser":
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder}",
        ]
        process = await asyncio.create_subprocess_exec(
            command,
            *flags,
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"HOME": str(folder)},
            start_new_session=True,
        )
        assert process.stderr is not None
        async with asyncio.timeout(60):
            while b"DevTools listening on " not in (line := await process.stderr.readline()):
                assert line, "the browser did not start"
        browser = Browser(process, aiohttp.ClientSession())
        browser.address = line.decode().rpartition("on ")[2].strip().replace("ws://", "http://").split("/devtools")[0]
        browser.drain = asyncio.create_task(process.stderr.read())
        return browser

    address: str
    drain: asyncio.Task[bytes]

    async def open(self, url: str, dark: bool = False, size: tuple[int, int] = (1280, 900)) -> "Tab":
        """A tab that shows this page."""
        async with self._session.put(f"{self.address}/json/new?about:blank") as reply:
            target = json.loads(await reply.text())
        tab = Tab(await self._session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0))
        for domain in ("Page", "Runtime", "Log", "Network"):
            await tab.call(f"{domain}.enable")
        # Software draws no more than a picture a second of an object that turns.
        media = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        media += [{"name": "prefers-reduced-motion", "value": "reduce"}]
        await tab.call("Emulation.setEmulatedMedia", features=media)
        width, height = size
        await tab.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        await tab.load(url)
        return tab

    async def stop(self) -> None:
        await self._session.close()
        self._process.kill()
        await self._process.wait()
        await self.drain


class Tab:
    """One page. `problems`: what it wrote to the console as a warning or error; `asked`: the addresses it asked for."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.problems: list[str] = []
        self.asked: list[str] = []
        self._socket = socket
        self._calls = 0
        self._loaded = False

    async def load(self, url: str) -> None:
        """Go to a page and wait for its files."""
        self._loaded = False
        await self.call("Page.navigate", url=url)
        while not self._loaded:
            self._note(await self._socket.receive_json(timeout=60))

    async def call(self, method: str, **parameters: Any) -> Any:
        """A method of the protocol; its result."""
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=60)
            if message.get("id") == self._calls:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, told = message.get("method"), message.get("params", {})
        self._loaded |= method == "Page.loadEventFired"
        if method == "Runtime.exceptionThrown":
            self.problems.append(told["exceptionDetails"].get("exception", {}).get("description", str(told)))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(argument.get("value")) for argument in told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until an expression is true."""
        look = f"const look = () => ({condition}) ? done(true) : setTimeout(look, 20); look()"
        async with asyncio.timeout(50):
            assert await self.evaluate(f"new Promise(done => {{ {look} }})")

    async def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse's button at one place, and let it go at another."""
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        for kind, (x, y), button in (
            ("mouseMoved", start, "none"),
            ("mousePressed", start, "left"),
            ("mouseMoved", middle, "left"),
            ("mouseMoved", end, "left"),
            ("mouseReleased", end, "left"),
        ):
            if kind == "mouseReleased":
                await self.next_frame()
            await self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=x,
                y=y,
                button=button,
                clickCount=1,
                buttons=int(button == "left"),
            )

    async def swipe(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Move a finger from one place to another."""
        for step in range(6):
            x, y = (a + (b - a) * step / 5 for a, b in zip(start, end, strict=True))
            kind = "touchStart" if step == 0 else "touchMove"
            await self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
        await self.next_frame()
        await self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    async def next_frame(self) -> None:
        """Wait until the page is drawn again: one that is drawn seldom would miss what begins and ends in between."""
        await self.evaluate("new Promise(done => requestAnimationFrame(() => done(true)))")

    async def press(self, key: str, code: int) -> None:
        """Press a key by its name and its virtual key code."""
        for kind in ("rawKeyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    async def screenshot(self) -> bytes:
        """PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])
