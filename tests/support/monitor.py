"""A monitor to ask over HTTP, with ledgers and galleries to show."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from miner.config import OperatorFiles
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
        self.files = OperatorFiles.load(state_dir=self.folder)
        self.ledger = self.files.ledger
        self.gallery = Gallery(self.folder)
        self.metrics = Metrics(self.source)
        dashboard = Dashboard(self.source, self.files, self.gallery)
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
