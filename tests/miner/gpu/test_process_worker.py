"""Workers in processes of their own: what they make, and what becomes of it when one is lost."""

import asyncio
import hashlib
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from miner.config.loader import shipped_config
from miner.config.phase import Phase
from miner.config.phase_files import NamedPhase, load_phase
from miner.errors import OperatorError
from miner.gpu import health
from miner.gpu.local_worker import LocalWorker
from miner.gpu.models import PhaseModels
from miner.gpu.order import GenerationOrder
from miner.gpu.pool import WorkerPool
from miner.gpu.worker_process import process_worker
from pipeline import BestOfN, BestResult, GenerationJob, Request, SamplerParams, TextPrompt, VoxelLimit, WorkerLost
from pipeline.scoring.best_of_n import candidate_seed
from tests.support.waiting import until
from tests.support.worker_loaders import ToldWorkers, real_models, told_models

pytestmark = pytest.mark.process

# A process takes some seconds to start, longer on a busy machine.
TIMEOUT = 120.0
PARAMS = SamplerParams(steps=2, cfg_strength=1.0, cfg_interval=(0.5, 1.0), rescale_t=3.0)
# As few as are valid, since drawing them for a score takes most of the time.
FEW = VoxelLimit(300, "drop")
SEEDS = [candidate_seed(5, index) for index in range(9)]


def order(models: PhaseModels, task: str = "t", seed: int = 5) -> GenerationOrder:
    request = Request(TextPrompt("a red chair"), seed, PARAMS, PARAMS, FEW)
    return GenerationOrder(GenerationJob(task, request, has_sheets=True), models)


class Workers:
    """Two processes whose making the test tells, and a pool of them; each test uses seeds and tasks of its own."""

    def __init__(self, folder: Path) -> None:
        self.told = ToldWorkers(folder)
        loader = partial(told_models, folder=folder)
        self.workers = [process_worker(name, loader) for name in ("cpu", "cpu again")]
        self._loaded: list[PhaseModels] = []
        self.begin_anew()

    def begin_anew(self) -> None:
        """Drop the tasks and the models of another test."""
        self.pool = WorkerPool(self.workers)
        for models in self._loaded:
            self.pool.unload(models.id)
        self._loaded.clear()

    async def load(self, phase: NamedPhase) -> PhaseModels:
        self._loaded.append(await self.pool.load(phase))
        return self._loaded[-1]

    @property
    def are_well(self) -> bool:
        return all(status.state == "idle" for status in self.pool.statuses)

    def run(self, models: PhaseModels, count: int = 4, task: str = "t", seed: int = 5) -> "asyncio.Task[BestResult]":
        made = order(models, task, seed)
        return asyncio.create_task(self.pool.run(made, BestOfN(made.job.request, count)))

    async def begun(self, seed: int, times: int = 1) -> int:
        """Wait until a candidate was begun so many times; return one of the processes that did."""
        await until(lambda: len(self.told.processes("begun", seed)) >= times, TIMEOUT)
        return self.told.processes("begun", seed)[0]


@pytest.fixture
def named(phase: Phase) -> NamedPhase:
    return NamedPhase("demo", phase)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(health, "FIRST_RESTART_DELAY", 0.1)
        workers = Workers(tmp_path_factory.mktemp("told"))
        yield workers
        for worker in workers.workers:
            assert worker.stop(TIMEOUT)


@pytest.fixture
def workers(both: Workers) -> Workers:
    both.begin_anew()
    return both


async def test_a_worker_that_is_killed_in_the_middle_of_a_candidate_loses_nothing(
    workers: Workers, named: NamedPhase, caplog: pytest.LogCaptureFixture
) -> None:
    models = await workers.load(named)
    loads = len(workers.told.processes("loaded", "demo"))
    workers.told.tell("hold", SEEDS[1])
    running = workers.run(models)
    victim = await workers.begun(SEEDS[1])
    os.kill(victim, signal.SIGKILL)
    # The other one makes it; this one is started again, and loads what it needs.
    await workers.begun(SEEDS[1], times=2)
    workers.told.release(SEEDS[1])
    best = await asyncio.wait_for(running, TIMEOUT)
    assert [candidate.seed for candidate in best.candidates] == list(best.sheets) == SEEDS[:4]
    assert all(not candidate.problem for candidate in best.candidates)
    await until(lambda: len(workers.told.processes("loaded", "demo")) == loads + 1, TIMEOUT)
    await until(lambda: all(worker.has(models.id) for worker in workers.workers), TIMEOUT)
    assert "was lost: its process was ended by SIGKILL; it is started again" in caplog.text
    # What is over is no problem any more.
    assert [status.problem for status in workers.pool.statuses] == ["", ""]
    past = [(status.losses, status.last_loss) for status in workers.pool.statuses]
    assert sorted(past) == [(0, ""), (1, "its process was ended by SIGKILL")]
    # And it works.
    workers.told.tell("hold", 100)
    workers.told.tell("hold", 200)
    tasks = [workers.run(models, 1, str(seed), seed) for seed in (100, 200)]
    assert await workers.begun(100) != await workers.begun(200)
    for seed in (100, 200):
        workers.told.release(seed)
    assert [result.asset.seed for result in await asyncio.gather(*tasks)] == [100, 200]


async def test_a_broken_device_and_a_hang_cost_a_process_and_no_task(
    workers: Workers, named: NamedPhase, caplog: pytest.LogCaptureFixture
) -> None:
    models = await workers.load(named)
    workers.told.tell("break", 70)
    best = await asyncio.wait_for(workers.run(models, 2, "breaks", 70), TIMEOUT)
    assert [candidate.seed for candidate in best.candidates] == [70, candidate_seed(70, 1)]
    assert "an illegal memory access was encountered; it is started again" in caplog.text
    workers.told.tell("hold", 77)
    running = workers.run(models, 1, "hangs", 77)
    # Nothing in it runs any more, also no thread that could notice.
    os.kill(await workers.begun(77), signal.SIGSTOP)
    workers.told.release(77)
    (busy,) = (worker for worker in workers.workers if worker.status().state == "busy")
    busy.check(900.0)
    assert busy.is_up
    busy.check(0.0)
    best = await asyncio.wait_for(running, TIMEOUT)
    assert best.asset.seed == 77
    assert "a generation has hung for 0 s; it is started again" in caplog.text


async def test_an_unexpected_error_in_a_process_is_told_with_its_traceback(workers: Workers, named: NamedPhase) -> None:
    models = await workers.load(named)
    workers.told.tell("fail", 60)
    with pytest.raises(RuntimeError, match="KeyError: 'a bug'") as caught:
        await asyncio.wait_for(workers.run(models, 1, "fails", 60), TIMEOUT)
    assert "worker_loaders.py" in caught.value.__notes__[0]
    assert await workers.run(models, 1, "next", 61)


async def test_a_candidate_that_two_workers_were_lost_with_is_given_up(workers: Workers, named: NamedPhase) -> None:
    models = await workers.load(named)
    workers.told.tell("kill", 90)
    with pytest.raises(WorkerLost, match="its process ended with exit code 9"):
        await asyncio.wait_for(workers.run(models, 1, "kills", 90), TIMEOUT)
    assert len(workers.told.processes("begun", 90)) == 2
    await until(lambda: workers.are_well, TIMEOUT)


async def test_a_swap_reaches_all_and_a_task_keeps_its_models(workers: Workers, named: NamedPhase) -> None:
    first = await workers.load(named)
    workers.told.tell("hold", 50)
    running = workers.run(first, 1, "keeps", 50)
    await workers.begun(50)
    loading = asyncio.create_task(workers.load(NamedPhase("other", named.settings)))
    await until(lambda: len(workers.told.processes("loaded", "other")) == 2, TIMEOUT)
    workers.pool.unload(first.id)
    assert not any(worker.has(first.id) for worker in workers.workers)
    workers.told.release(50)
    assert (await asyncio.wait_for(running, TIMEOUT)).asset.seed == 50
    second = await asyncio.wait_for(loading, TIMEOUT)
    assert all(worker.has(second.id) for worker in workers.workers)
    assert (await workers.run(second, 1, "new", 51)).asset.seed == 51


async def test_the_log_of_a_process_is_the_miners(
    workers: Workers, named: NamedPhase, caplog: pytest.LogCaptureFixture
) -> None:
    await workers.load(named)
    await until(lambda: "cpu again: told to load phase demo" in caplog.text, TIMEOUT)


async def test_weights_that_are_missing_are_the_operators_mistake(workers: Workers, named: NamedPhase) -> None:
    models = await workers.load(named)
    workers.told.tell("lack", 0)
    with pytest.raises(OperatorError, match=r"cpu.*: phase missing cannot be loaded: weights of chairs have not been"):
        await asyncio.wait_for(workers.load(NamedPhase("missing", named.settings)), TIMEOUT)
    workers.told.release(0, "lack")
    # What was there goes on.
    assert (await workers.run(models, 1, "goes on", 91)).asset.seed == 91


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sums on a CPU depend on the number of threads, here and in processes that are started."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
async def test_the_same_bytes_in_process_and_from_two() -> None:
    """The embedded checkpoint for sentences, with the same seeds; the best is the same one, too."""
    demo = load_phase("demo", shipped_config() / "miner.yaml").settings
    named = NamedPhase("text", demo.model_copy(update={"image": None}))
    seen = []
    for workers in (
        [LocalWorker("cpu", real_models("cpu"))],
        [process_worker("cpu", real_models), process_worker("cpu again", real_models)],
    ):
        pool = WorkerPool(workers)
        models = await pool.load(named)
        tasks = [order(models, str(seed), seed) for seed in (5, 6)]
        results = await asyncio.gather(*(pool.run(task, BestOfN(task.job.request, 2)) for task in tasks))
        seen.append(
            [
                (
                    hashlib.sha256(best.asset.data).hexdigest(),
                    *(best.asset.statistics, best.score, best.asset.seed),
                    *((candidate.seed, candidate.score) for candidate in best.candidates),
                )
                for best in results
            ]
        )
        made = [status.candidates for status in pool.statuses]
        assert sum(made) == 4
        assert all(made)
        assert await pool.stop(TIMEOUT)
    assert seen[0] == seen[1]
