"""Tasks of which several candidates are made."""

import asyncio
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch

from miner.config.phase import Phase
from miner.config.phase_sections import ExportSettings
from miner.gpu.pace import Sample
from pipeline import (
    Asset,
    EmptyStructure,
    OnStep,
    Request,
    Score,
    Splats,
    flip_up_axis,
    spz,
)
from pipeline.scoring.best_of_n import candidate_seed
from tests.support.generated import make_asset, make_splats
from tests.support.miner_parts import MinerParts
from tests.support.running import run_with, scored
from tests.support.waiting import TIMEOUT, until

SEEDS = [candidate_seed(5, index) for index in range(4)]


async def test_each_scored_candidate_is_packed_and_decoded_once(
    parts: MinerParts, phase: Phase, packing: Counter[str]
) -> None:
    """The winner, too: its file is the one that it was scored by."""
    result = await run_with(parts, scored(phase, count=3))
    assert len(result.candidates) == 3
    assert packing == {"to_bytes": 3, "from_bytes": 3}


async def test_the_prompt_of_all_candidates_is_encoded_once(parts: MinerParts, phase: Phase) -> None:
    await run_with(parts, scored(phase, count=3))
    assert len(parts.requests) == 3
    assert len(parts.backend.encoded) == 1


def score_by_seed(parts: MinerParts, qualities: dict[int, float]) -> None:
    """Have each object scored by the seed it was made with, which the decoded splats still tell."""
    means = {seed: flip_up_axis(make_splats(seed=seed)).means for seed in qualities}
    parts.score = lambda splats: qualities[min(means, key=lambda seed: float((means[seed] - splats.means).abs().max()))]


def generated_seeds(parts: MinerParts) -> list[int]:
    return [request.seed for request in parts.requests]


async def test_the_best_candidate_is_the_result(
    parts: MinerParts, phase: Phase, caplog: pytest.LogCaptureFixture
) -> None:
    qualities = {SEEDS[0]: 0.4, SEEDS[1]: 0.8, SEEDS[2]: 0.7}
    score_by_seed(parts, qualities)
    with caplog.at_level("INFO", "miner"):
        result = await run_with(parts, scored(phase))
    assert generated_seeds(parts) == SEEDS[:3]
    assert (result.asset.seed, result.score) == (SEEDS[1], Score(0.8))
    assert [(c.seed, c.score and c.score.quality) for c in result.candidates] == list(qualities.items())
    sent = flip_up_axis(spz.from_bytes(result.data)).means
    made = make_asset(Request(None, SEEDS[1], None, None)).splats  # type: ignore[arg-type]
    assert (sent - made.means).abs().max() <= 2**-13
    assert "; best of 3, quality 0.800" in caplog.text


async def test_what_is_scored_is_what_the_validator_decodes(parts: MinerParts, phase: Phase) -> None:
    judged: list[Splats] = []

    def score(splats: Splats) -> float:
        judged.append(splats)
        return 0.5

    parts.score = score
    result = await run_with(parts, scored(phase, export=ExportSettings(extent=1.5)))
    assert len(judged) == 3
    decoded = spz.from_bytes(result.data)
    assert torch.equal(judged[0].means, decoded.means)
    assert torch.equal(judged[0].quaternions, decoded.quaternions)


async def test_one_candidate_is_the_same_with_and_without_a_scorer(
    parts: MinerParts, phase: Phase, caplog: pytest.LogCaptureFixture
) -> None:
    score_by_seed(parts, {5: 0.9})
    with caplog.at_level("INFO", "miner"):
        plain = await run_with(parts, phase)
    assert (plain.asset.seed, plain.score, len(plain.candidates)) == (5, None, 1)
    assert "best of" not in caplog.text
    judged = await run_with(parts, scored(phase, count=1))
    assert (judged.data, judged.score) == (plain.data, Score(0.9))


async def test_the_tasks_deadline_and_the_phases_seconds_end_the_search(parts: MinerParts, phase: Phase) -> None:
    late = await run_with(parts, scored(phase), deadline=time.monotonic() - 1)
    assert [c.seed for c in late.candidates] == [5]
    short = await run_with(parts, scored(phase, seconds=1e-9))
    assert [c.seed for c in short.candidates] == [5]


async def test_small_pictures_of_all_candidates_are_kept_where_there_are_several_and_they_are_wanted(
    parts: MinerParts, phase: Phase
) -> None:
    for is_wanted, count, expected in ((True, 3, SEEDS[:3]), (True, 1, []), (False, 3, [])):
        parts.runner.has_sheets = is_wanted
        result = await run_with(parts, scored(phase, count))
        assert list(result.sheets) == expected


async def test_nobody_waits_for_more_candidates_of_another_task(parts: MinerParts, phase: Phase) -> None:
    """Tasks that would be late come before another candidate of a task that has one, whatever their priorities."""
    proceed = threading.Semaphore(0)

    def generate(request: Request, _: OnStep) -> Asset:
        assert proceed.acquire(timeout=TIMEOUT)
        return make_asset(request)

    async def reached(begun: int, waiting: int) -> None:
        await until(lambda: (len(parts.requests), parts.pool.waiting) == (begun, waiting))

    parts.generate = generate
    parts.use_phase(scored(phase, count=2))
    # As if a generation took 20 s, so that whoever waits for another is late.
    parts.pool._pace.add(f"{parts.selector.choice.phases[0].config_hash} image", Sample(0, "whole", 20.0))
    soon = time.monotonic() + 13
    tasks = [replace(parts.make_task(5, deadline=soon), priority=9.0)]
    tasks += [parts.make_task(seed, deadline=soon + 1) for seed in (6, 7)]
    running = []
    for number, task in enumerate(tasks):
        running.append(asyncio.create_task(parts.runner.run(task)))
        await reached(1, number)
    proceed.release()
    # The first task's second candidate waits with the third task now.
    await reached(2, 1)
    for _ in range(5):
        proceed.release()
    assert [len(result.candidates) for result in await asyncio.gather(*running)] == [2, 2, 2]
    assert generated_seeds(parts)[:3] == [5, 6, 7]


async def test_while_draining_the_best_so_far_is_taken(parts: MinerParts, phase: Phase) -> None:
    loop = asyncio.get_running_loop()

    def generate(request: Request, _: OnStep) -> Asset:
        loop.call_soon_threadsafe(parts.runner.drain)
        if request.seed == SEEDS[0]:
            raise EmptyStructure("nothing")
        return make_asset(request)

    parts.generate = generate
    result = await run_with(parts, scored(phase, count=4))
    # There has to be one.
    assert [c.seed for c in result.candidates] == SEEDS[:2]


async def test_a_candidate_that_fails_does_not_lose_the_task(
    parts: MinerParts, phase: Phase, caplog: pytest.LogCaptureFixture
) -> None:
    failures = {SEEDS[0]: EmptyStructure("nothing"), SEEDS[2]: RuntimeError("a bug")}

    def generate(request: Request, _: OnStep) -> Asset:
        if request.seed in failures:
            raise failures[request.seed]
        return make_asset(request)

    parts.generate = generate
    result = await run_with(parts, scored(phase, count=4))
    assert [c.problem for c in result.candidates] == ["EmptyStructure: nothing", ""]
    # What is no expected failure ends the search.
    assert generated_seeds(parts) == SEEDS[:3]
    assert parts.runner.counters == {"generated": 1, "internal_error": 1}
    assert "a candidate failed unexpectedly; taking the best so far" in caplog.text


async def test_splats_that_cannot_be_exported_are_one_candidate_less(parts: MinerParts, phase: Phase) -> None:
    def generate(request: Request, _: OnStep) -> Asset:
        asset = make_asset(request)
        if request.seed == 5:
            asset.splats.means[:] = 0.25
        return asset

    parts.generate = generate
    result = await run_with(parts, scored(phase, count=2, export=ExportSettings(extent=1.5)))
    assert result.asset.seed == SEEDS[1]
    assert result.candidates[0].problem.startswith("FormatError: export is impossible: means")
