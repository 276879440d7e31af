"""A worker that lives elsewhere, over links that the test speaks through."""

import asyncio
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from miner.config.phase import Phase
from miner.config.phase_files import NamedPhase
from miner.errors import MinerError, OperatorError
from miner.gpu import health, messages
from miner.gpu.link import OutOfReach
from miner.gpu.pool import WorkerPool
from miner.gpu.remote_worker import RemoteWorker
from miner.gpu.worker import LeftOut, LoadedPhase
from pipeline import Attempt, Candidate, FinishedCandidate, GenerationJob, Request, TextPrompt, WorkerLost
from tests.support.waiting import TIMEOUT, until

JOB = GenerationJob("t", Request(TextPrompt("a red chair"), 5, None, None))  # type: ignore[arg-type]
MADE = FinishedCandidate(Candidate(5, 1.0, None))


class ToldLink:
    """A life whose reports the test tells; None ends it, and an error is what keeps it from beginning."""

    def __init__(self) -> None:
        self.reports: SimpleQueue[messages.Report | Exception | None] = SimpleQueue()
        self.orders: list[messages.Order] = []

    def send(self, order: messages.Order) -> None:
        self.orders.append(order)

    def receive(self, timeout: float) -> messages.Report | None:
        try:
            told = self.reports.get(timeout=timeout)
        except Empty:
            return None
        if isinstance(told, Exception):
            raise told
        if told is None:
            raise EOFError
        return told

    def kill(self) -> None:
        self.reports.put(None)

    def close(self) -> None:
        pass

    def epitaph(self) -> str:
        return "it ended"


class Lives:
    """A worker, and the links of its lives."""

    def __init__(self) -> None:
        self.links: list[ToldLink] = []
        self.worker = RemoteWorker("ray:0", self.open, "a node", is_optional=True)

    def open(self) -> ToldLink:
        self.links.append(ToldLink())
        return self.links[-1]

    async def tell(self, report: messages.Report | Exception | None) -> None:
        """Report in the latest life."""
        await until(lambda: bool(self.links))
        self.links[-1].reports.put(report)

    async def becomes(self, **fields: Any) -> None:
        """Wait until the status has these fields."""
        await until(lambda: fields.items() <= vars(self.worker.status()).items())

    async def lives(self, count: int) -> None:
        """Wait until so many lives have begun, of which the last one may be told something."""
        await until(lambda: len(self.links) == count)


LOADED = messages.Loaded("m", LoadedPhase(can_score=True), None)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FIRST_RESTART_DELAY", 0.01)
    monkeypatch.setattr(health, "MEND_INTERVAL", 0.01)


@pytest.fixture
def node() -> Iterator[Lives]:
    lives = Lives()
    yield lives
    lives.worker.stop(0)
    assert lives.worker.stop(TIMEOUT)


@pytest.fixture
def named(phase: Phase) -> NamedPhase:
    return NamedPhase("demo", phase)


async def test_a_loss_is_a_problem_until_the_worker_works_again(node: Lives, named: NamedPhase) -> None:
    node.worker.load("m", named)
    await node.tell(LOADED)
    await node.becomes(state="idle", problem="", losses=0)
    await node.tell(None)
    await node.lives(2)
    await node.becomes(state="starting", problem="it ended", losses=1, last_loss="it ended")
    await node.tell(LOADED)
    await node.becomes(state="idle", problem="", losses=1, last_loss="it ended")


async def test_a_worker_that_is_lost_again_and_again_is_lost_until_it_makes_something(
    node: Lives, named: NamedPhase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "MAX_LOSSES", 2)
    node.worker.load("m", named)
    for life in (1, 2):
        await node.lives(life)
        await node.tell(None)
    await node.lives(3)
    await node.becomes(state="lost", problem="it ended", losses=2)
    assert not node.worker.can_come_back
    # It is started again all the same.
    await node.tell(LOADED)
    await until(lambda: node.worker.has("m"))
    making = node.worker.make("m", JOB, Attempt(5))
    await node.tell(messages.Made(1, MADE, None))
    assert making.result(TIMEOUT) is MADE
    await node.becomes(state="idle", problem="", losses=2, candidates=1)


async def test_what_is_out_of_reach_is_no_loss(
    node: Lives, named: NamedPhase, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = node.worker.load("m", named)
    for life in (1, 2):
        await node.lives(life)
        await node.tell(OutOfReach("no cluster"))
    await node.lives(3)
    await node.becomes(state="unreachable", problem="no cluster", losses=0, last_loss="")
    assert caplog.text.count("ray:0 is out of reach: no cluster") == 1
    assert not loaded.done()
    await node.tell(messages.Placed("10.0.0.2"))
    await node.becomes(state="starting", problem="", place="10.0.0.2")
    await node.tell(LOADED)
    assert loaded.result(TIMEOUT).can_score
    await node.becomes(state="idle")


async def test_what_only_the_operator_can_put_right_is_told_to_whoever_waits(node: Lives, named: NamedPhase) -> None:
    loaded = node.worker.load("m", named)
    await node.tell(OperatorError("another version"))
    with pytest.raises(OperatorError, match="another version"):
        loaded.result(TIMEOUT)
    await node.lives(2)
    await node.becomes(state="unreachable", problem="another version", losses=0)
    with pytest.raises(OperatorError, match="another version"):
        node.worker.load("n", named).result(TIMEOUT)


async def test_a_worker_is_left_out_of_a_phase_until_it_can_load_it(
    node: Lives, named: NamedPhase, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = node.worker.load("m", named)
    reason = "phase demo: no weights (on a node)"
    for _ in range(2):
        await node.tell(messages.NotLoaded("m", "no weights", is_mistake=True))
        await node.becomes(state="left_out", left_out=(reason,), problem="", losses=0)
    with pytest.raises(LeftOut, match="ray:0: no weights"):
        loaded.result(TIMEOUT)
    assert caplog.text.count("ray:0 is left out of phase demo: no weights") == 1
    await until(lambda: sum(isinstance(order, messages.Load) for order in node.links[0].orders) > 1)
    await node.tell(LOADED)
    await node.becomes(state="idle", left_out=())
    # Another phase that it lacks, while it works on.
    node.worker.load("n", NamedPhase("other", named.settings))
    await node.tell(messages.NotLoaded("n", "no weights", is_mistake=True))
    await node.becomes(state="idle", left_out=("phase other: no weights (on a node)",))
    node.worker.unload("n")
    await node.becomes(state="idle", left_out=())


async def test_the_miner_ends_when_no_worker_comes_back(named: NamedPhase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_LOSSES", 2)

    def open_link() -> ToldLink:
        raise OSError("no such device")

    pool = WorkerPool([RemoteWorker(name, open_link, "this machine") for name in ("cuda:0", "cuda:1")])
    with pytest.raises(MinerError, match="no worker is left: cuda:0, cuda:1: OSError: no such device"):
        await asyncio.wait_for(pool.load(named), TIMEOUT)
    with pytest.raises(MinerError, match="no worker is left"):
        await asyncio.wait_for(pool.watch(900.0), TIMEOUT)
    assert await pool.stop(TIMEOUT)


async def test_a_candidate_that_hangs_after_the_device_is_free_ends_the_life(node: Lives, named: NamedPhase) -> None:
    node.worker.load("m", named)
    await node.tell(LOADED)
    await node.becomes(state="idle")
    made = node.worker.make("m", JOB, Attempt(5))
    await node.becomes(state="busy")
    await node.tell(messages.Free(1))
    await node.becomes(state="idle")
    node.worker.check(TIMEOUT)
    assert not made.done()
    node.worker.check(0.0)
    await node.lives(2)
    with pytest.raises(WorkerLost, match="a generation has hung for 0 s"):
        await asyncio.wrap_future(made)
