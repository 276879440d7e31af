"""The gate, as tasks meet it."""

import math
from contextlib import nullcontext
from dataclasses import replace

import pytest

from miner.analytics.calibration import Calibration
from miner.analytics.pass_model import PassModel, ScoreKind
from miner.analytics.slots import Slots
from miner.config.choice_sections import GateSettings
from miner.config.phase import Phase
from miner.tasks.task import Withheld
from pipeline import (
    Score,
)
from tests.support.miner_parts import MinerParts
from tests.support.running import run_with, scored


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
