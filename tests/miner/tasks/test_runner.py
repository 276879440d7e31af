import asyncio
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from miner.analytics.calibration import Calibration
from miner.analytics.pass_model import PassModel, ScoreKind
from miner.analytics.slots import Slots
from miner.config.choice_sections import CandidateSettings, GateSettings, ScorerSettings
from miner.config.phase import Phase
from miner.config.phase_files import NamedPhase
from miner.config.phase_sections import ExportSettings
from miner.gpu.pace import Sample
from miner.tasks.task import InvalidResult, Result, Withheld
from pipeline import (
    Asset,
    Cancelled,
    EmptyStructure,
    FormatError,
    OnStep,
    PipelineError,
    PromptError,
    Request,
    Score,
    Splats,
    TextPrompt,
    UnsupportedPrompt,
    flip_up_axis,
    spz,
)
from pipeline.scoring.best_of_n import candidate_seed
from tests.support.factories import run_settings
from tests.support.generated import make_asset
from tests.support.miner_parts import MinerParts
from tests.support.waiting import TIMEOUT, until

SEEDS = [candidate_seed(5, index) for index in range(4)]


@pytest.fixture
def parts(tmp_path: Path, phase: Phase) -> Iterator[MinerParts]:
    parts = MinerParts(tmp_path, phase)
    yield parts
    parts.close()


async def run_with(parts: MinerParts, phase: Phase, deadline: float = math.inf, validator: str | None = "5V") -> Result:
    parts.use_phase(phase)
    return await parts.run(5, validator, deadline=deadline)


async def test_splats_leave_upright_and_otherwise_as_they_were_generated(parts: MinerParts) -> None:
    result = await parts.run(5)
    original = flip_up_axis(make_asset(Request(None, 5, None, None)).splats)  # type: ignore[arg-type]
    assert (spz.from_bytes(result.data).means - original.means).abs().max() <= 2**-13


async def test_the_phase_may_ask_for_an_extent(parts: MinerParts, config_folder: Path) -> None:
    file = config_folder / "phases" / "phase3.yaml"
    file.write_text(file.read_text() + "\nexport: {extent: 1.5}\n")
    settings = run_settings("--config", str(config_folder / "miner.yaml"))
    result = await run_with(parts, settings.configured.settings)
    means = spz.from_bytes(result.data).means
    sides = means.amax(0) - means.amin(0)
    assert float(sides.max()) == pytest.approx(1.5, abs=2**-12)
    assert float((means.amax(0) + means.amin(0)).abs().max()) <= 2**-11


async def test_splats_too_far_out_for_the_container_are_not_sent(parts: MinerParts) -> None:
    def far_out(request: Request, on_step: object) -> Asset:
        asset = make_asset(request)
        asset.splats.means[0, 0] = 3000.0
        return asset

    parts.generate = far_out
    with pytest.raises(FormatError, match="3000"):
        await parts.run(5)


async def test_too_few_gaussians_are_not_sent(parts: MinerParts) -> None:
    parts.generate = lambda request, on_step: make_asset(request, 6999)
    with pytest.raises(InvalidResult, match="6999"):
        await parts.run(5)


async def test_a_task_of_a_type_without_a_checkpoint_does_not_wait_for_the_generator(parts: MinerParts) -> None:
    task = parts.make_task(5)
    with pytest.raises(UnsupportedPrompt, match="no checkpoint for text tasks"):
        await parts.runner.run(replace(task, prompt=TextPrompt("a chair")))
    assert parts.requests == []


# Tasks without a usable prompt.


@pytest.mark.parametrize(
    ("error", "counter", "level"),
    [
        (PromptError("the prompt is empty"), "PromptError", logging.WARNING),
        (RuntimeError("a bug"), "internal_error", logging.ERROR),
    ],
)
def test_a_declined_task_is_recorded_counted_and_logged(
    parts: MinerParts, phase: Phase, caplog: pytest.LogCaptureFixture, error: Exception, counter: str, level: int
) -> None:
    record = parts.recorder.open("pull", "5V", "t", "image")
    parts.runner.decline("t", record, error)
    (row,) = parts.rows()
    assert (row.task_id, row.phase, row.config_hash) == ("t", "demo", NamedPhase("demo", phase).config_hash)
    assert row.error == f"{type(error).__name__}: {error}"
    assert (row.seed, row.outcome) == (None, None)
    assert row.generated_at is not None
    assert parts.runner.counters == {counter: 1}
    (line,) = [line for line in caplog.records if line.getMessage().startswith("Task t: no result")]
    assert line.levelno == level
    assert parts.requests == []
    assert parts.runner.last_success is None


async def test_a_declined_task_that_comes_again_stays_in_its_row(parts: MinerParts) -> None:
    task = parts.make_task(5)
    assert task.record is not None
    parts.runner.decline(task.id, task.record, PromptError("the prompt is empty"))
    await parts.runner.run(task)
    assert [row.seed for row in parts.rows()] == [5]


# What becomes of errors.


async def test_an_unexpected_error_is_one_of_the_pipeline_to_whoever_waits(
    parts: MinerParts, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(request: Request, on_step: OnStep) -> Asset:
        raise RuntimeError("a bug")

    parts.generate = crash
    with pytest.raises(PipelineError, match="failed unexpectedly"):
        await parts.run(5)
    assert parts.runner.counters == {"internal_error": 1}
    assert "a bug" in caplog.text
    assert [row.error for row in parts.rows()] == ["RuntimeError: a bug"]


async def test_a_task_that_is_given_up_to_stop_has_no_error(parts: MinerParts) -> None:
    def stop(request: Request, on_step: OnStep) -> Asset:
        raise Cancelled("the miner is stopping")

    parts.generate = stop
    with pytest.raises(Cancelled):
        await parts.run(5)
    assert [(row.generated_at, row.error) for row in parts.rows()] == [(None, None)]


# Packing.


@pytest.fixture
def packing(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often splats were encoded and decoded."""
    calls: Counter[str] = Counter()

    def count(name: str) -> None:
        function: Callable[..., object] = getattr(spz, name)

        def counted(*arguments: object, **options: object) -> object:
            calls[name] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(spz, name, counted)

    count("to_bytes")
    count("from_bytes")
    return calls


async def test_a_result_is_packed_and_decoded_once(parts: MinerParts, packing: Counter[str]) -> None:
    await parts.run(5)
    assert packing == {"to_bytes": 1, "from_bytes": 1}


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


# Candidates.


def scored(phase: Phase, count: int = 3, seconds: float = 600.0, **more: object) -> Phase:
    changes = {"candidates": CandidateSettings(count=count, seconds=seconds), "scorer": ScorerSettings(), **more}
    return phase.model_copy(update=changes)


def score_by_seed(parts: MinerParts, qualities: dict[int, float]) -> None:
    parts.score = lambda _: qualities[parts.requests[-1].seed]


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


async def test_the_gate_is_not_for_those_who_judge_nothing(parts: MinerParts, phase: Phase) -> None:
    """A result that is asked for on this machine is delivered with its quality, whatever that is."""
    parts.score = lambda _: 0.1
    result = await run_with(parts, scored(phase, count=1, gate=GateSettings(quality=0.9)), validator=None)
    assert result.score == Score(0.1)
    assert parts.ledger.status.written == 0


# The gate that weighs the chance to pass.

# A margin of 0.02 passes with a chance of one half, and a fifth of the slots end accepted: 29 % suffice.
PASS_MODEL = PassModel({ScoreKind("image", "quality"): Calibration(-1.0, 50.0, 500)}, Slots(2000, 10_000))


@pytest.mark.parametrize(
    ("quality", "threshold", "draw", "gate"),
    [
        (0.84, 0.6, 1.0, "sent"),
        # The same score before a validator that accepts less.
        (0.84, 0.66, 1.0, "withheld"),
        (0.76, 0.6, 1.0, "withheld"),
        (0.76, 0.6, 0.0, "explored"),
        (0.76, None, 1.0, "withheld"),
    ],
)
async def test_auto_sends_what_outweighs_the_penalty_and_records_why(
    parts: MinerParts,
    phase: Phase,
    caplog: pytest.LogCaptureFixture,
    quality: float,
    threshold: float | None,
    draw: float,
    gate: str,
) -> None:
    parts.runner.pass_model, parts.runner.draw = lambda: PASS_MODEL, lambda: draw
    parts.score = lambda _: quality
    parts.use_phase(scored(phase, count=1, gate="auto"))
    task = replace(parts.make_task(5), threshold=threshold)
    with caplog.at_level("INFO", "miner"), nullcontext() if gate != "withheld" else pytest.raises(Withheld):
        await parts.runner.run(task)
    (row,) = parts.rows()
    margin = 0.75 * quality - (threshold or 0.6)
    assert (row.gate, row.threshold, row.submission_bytes is None) == (gate, threshold, gate == "withheld")
    assert row.pass_probability == pytest.approx(1 / (1 + math.exp(1 - 50 * margin)))
    assert ("Withheld: it passes with a chance of" in str(row.error)) == (gate == "withheld")
    assert ("one in 20 such is sent to learn" in caplog.text) == (gate == "explored")


async def test_auto_sends_while_nothing_is_known_and_what_is_pushed(parts: MinerParts, phase: Phase) -> None:
    parts.score = lambda _: 0.1
    parts.use_phase(scored(phase, count=1, gate="auto"))
    await parts.run(5)
    parts.runner.pass_model = lambda: PASS_MODEL
    # Where no cooldown follows, there is nothing to lose.
    await parts.run(6, transport="push")
    await parts.run(7, validator=None)
    assert [(row.gate, row.pass_probability) for row in parts.rows()] == [("sent", None), (None, None)]


async def test_a_limit_is_recorded_without_a_chance(parts: MinerParts, phase: Phase) -> None:
    parts.score = lambda _: 0.5
    parts.use_phase(scored(phase, count=1, gate=GateSettings(quality=0.4)))
    await parts.run(5)
    parts.use_phase(scored(phase, count=1, gate=GateSettings(quality=0.6)))
    with pytest.raises(Withheld):
        await parts.run(6)
    assert [(row.gate, row.pass_probability) for row in parts.rows()] == [("sent", None), ("withheld", None)]
