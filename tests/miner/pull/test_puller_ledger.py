"""What pulled tasks leave in the ledger, and what the gate keeps from the validator."""

import asyncio
import base64
import sqlite3
import threading
from contextlib import closing

import pytest

from miner.analytics.calibration import Calibration
from miner.analytics.pass_model import PassModel, ScoreKind
from miner.analytics.slots import Slots
from miner.config.choice_sections import CandidateSettings, GateSettings, ScorerSettings
from miner.config.phase import Phase
from miner.config.phase_files import NamedPhase
from miner.localnet.validator_rules import ValidatorTiming
from miner.subnet.metagraph import Snapshot
from miner.subnet.protocol import ImageTask, TextTask
from pipeline import Asset, OnStep, OutOfMemory, Prompt, Request, Splats
from pipeline.scoring.best_of_n import candidate_seed
from pipeline.splats.statistics import compute_statistics
from tests.support.generated import instant_generate, make_asset
from tests.support.miner_parts import UID, HeldGeneration
from tests.support.pulling import PullingMiner
from tests.support.task_rows import candidates_of, seeds_of
from tests.support.waiting import TIMEOUT, until

# What the ledger is told.


async def test_an_accepted_task_is_in_the_ledger_from_assignment_to_feedback(miner: PullingMiner, phase: Phase) -> None:
    miner.give("a")
    miner.update()
    await miner.time.next_sleep()
    (row,) = miner.rows()
    assert (row.transport, row.validator, row.uid, row.task_id) == ("pull", miner.validator.hotkey, UID, "a")
    assert (row.task_type, row.phase, row.code_version) == ("image", "demo", "1.0")
    assert row.config_hash == NamedPhase("demo", phase).config_hash
    assert row.generated_at is not None
    assert row.answered_at is not None
    assert row.assigned_at <= row.generated_at <= row.answered_at
    assert row.seconds == {
        "background": 0.25,
        "conditioning": 0.25,
        "structure": 0.25,
        "latents": 0.25,
        "gaussians": 0.25,
    }
    assert (row.gaussians, seeds_of(row)) == (7000, (row.seed,))
    (delivery,) = miner.validator.deliveries
    assert delivery.splats is not None
    assert row.submission_bytes == len(base64.b64encode(delivery.data))
    expected = compute_statistics(make_asset(Request(None, row.seed, None, None)).splats)  # type: ignore[arg-type]
    assert row.density_max == expected.density_max
    assert (row.opacity_min, row.volume) == pytest.approx((expected.opacity_min, expected.volume))
    assert (row.outcome, row.score, row.submissions, row.error) == ("accepted", 0.9, 1, None)
    assert row.cooldown_until == miner.state.cooldown_until


@pytest.mark.parametrize(("score", "outcome"), [(0.59, "rejected"), (None, "not_validated")])
async def test_a_result_without_a_score_has_none_in_the_ledger(
    miner: PullingMiner, score: float | None, outcome: str
) -> None:
    miner.validator.score = score
    miner.give("a")
    miner.update()
    await miner.time.next_sleep()
    (row,) = miner.rows()
    assert (row.outcome, row.score, row.gaussians) == (outcome, None, 7000)


async def test_a_failed_task_is_in_the_ledger_with_its_error(miner: PullingMiner) -> None:
    miner.validator.add_tasks([ImageTask(id="x", prompt="???"), TextTask(id="y", prompt="a chair")])
    miner.update()
    await miner.time.pass_sleep()
    await miner.time.next_sleep()
    first, second = miner.rows()
    assert (first.task_id, first.outcome, first.gaussians) == ("x", "skipped", None)
    assert first.error is not None
    assert first.error.startswith("PromptError: ")
    assert (second.task_type, second.outcome) == ("text", "skipped")
    assert second.error == "UnsupportedPrompt: the phase has no checkpoint for text tasks"


async def test_a_prompt_that_breaks_the_decoder_costs_one_task(
    miner: PullingMiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> Prompt:
        raise RuntimeError("a bug")

    monkeypatch.setattr(miner.runner.decoder, "decode", crash)
    miner.give("a")
    miner.update()
    await miner.time.next_sleep()
    assert miner.verdicts == [("a", "skipped")]
    assert miner.runner.counters == {"pulled": 1, "internal_error": 1, "skipped": 1}
    (row,) = miner.rows()
    assert (row.outcome, row.error) == ("skipped", "RuntimeError: a bug")
    assert not miner.supervisor.restarts


async def test_the_lock_and_the_verdict_after_it_are_one_row(miner: PullingMiner) -> None:
    def lock(request: Request, on_step: OnStep) -> Asset:
        miner.state.locked_until = int(miner.time.wall()) + 30
        return make_asset(request)

    miner.generate = lock
    miner.give("a")
    miner.update()
    await miner.time.next_sleep()
    assert [(row.outcome, row.submissions) for row in miner.rows()] == [("still_open", 1)]
    miner.time.wake()
    await miner.time.next_sleep()
    assert [(row.outcome, row.submissions) for row in miner.rows()] == [("accepted", 2)]


async def test_a_cooldown_settles_a_submission_of_unknown_fate_in_the_ledger_too(miner: PullingMiner) -> None:
    answer = threading.Event()
    miner.validator.checking = lambda: answer.wait(TIMEOUT)
    miner.submit_timeout = 0.5
    miner.start_again()
    miner.give("a")
    miner.update()
    await miner.time.next_sleep()
    assert [row.outcome for row in miner.rows()] == ["unknown"]
    answer.set()
    await until(lambda: bool(miner.verdicts))
    miner.time.wake()
    await miner.time.next_sleep()
    (row,) = miner.rows()
    assert (row.outcome, row.score, row.cooldown_until) == (
        "closed_without_a_score",
        None,
        miner.state.cooldown_until,
    )


async def test_a_result_judged_after_a_time_out_is_no_task_that_nobody_took(miner: PullingMiner) -> None:
    """It is handed back while it is still being judged, and no longer held when it is sent again."""
    judged = threading.Event()
    miner.validator.checking = lambda: judged.wait(TIMEOUT)
    miner.submit_timeout = 0.5
    miner.start_again()
    miner.give("a")
    miner.update()
    await miner.time.pass_sleep()
    await miner.time.next_sleep()
    judged.set()
    await until(lambda: miner.verdicts == [("a", "valid")])
    miner.time.wake()
    assert await miner.time.next_sleep() < 5
    (row,) = miner.rows()
    assert (row.outcome, row.submissions) == ("unknown", 2)
    miner.time.wake()
    await miner.time.next_sleep()
    (row,) = miner.rows()
    assert (row.outcome, row.score) == ("closed_without_a_score", None)


async def test_a_task_handed_back_after_our_restart_goes_on_in_its_row(miner: PullingMiner) -> None:
    held = miner.generate = HeldGeneration()
    miner.give("a")
    miner.update()
    await held.begins()
    (before,) = miner.rows()
    assert (before.generated_at, before.outcome) == (None, None)
    await miner.puller.stop()
    held.release()
    miner.generate = instant_generate
    miner.start_again()
    miner.update()
    await until(lambda: miner.runner.counters["accepted"] == 1)
    (row,) = miner.rows()
    assert (row.key, row.assigned_at, row.outcome) == (before.key, before.assigned_at, "accepted")


async def test_a_locked_ledger_holds_up_no_task(miner: PullingMiner) -> None:
    miner.give("a", "b", "c")
    miner.update()
    await miner.time.next_sleep()
    assert miner.ledger.flush(TIMEOUT)
    with closing(sqlite3.connect(miner.ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        miner.time.wake()
        await miner.time.pass_sleep()
        await miner.time.next_sleep()
        assert miner.verdicts == [("a", "valid"), ("b", "valid"), ("c", "valid")]
        other.execute("ROLLBACK")
    await asyncio.to_thread(miner.ledger.flush, TIMEOUT)
    assert [row.outcome for row in miner.rows()] == ["accepted"] * 3


# Quality.


def gated(phase: Phase, quality: float, count: int = 1) -> Phase:
    candidates = CandidateSettings(count=count, seconds=600.0)
    changes = {"candidates": candidates, "scorer": ScorerSettings(), "gate": GateSettings(quality=quality)}
    return phase.model_copy(update=changes)


async def test_a_result_below_the_gate_is_answered_with_the_signed_empty_result(
    miner: PullingMiner, phase: Phase, caplog: pytest.LogCaptureFixture
) -> None:
    """No penalty: the next task comes after the plain cooldown, and no result was seen by the validator."""
    qualities = iter([0.41, 0.55, 0.3, 0.7])
    miner.score = lambda splats: next(qualities)
    miner.use_phase(gated(phase, 0.6, count=2))
    miner.give("low", "high")
    miner.update()
    with caplog.at_level("INFO", "miner"):
        assert 299 <= await miner.time.pass_sleep() <= 303
        await miner.time.next_sleep()
    assert miner.verdicts == [("low", "skipped"), ("high", "valid")]
    assert miner.violations == 0
    assert miner.runner.counters == {"pulled": 2, "Withheld": 1, "generated": 1, "skipped": 1, "accepted": 1}
    low = "Task low: no result, Withheld: the best of 2 has quality 0.550, the phase's gate asks for 0.6"
    assert low in caplog.text
    assert "Task low: empty result submitted to validator 0" in caplog.text
    withheld, sent = miner.rows()
    assert (withheld.outcome, withheld.quality, withheld.submission_bytes) == ("skipped", 0.55, None)
    assert withheld.gaussians == 7000
    assert withheld.error is not None
    assert withheld.error.startswith("Withheld: the best of 2 has quality 0.550")
    assert (sent.outcome, sent.quality, sent.error) == ("accepted", 0.7, None)
    for row, told in ((withheld, [0.41, 0.55]), (sent, [0.3, 0.7])):
        assert [candidate["quality"] for candidate in candidates_of(row)] == told
        assert seeds_of(row) == tuple(candidate["seed"] for candidate in candidates_of(row))
        assert row.seed == seeds_of(row)[1] == candidate_seed(seeds_of(row)[0], 1)
        assert all(candidate["seconds"] >= 0 and not candidate["problem"] for candidate in candidates_of(row))


async def test_auto_weighs_the_chance_to_pass_the_validators_own_threshold(miner: PullingMiner, phase: Phase) -> None:
    """At the subnet's threshold the result would be sent; this validator accepts less."""
    calibration = Calibration(intercept=0.0, slope=50.0, outcomes=100)
    model = PassModel({ScoreKind("image", "quality"): calibration}, Slots(500, 1000))
    miner.runner.pass_model, miner.runner.draw = lambda: model, lambda: 0.9
    qualities = iter([0.82, 0.96])
    miner.score = lambda splats: next(qualities)
    miner.validator.rules.timing = ValidatorTiming(quality_threshold=0.7)
    miner.use_phase(gated(phase, 0.6).model_copy(update={"gate": "auto"}))
    miner.give("low", "high")
    miner.update()
    assert 299 <= await miner.time.pass_sleep() <= 303
    await miner.time.next_sleep()
    assert miner.verdicts == [("low", "skipped"), ("high", "valid")]
    withheld, sent = miner.rows()
    assert (withheld.outcome, withheld.gate, withheld.threshold) == ("skipped", "withheld", 0.7)
    told = "Withheld: it passes with a chance of 1 % (quality 0.820), and sending pays from 50 % on"
    assert withheld.error == told
    assert (sent.outcome, sent.gate, sent.threshold) == ("accepted", "sent", 0.7)
    assert sent.pass_probability == pytest.approx(calibration.chance(0.75 * 0.96 - 0.7))


async def test_what_could_not_be_scored_passes_the_gate(miner: PullingMiner, phase: Phase) -> None:
    def fail(_: Splats) -> float:
        raise OutOfMemory("no room to score")

    miner.score = fail
    miner.use_phase(gated(phase, 0.6))
    miner.give("a")
    miner.update()
    await miner.time.next_sleep()
    assert miner.verdicts == [("a", "valid")]
    (row,) = miner.rows()
    assert (row.quality, candidates_of(row)[0]["problem"]) == (None, "not scored, OutOfMemory: no room to score")


async def test_a_validator_that_was_gone_for_a_while_settles_its_submission(miner: PullingMiner) -> None:
    answer = threading.Event()
    miner.validator.checking = lambda: answer.wait(TIMEOUT)
    miner.submit_timeout = 0.5
    miner.start_again()
    miner.give("a")
    miner.update()
    await miner.time.next_sleep()
    assert [row.outcome for row in miner.rows()] == ["unknown"]
    for _ in range(2):
        miner.puller.update(Snapshot(17, 1, ()))
    answer.set()
    await until(lambda: bool(miner.verdicts))
    miner.time.passed += 60
    miner.update()
    await miner.time.next_sleep()
    assert [row.outcome for row in miner.rows()] == ["closed_without_a_score"]
