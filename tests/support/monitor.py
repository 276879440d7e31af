"""A monitor to ask over HTTP and a browser to look at it, with ledgers and galleries to show."""

import asyncio
import base64
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from miner.ledger.events import Event, PhaseAssignment, ResultGenerated, SubmissionAnswered, TaskStarted
from miner.ledger.outcomes import Outcome
from miner.ledger.writer import LedgerWriter
from miner.localnet.validator import LOOPBACK, free_port
from miner.monitor import Monitor, Status
from miner.monitor.dashboard import Dashboard
from miner.monitor.gallery import Gallery, GalleryResult
from miner.monitor.metrics import Metrics
from miner.monitor.status import ValidatorView
from pipeline import STAGES, ply, spz
from tests.support.generated import make_splats

HOSTILE = '<img src=x onerror="document.title=1"></script><script>document.title=1</script> & \'"'
HOTKEYS = ("5F3sa2TJAWMqDhXG6jhV4N8ko9SxwGy8TpaNS1repo5EYjQX", "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY")

OK = Status(
    status="ok",
    pipeline_loaded=True,
    phase="phase3",
    queue=2,
    metagraph_age=12.5,
    last_success=1_700_000_000.0,
    uptime=60.0,
    counters=Counter(generated=3),
    restarts={"the loop of validator 5F3sa2TJ": 1},
    validators=(
        ValidatorView(27, HOTKEYS[0], "waiting", time.time() + 120, time.time() + 90, 0, None),
        ValidatorView(142, HOTKEYS[1], "holding a task", None, None, 2, "5b1c-4"),
    ),
    version="1.2.3",
)


def one_task(
    key: int,
    *,
    phase: str = "phase3",
    validator: str = HOTKEYS[0],
    outcome: str = "accepted",
    seconds: float = 3.5,
    quality: float | None = None,
) -> list[Event]:
    """What the ledger is told of a task that was assigned at `key` nanoseconds."""
    at = key / 1e9
    stages = dict(zip(STAGES, (0.4, 0.1, 1.6, 1.2, 0.2), strict=True))
    stages = {stage: value * seconds / 3.5 for stage, value in stages.items()}
    assignment = PhaseAssignment(phase, f"{phase}-hash", None)
    return [
        TaskStarted(key, at, "pull", validator, 27, f"task-{key}", "image", assignment, "0.1.0"),
        ResultGenerated(key, at + 4, 7, (7,), stages, {"gaussians": 371_424}, quality, 4_812_331),
        SubmissionAnswered(key, at + 5, Outcome(outcome), 0.71 if outcome == "accepted" else None, at + 300),
    ]


def write_ledger(path: Path, events: Sequence[Event]) -> None:
    """With the writer that the miner has."""
    ledger = LedgerWriter(path)
    for event in events:
        ledger.record(event)
    assert ledger.close(60)


def some_result(
    key: int, *, prompt: str = "a red chair", data_format: str = "spz", picture: bytes = b"", **changes: Any
) -> GalleryResult:
    """A result of 7000 gaussians; with the file of a picture, of an image task."""
    splats = make_splats()
    result = GalleryResult(
        key=key,
        task_id=f"task-{key}",
        task_type="image" if picture else "text",
        prompt=picture or prompt,
        phase="phase3",
        seed=2**62 + 1,
        gaussians=len(splats),
        seconds=3.5,
        data=spz.to_bytes(splats) if data_format == "spz" else ply.to_bytes(splats),
        data_format="spz" if data_format == "spz" else "ply",
        up="y",
    )
    return replace(result, **changes)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process or the server brings about."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.02)


@dataclass
class FixedStatus:
    """A source of the status that the test sets."""

    present: Status = OK

    def status(self) -> Status:
        return self.present


@dataclass
class Site:
    """A monitor on loopback with all that it serves, over a ledger and a gallery in `folder`."""

    folder: Path
    port: int = field(default_factory=free_port)
    source: FixedStatus = field(default_factory=FixedStatus)

    def __post_init__(self) -> None:
        self.ledger = self.folder / "ledger.sqlite"
        self.gallery = Gallery(self.folder)
        self.metrics = Metrics(self.source)
        dashboard = Dashboard(self.source, self.ledger, self.gallery)
        self.monitor = Monitor(self.source, LOOPBACK, self.port, [*self.metrics.routes(), *dashboard.routes()])

    @property
    def status(self) -> Status:
        """What the monitor shows."""
        return self.source.present

    @status.setter
    def status(self, status: Status) -> None:
        self.source.present = status

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    async def get(self, path: str, **options: Any) -> aiohttp.ClientResponse:
        """The answer, its body read."""
        async with aiohttp.ClientSession() as session, session.get(self.url + path, **options) as reply:
            await reply.read()
            return reply

    async def data(self, path: str) -> bytes:
        """What is found there."""
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as reply:
            return await reply.read()


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
