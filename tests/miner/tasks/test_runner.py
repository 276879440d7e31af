import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from miner.config.phase import Phase
from miner.config.phase_files import NamedPhase
from miner.tasks.task import InvalidResult
from pipeline import (
    Asset,
    Cancelled,
    FormatError,
    OnStep,
    PipelineError,
    PromptError,
    Request,
    TextPrompt,
    UnsupportedPrompt,
    flip_up_axis,
    spz,
)
from tests.support.factories import run_settings
from tests.support.generated import make_asset
from tests.support.miner_parts import MinerParts
from tests.support.running import run_with


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


async def test_a_result_is_packed_and_decoded_once(parts: MinerParts, packing: Counter[str]) -> None:
    await parts.run(5)
    assert packing == {"to_bytes": 1, "from_bytes": 1}
