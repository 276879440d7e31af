from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from miner.config.phase import CandidateSettings, ExportSettings, GateSettings, Phase, ScorerSettings
from miner.config.settings import SpzSettings
from miner.gpu.scheduler import Scheduler
from miner.tasks.runner import TaskRunner
from miner.tasks.task import InvalidResult, Result, Task
from pipeline import Asset, EmptyStructure, FormatError, OnStep, Request, Splats, spz
from pipeline.scoring.best_of_n import candidate_seed
from tests.support.factories import instant_generate, make_asset, selector_with

TIMEOUT = 20.0


async def run_one(phase: Phase, container: SpzSettings, image: str, generate: object = instant_generate) -> Asset:
    scheduler = Scheduler()
    scheduler.start()
    phases = selector_with(phase, generate)  # type: ignore[arg-type]
    try:
        result = await TaskRunner(scheduler, phases, container).run(Task("t", "image", image, 0.0, seed=5))
    finally:
        scheduler.stop(10.0)
    decoded = spz.from_bytes(result.data)
    return Asset(decoded, result.asset.seed, 0, result.asset.seconds)


async def test_splats_leave_as_they_were_generated(phase: Phase, container: SpzSettings, image_base64: str) -> None:
    sent = await run_one(phase, container, image_base64)
    original = make_asset(Request(None, 5, None, None)).splats  # type: ignore[arg-type]
    assert (sent.splats.means - original.means).abs().max() <= 2**-13


async def test_the_phase_may_ask_for_an_extent(config_folder: Path, container: SpzSettings, image_base64: str) -> None:
    file = config_folder / "phases" / "phase3.yaml"
    file.write_text(file.read_text() + "\nexport: {extent: 1.5}\n")
    settings = run_settings("--config", str(config_folder / "miner.yaml"))
    means = (await run_one(settings.configured.settings, container, image_base64)).splats.means
    sides = means.amax(0) - means.amin(0)
    assert float(sides.max()) == pytest.approx(1.5, abs=2**-12)
    assert float((means.amax(0) + means.amin(0)).abs().max()) <= 2**-11


async def test_the_phase_may_set_objects_upright(phase: Phase, container: SpzSettings, image_base64: str) -> None:
    turned = phase.model_copy(update={"export": ExportSettings(upright=True, extent=1.5)})
    upside_down = phase.model_copy(update={"export": ExportSettings(extent=1.5)})
    ours, theirs = [(await run_one(p, container, image_base64)).splats.means for p in (turned, upside_down)]
    assert torch.allclose(ours, theirs * torch.tensor([1.0, -1.0, -1.0]), atol=2**-12)


async def test_splats_too_far_out_for_the_container_are_not_sent(
    phase: Phase, container: SpzSettings, image_base64: str
) -> None:
    def far_out(request: Request, on_step: object) -> Asset:
        asset = make_asset(request)
        asset.splats.means[0, 0] = 3000.0
        return asset

    with pytest.raises(FormatError, match="3000"):
        await run_one(phase, container, image_base64, far_out)


async def test_too_few_gaussians_are_not_sent(phase: Phase, container: SpzSettings, image_base64: str) -> None:
    with pytest.raises(InvalidResult, match="6999"):
        await run_one(phase, container, image_base64, lambda request, on_step: make_asset(request, 6999))


# Candidates.


def scored(phase: Phase, count: int = 3, seconds: float = 600.0, **more: object) -> Phase:
    changes = {"candidates": CandidateSettings(count=count, seconds=seconds), "scorer": ScorerSettings(), **more}
    return phase.model_copy(update=changes)


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler()
    scheduler.start()
    yield scheduler
    assert scheduler.stop(TIMEOUT)


class Bench:
    """A runner whose objects are told apart by their seed; `qualities` by seed."""

    def __init__(self, scheduler: Scheduler, container: SpzSettings, image: str) -> None:
        self.scheduler, self.container, self.image = scheduler, container, image
        self.qualities: dict[int, float] = {}
        self.made: list[int] = []
        self.generate: Callable[[Request, OnStep], Asset] = lambda request, _: make_asset(request)
        self.judged: list[Splats] = []

    def runner(self, phase: Phase) -> TaskRunner:
        def generate(request: Request, on_step: OnStep) -> Asset:
            self.made.append(request.seed)
            return self.generate(request, on_step)

        def score(splats: Splats) -> float:
            self.judged.append(splats)
            return self.qualities.get(self.made[-1], 0.5)

        return TaskRunner(self.scheduler, selector_with(phase, generate, score), self.container)

    async def run(self, phase: Phase, deadline: float = float("inf")) -> Result:
        return await self.runner(phase).run(Task("t", "image", self.image, 1.0, seed=5, deadline=deadline))


@pytest_asyncio.fixture
async def bench(scheduler: Scheduler, container: SpzSettings, image_base64: str) -> AsyncIterator[Bench]:
    yield Bench(scheduler, container, image_base64)


SEEDS = [candidate_seed(5, index) for index in range(4)]


async def test_the_best_candidate_is_the_result(bench: Bench, phase: Phase, caplog: pytest.LogCaptureFixture) -> None:
    bench.qualities = {SEEDS[0]: 0.4, SEEDS[1]: 0.8, SEEDS[2]: 0.7}
    with caplog.at_level("INFO", "miner"):
        result = await bench.run(scored(phase))
    assert bench.made == SEEDS[:3]
    assert (result.asset.seed, result.quality) == (SEEDS[1], 0.8)
    assert [(c.seed, c.quality) for c in result.candidates] == list(bench.qualities.items())
    assert (spz.from_bytes(result.data).means - result.asset.splats.means).abs().max() <= 2**-13
    assert "; best of 3, quality 0.800" in caplog.text


async def test_what_is_scored_is_what_the_validator_decodes(bench: Bench, phase: Phase) -> None:
    result = await bench.run(scored(phase, export=ExportSettings(upright=True, extent=1.5)))
    assert len(bench.judged) == 3
    decoded = spz.from_bytes(result.data)
    assert torch.equal(bench.judged[0].means, decoded.means)
    assert torch.equal(bench.judged[0].quaternions, decoded.quaternions)


async def test_one_candidate_without_a_scorer_is_what_there_was_before(
    bench: Bench, phase: Phase, caplog: pytest.LogCaptureFixture
) -> None:
    bench.qualities = {5: 0.9}
    plain = selector_with(phase, lambda request, _: make_asset(request))
    runner = TaskRunner(bench.scheduler, plain, bench.container)
    with caplog.at_level("INFO", "miner"):
        result = await runner.run(Task("t", "image", bench.image, 1.0, seed=5))
    assert (result.asset.seed, result.quality, len(result.candidates)) == (5, None, 1)
    assert "best of" not in caplog.text
    one = await bench.run(scored(phase, count=1))
    assert (one.data, one.quality) == (result.data, 0.9)


async def test_the_tasks_deadline_and_the_phases_seconds_end_the_search(bench: Bench, phase: Phase) -> None:
    late = await bench.run(scored(phase), deadline=time.monotonic() - 1)
    assert [c.seed for c in late.candidates] == [5]
    short = await bench.run(scored(phase, seconds=1e-9))
    assert [c.seed for c in short.candidates] == [5]


async def test_nobody_waits_for_more_candidates_of_another_task(bench: Bench, phase: Phase) -> None:
    """Tasks that would be late come before another candidate of a task that has one, whatever their priorities."""
    proceed = threading.Semaphore(0)
    order: list[int] = []

    def generate(request: Request, _: OnStep) -> Asset:
        order.append(request.seed)
        assert proceed.acquire(timeout=TIMEOUT)
        return make_asset(request)

    async def until(begun: int, waiting: int) -> None:
        async with asyncio.timeout(TIMEOUT):
            while (len(order), bench.scheduler.waiting) != (begun, waiting):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)

    bench.generate = generate
    # As if a generation took 20 s, so that whoever waits for another is late.
    bench.scheduler._duration = 20.0
    soon = time.monotonic() + 13
    runner = bench.runner(scored(phase, count=2))
    tasks = [Task("a", "image", bench.image, 9.0, seed=5, deadline=soon)]
    tasks += [
        Task(name, "image", bench.image, 1.0, seed=seed, deadline=soon + 1) for name, seed in (("b", 6), ("c", 7))
    ]
    running = []
    for number, task in enumerate(tasks):
        running.append(asyncio.create_task(runner.run(task)))
        await until(1, number)
    proceed.release()
    # The first task's second candidate waits with the third task now.
    await until(2, 2)
    for _ in range(5):
        proceed.release()
    assert [len(result.candidates) for result in await asyncio.gather(*running)] == [2, 2, 2]
    assert order[:3] == [5, 6, 7]


async def test_when_we_stop_the_best_so_far_is_taken(bench: Bench, phase: Phase) -> None:
    runner = bench.runner(scored(phase, count=4))
    failed: list[int] = []

    def generate(request: Request, _: OnStep) -> Asset:
        runner.hurry()
        if not failed:
            failed.append(request.seed)
            raise EmptyStructure("nothing")
        return make_asset(request)

    bench.generate = generate
    result = await runner.run(Task("t", "image", bench.image, 1.0, seed=5))
    # There has to be one.
    assert [c.seed for c in result.candidates] == SEEDS[:2]


async def test_a_candidate_that_fails_does_not_lose_the_task(
    bench: Bench, phase: Phase, caplog: pytest.LogCaptureFixture
) -> None:
    failures = {SEEDS[0]: EmptyStructure("nothing"), SEEDS[2]: RuntimeError("a bug")}

    def generate(request: Request, _: OnStep) -> Asset:
        if request.seed in failures:
            raise failures[request.seed]
        return make_asset(request)

    bench.generate = generate
    runner = bench.runner(scored(phase, count=4))
    result = await runner.run(Task("t", "image", bench.image, 1.0, seed=5))
    assert [c.problem for c in result.candidates] == ["EmptyStructure: nothing", ""]
    # What is no expected failure ends the search.
    assert bench.made == SEEDS[:3]
    assert runner.counters == {"generated": 1, "internal_error": 1}
    assert "a candidate failed unexpectedly; the best before it is taken" in caplog.text


async def test_splats_that_cannot_be_exported_are_one_candidate_less(bench: Bench, phase: Phase) -> None:
    def generate(request: Request, _: OnStep) -> Asset:
        asset = make_asset(request)
        if request.seed == 5:
            asset.splats.means[:] = 0.25
        return asset

    bench.generate = generate
    result = await bench.run(scored(phase, count=2, export=ExportSettings(extent=1.5)))
    assert result.asset.seed == SEEDS[1]
    assert result.candidates[0].problem.startswith("InvalidResult: export is impossible: means")


async def test_the_gate_is_not_for_those_who_judge_nothing(bench: Bench, phase: Phase) -> None:
    """A result that is asked for on this machine is delivered with its quality, whatever that is."""
    bench.qualities = {5: 0.1}
    result = await bench.run(scored(phase, count=1, gate=GateSettings(quality=0.9)))
    assert result.quality == 0.1
