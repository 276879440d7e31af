"""What pulled tasks leave in the ledger, and what the gate keeps from the validator."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
import threading
from contextlib import closing

import pytest
import pytest_asyncio

from miner.config.phase import CandidateSettings, GateSettings, Phase, ScorerSettings
from miner.config.phase_files import NamedPhase
from miner.subnet.protocol import ImageTask, TextTask
from pipeline import Asset, OnStep, OutOfMemory, Request, Splats
from pipeline.scoring.best_of_n import candidate_seed
from pipeline.splats.statistics import compute_statistics
from tests.support.factories import instant_generate, make_asset
from tests.support.pulling import TIMEOUT, Bench, Held, make_bench, until

bench = pytest_asyncio.fixture(make_bench)


# What the ledger is told.


async def test_an_accepted_task_is_in_the_ledger_from_assignment_to_feedback(bench: Bench, phase: Phase) -> None:
    bench.give("a")
    bench.update()
    await bench.time.next_sleep()
    (row,) = bench.rows()
    assert (row.transport, row.validator, row.uid, row.task_id) == ("pull", bench.validator.hotkey, 0, "a")
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
    assert (row.gaussians, row.all_seeds) == (7000, (row.seed,))
    (delivery,) = bench.validator.deliveries
    assert delivery.splats is not None
    assert row.submission_bytes == len(base64.b64encode(delivery.data))
    expected = compute_statistics(make_asset(Request(None, row.seed, None, None)).splats)  # type: ignore[arg-type]
    assert (row.density_max, row.opacity_min) == (expected.density_max, pytest.approx(expected.opacity_min))
    assert row.volume == pytest.approx(expected.volume)
    assert (row.outcome, row.score, row.submissions, row.error) == ("accepted", 0.9, 1, None)
    assert row.cooldown_until == bench.state.cooldown_until


@pytest.mark.parametrize(("score", "outcome"), [(0.59, "rejected"), (None, "not_validated")])
async def test_a_result_without_a_score_has_none_in_the_ledger(bench: Bench, score: float | None, outcome: str) -> None:
    bench.validator.score = score
    bench.give("a")
    bench.update()
    await bench.time.next_sleep()
    (row,) = bench.rows()
    assert (row.outcome, row.score, row.gaussians) == (outcome, None, 7000)


async def test_a_failed_task_is_in_the_ledger_with_its_error(bench: Bench) -> None:
    bench.validator.add_tasks([ImageTask(id="x", prompt="???"), TextTask(id="y", prompt="a chair")])
    bench.update()
    await bench.time.pass_sleep()
    await bench.time.next_sleep()
    first, second = bench.rows()
    assert (first.task_id, first.outcome, first.gaussians) == ("x", "skipped", None)
    assert first.error is not None
    assert first.error.startswith("PromptError: ")
    assert (second.task_type, second.outcome) == ("text", "skipped")
    assert second.error == "UnsupportedPrompt: the phase has no checkpoint for text tasks"


async def test_the_lock_and_the_verdict_after_it_are_one_row(bench: Bench) -> None:
    def lock(request: Request, on_step: OnStep) -> Asset:
        bench.state.locked_until = int(bench.time.wall()) + 30
        return make_asset(request)

    bench.generate = lock
    bench.give("a")
    bench.update()
    await bench.time.next_sleep()
    assert [(row.outcome, row.submissions) for row in bench.rows()] == [("still_open", 1)]
    bench.time.wake()
    await bench.time.next_sleep()
    assert [(row.outcome, row.submissions) for row in bench.rows()] == [("accepted", 2)]


async def test_a_cooldown_settles_a_submission_of_unknown_fate_in_the_ledger_too(bench: Bench) -> None:
    answer = threading.Event()
    bench.validator.checking = lambda: answer.wait(TIMEOUT)
    bench.submit_timeout = 0.5
    bench.start_again()
    bench.give("a")
    bench.update()
    await bench.time.next_sleep()
    assert [row.outcome for row in bench.rows()] == ["unknown"]
    answer.set()
    await until(lambda: bool(bench.verdicts))
    bench.time.wake()
    await bench.time.next_sleep()
    (row,) = bench.rows()
    assert (row.outcome, row.score, row.cooldown_until) == (
        "closed_without_a_score",
        None,
        bench.state.cooldown_until,
    )


async def test_a_task_handed_back_after_our_restart_goes_on_in_its_row(bench: Bench) -> None:
    held = bench.generate = Held()
    bench.give("a")
    bench.update()
    await held.begins()
    (before,) = bench.rows()
    assert (before.generated_at, before.outcome) == (None, None)
    await bench.puller.stop()
    held.release.set()
    bench.generate = instant_generate
    bench.start_again()
    bench.update()
    await until(lambda: bench.runner.counters["accepted"] == 1)
    (row,) = bench.rows()
    assert (row.key, row.assigned_at, row.outcome) == (before.key, before.assigned_at, "accepted")


async def test_a_locked_ledger_holds_up_no_task(bench: Bench) -> None:
    bench.give("a", "b", "c")
    bench.update()
    await bench.time.next_sleep()
    assert bench.ledger.flush(TIMEOUT)
    with closing(sqlite3.connect(bench.ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        bench.time.wake()
        await bench.time.pass_sleep()
        await bench.time.next_sleep()
        assert bench.verdicts == [("a", "valid"), ("b", "valid"), ("c", "valid")]
        other.execute("ROLLBACK")
    await asyncio.to_thread(bench.ledger.flush, TIMEOUT)
    assert [row.outcome for row in bench.rows()] == ["accepted"] * 3


# Quality.


def gated(phase: Phase, quality: float, count: int = 1) -> Phase:
    candidates = CandidateSettings(count=count, seconds=600.0)
    changes = {"candidates": candidates, "scorer": ScorerSettings(), "gate": GateSettings(quality=quality)}
    return phase.model_copy(update=changes)


async def test_a_result_below_the_gate_is_answered_with_the_signed_empty_result(
    bench: Bench, phase: Phase, caplog: pytest.LogCaptureFixture
) -> None:
    """No penalty: the next task comes after the plain cooldown, and no result was seen by the validator."""
    qualities = iter([0.41, 0.55, 0.3, 0.7])
    bench.score = lambda splats: next(qualities)
    bench.run_phase(gated(phase, 0.6, count=2))
    bench.give("low", "high")
    bench.update()
    with caplog.at_level("INFO", "miner"):
        assert 299 <= await bench.time.pass_sleep() <= 303
        await bench.time.next_sleep()
    assert bench.verdicts == [("low", "skipped"), ("high", "valid")]
    assert bench.violations == 0
    assert bench.runner.counters == {"pulled": 2, "Withheld": 1, "generated": 1, "skipped": 1, "accepted": 1}
    low = "Task low: no result, Withheld: the best of 2 has quality 0.550, the phase's gate asks for 0.6"
    assert low in caplog.text
    assert "Task low: empty result submitted to validator 0" in caplog.text
    withheld, sent = bench.rows()
    assert (withheld.outcome, withheld.local_score, withheld.submission_bytes) == ("skipped", 0.55, None)
    assert withheld.gaussians == 7000
    assert withheld.error is not None
    assert withheld.error.startswith("Withheld: the best of 2 has quality 0.550")
    assert (sent.outcome, sent.local_score, sent.error) == ("accepted", 0.7, None)
    for row, told in ((withheld, [0.41, 0.55]), (sent, [0.3, 0.7])):
        assert [candidate["quality"] for candidate in row.all_candidates] == told
        assert row.all_seeds == tuple(candidate["seed"] for candidate in row.all_candidates)
        assert row.seed == row.all_seeds[1] == candidate_seed(row.all_seeds[0], 1)
        assert all(candidate["seconds"] >= 0 and not candidate["problem"] for candidate in row.all_candidates)


async def test_what_could_not_be_scored_passes_the_gate(bench: Bench, phase: Phase) -> None:
    def fail(_: Splats) -> float:
        raise OutOfMemory("no room to score")

    bench.score = fail
    bench.run_phase(gated(phase, 0.6))
    bench.give("a")
    bench.update()
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "valid")]
    (row,) = bench.rows()
    assert (row.local_score, row.all_candidates[0]["problem"]) == (None, "not scored, OutOfMemory: no room to score")
