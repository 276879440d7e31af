"""Workers on a Ray cluster: what they make, and what becomes of it when an actor, a node's weights or all is lost."""

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from miner.config.phase import Phase
from miner.config.phase_files import NamedPhase
from miner.config.settings import RaySettings
from miner.errors import OperatorError
from miner.gpu import health, ray_cluster, ray_driver
from miner.gpu.local_worker import LocalWorker
from miner.gpu.models import PhaseModels
from miner.gpu.order import GenerationOrder
from miner.gpu.pool import WorkerPool
from miner.gpu.ray_cluster import ray_workers
from miner.gpu.worker import Worker
from miner.gpu.worker_process import MakeLoader, process_worker
from pipeline import BestOfN, BestResult, GenerationJob, Request, SamplerParams, TextPrompt, WorkerLost
from pipeline.scoring.best_of_n import candidate_seed
from tests.support.ray_cluster import LocalRay, environment, free_port
from tests.support.waiting import until
from tests.support.worker_loaders import (
    ToldWorkers,
    drive_with_another_version,
    models_that_one_lacks,
    told_models,
)

pytest.importorskip("ray", reason="Ray is not installed: pip install 'sn17-miner[ray]'")
pytestmark = [pytest.mark.process, pytest.mark.slow]

TIMEOUT = 120.0
PARAMS = SamplerParams(steps=2, cfg_strength=1.0, cfg_interval=(0.5, 1.0), rescale_t=3.0)


def order(models: PhaseModels, task: str, seed: int) -> GenerationOrder:
    return GenerationOrder(GenerationJob(task, Request(TextPrompt("a red chair"), seed, PARAMS, PARAMS)), models)


async def run(pool: WorkerPool, models: PhaseModels, seed: int, count: int = 1) -> BestResult:
    made = order(models, f"task {seed}", seed)
    return await asyncio.wait_for(pool.run(made, BestOfN(made.job.request, count)), TIMEOUT)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalRay]:
    """A cluster with two CPUs; no process is left of it in the end."""
    local = LocalRay()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name, content in environment().items():
            patch.setenv(name, content)
        local.start()
        try:
            yield local
        finally:
            local.stop()
            local.remove()
            torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FIRST_RESTART_DELAY", 0.1)
    monkeypatch.setattr(health, "MEND_INTERVAL", 1.0)
    monkeypatch.setattr(ray_cluster, "FIRST_PATIENCE", 0.5)
    monkeypatch.setattr(ray_cluster, "PATIENCE", 0.0)


MakePool = Callable[[Sequence[Worker]], WorkerPool]


@pytest.fixture
async def make_pool() -> AsyncIterator[MakePool]:
    """Makes pools of workers that end with the test."""
    pools: list[WorkerPool] = []

    def make(workers: Sequence[Worker]) -> WorkerPool:
        pools.append(WorkerPool(workers))
        return pools[-1]

    yield make
    for pool in pools:
        assert await pool.stop(TIMEOUT)


def actors(cluster: LocalRay, loader: MakeLoader, cpus: int = 2) -> Sequence[Worker]:
    return ray_workers(RaySettings(address=cluster.address, cpus=cpus), loader)


@pytest.fixture
def named(phase: Phase) -> NamedPhase:
    return NamedPhase("demo", phase)


async def test_the_same_bytes_as_from_one_worker_though_an_actor_is_killed_in_the_middle_of_a_candidate(
    cluster: LocalRay, tmp_path: Path, named: NamedPhase, make_pool: MakePool
) -> None:
    """That networks make the same in another process is shown by those of this machine."""
    told, loader = ToldWorkers(tmp_path), partial(told_models, folder=tmp_path)

    async def kill_the_maker_of(seed: int) -> None:
        await until(lambda: told.processes("begun", seed), TIMEOUT)
        os.kill(told.processes("begun", seed)[0], signal.SIGKILL)
        await until(lambda: len(told.processes("begun", seed)) == 2, TIMEOUT)
        told.release(seed)

    async def made_by(pool: WorkerPool, *others: Awaitable[None]) -> list[object]:
        models = await asyncio.wait_for(pool.load(named), TIMEOUT)
        results = await asyncio.gather(run(pool, models, 5, 2), run(pool, models, 6), *others)
        assert sum(status.candidates for status in pool.statuses) == 3
        return [
            (
                hashlib.sha256(best.asset.data).hexdigest(),
                *(best.asset.statistics, best.score, best.asset.seed),
                *((candidate.seed, candidate.score) for candidate in best.candidates),
            )
            for best in results
            if best is not None
        ]

    told.tell("hold", candidate_seed(5, 1))
    far = make_pool(actors(cluster, loader))
    seen = await made_by(far, kill_the_maker_of(candidate_seed(5, 1)))
    assert seen == await made_by(make_pool([LocalWorker("cpu", loader("cpu"))]))
    assert all(status.place == "127.0.0.1" for status in far.statuses)
    assert sorted(status.last_loss[:15] for status in far.statuses) == ["", "its actor ended"]


async def test_a_node_without_the_weights_is_named_and_left_out_until_it_has_them(
    cluster: LocalRay, tmp_path: Path, named: NamedPhase, make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lack-1").touch()
    pool = make_pool(actors(cluster, partial(models_that_one_lacks, folder=tmp_path)))
    models = await asyncio.wait_for(pool.load(named), TIMEOUT)
    assert (await run(pool, models, 5)).asset.seed == 5
    assert "is left out of phase demo" in caplog.text
    assert "sn17-miner weights download chairs (on 127.0.0.1)" in caplog.text
    await until(lambda: all(worker.has(models.id) for worker in pool.workers), TIMEOUT)
    # If all lack it, a swap fails and nothing else changes.
    for number in range(2, 30):
        (tmp_path / f"lack-{number}").touch()
    with pytest.raises(OperatorError, match=r"ray:0: phase other cannot be loaded: weights of chairs .*; ray:1: "):
        await asyncio.wait_for(pool.load(NamedPhase("other", named.settings)), TIMEOUT)
    assert (await run(pool, models, 6)).asset.seed == 6


async def test_another_version_on_a_node_is_refused_by_name(
    cluster: LocalRay, tmp_path: Path, named: NamedPhase, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_driver, "drive", drive_with_another_version)
    pool = make_pool(actors(cluster, partial(told_models, folder=tmp_path), cpus=1))
    message = r"the node 127.0.0.1 has version .* of sn17-miner, and this miner is 9.9: install"
    with pytest.raises(OperatorError, match=message):
        await asyncio.wait_for(pool.load(named), TIMEOUT)


async def test_more_than_the_cluster_has_and_an_address_that_does_not_answer_are_mistakes(
    cluster: LocalRay, tmp_path: Path, named: NamedPhase, make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    loader = partial(told_models, folder=tmp_path)
    with pytest.raises(OperatorError, match=r"has 2 CPUs, 5 are asked for.*or lower workers.ray.cpus, which is 5"):
        await asyncio.wait_for(make_pool(actors(cluster, loader, cpus=5)).load(named), TIMEOUT)
    assert "s for the Ray cluster at 127.0.0.1" in caplog.text
    nobody = RaySettings(address=f"127.0.0.1:{free_port()}", cpus=1)
    # Also where a device of this machine could go on.
    pool = make_pool([process_worker("cpu", loader), *ray_workers(nobody, loader)])
    message = r"ray:0: workers.ray: the Ray cluster at .* nothing answers at .*`ray start`"
    with pytest.raises(OperatorError, match=message):
        await asyncio.wait_for(pool.load(named), TIMEOUT)


async def test_while_the_cluster_is_lost_tasks_are_skipped_or_made_here_until_it_is_back(
    cluster: LocalRay, tmp_path: Path, named: NamedPhase, make_pool: MakePool
) -> None:
    loader = partial(told_models, folder=tmp_path)
    far = actors(cluster, loader, cpus=1)
    pool = make_pool(far)
    models = await asyncio.wait_for(pool.load(named), TIMEOUT)
    told = ToldWorkers(tmp_path)
    told.tell("hold", 5)
    running = asyncio.create_task(run(pool, models, 5))
    await until(lambda: told.processes("begun", 5), TIMEOUT)
    cluster.lose()
    with pytest.raises(WorkerLost, match=r"the Ray cluster at .* cannot be used"):
        await running
    with pytest.raises(WorkerLost, match=r"the Ray cluster at .* cannot be used"):
        await run(pool, models, 6)
    assert [status.state for status in pool.statuses] == ["unreachable"]
    # With a device of this machine, there is something to go on with, and a phase can be changed.
    both = make_pool([process_worker("cpu", loader), *far])
    models_of_both = await asyncio.wait_for(both.load(named), TIMEOUT)
    assert (await run(both, models_of_both, 7)).asset.seed == 7
    told.release(5)
    cluster.start()
    await until(lambda: all(far[0].has(each.id) for each in (models, models_of_both)), TIMEOUT)
    assert (await run(pool, models, 8)).asset.seed == 8
