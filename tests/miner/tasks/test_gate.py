"""The gate's decisions, against limits and against an oracle that knows the chance to pass."""

import math

import numpy as np
import pytest

from miner.analytics.calibration import Calibration
from miner.analytics.pass_model import PassModel, ScoreKind, learn_pass_model
from miner.analytics.slots import Slots, break_even_chance
from miner.config.choice_sections import GateSettings
from miner.ledger.outcomes import Outcome
from miner.tasks.gate import EXPLORED_SHARE, GateDecision, decide_by_chance, decide_by_limit
from pipeline import Score
from tests.support.task_rows import task_row

# Half of the results pass at a margin of 0.02; a fifth of the slots end accepted.
TRUTH = Calibration(-1.0, 50.0, 500)
MODEL = PassModel({ScoreKind("image", "score"): TRUTH}, Slots(accepted=2000, total=10_000))
NEVER, ALWAYS = 1.0, 0.0


def whole(total: float) -> Score:
    """A score with this total, but for what ssim and lpips add, some 1e-13."""
    return Score(quality=(total - 0.2) / 0.75, alignment=1.0, ssim=0.0, lpips=0.0)


def auto(score: Score | None, model: PassModel | None = MODEL, draw: float = NEVER) -> GateDecision:
    return decide_by_chance(model, "image", score, 0.6, draw)


@pytest.mark.parametrize(
    ("score", "gate", "candidates", "verdict", "reason"),
    [
        (Score(0.55), GateSettings(quality=0.6), 2, "withheld", "the best of 2 has quality 0.550, the phase's gate as"),
        (Score(0.55), GateSettings(quality=0.6), 1, "withheld", "it has quality 0.550, the phase's gate asks for 0.6"),
        (Score(0.6), GateSettings(quality=0.6), 1, "sent", "it has quality 0.600"),
        (Score(math.nan), GateSettings(quality=0.6), 1, "withheld", "quality nan"),
        (whole(0.59), GateSettings(score=0.6), 1, "withheld", "it has score 0.590, the phase's gate asks for 0.6"),
        (whole(0.61), GateSettings(score=0.6), 1, "sent", "it has score 0.610"),
        # What is not known is no reason.
        (Score(0.1), GateSettings(score=0.6), 1, "sent", "its score is not known"),
        (None, GateSettings(quality=0.6), 1, "sent", "its quality is not known"),
    ],
)
def test_a_limit(score: Score | None, gate: GateSettings, candidates: int, verdict: str, reason: str) -> None:
    decision = decide_by_limit(gate, score, candidates)
    assert (decision.verdict, decision.pass_probability) == (verdict, None)
    assert reason in decision.reason
    assert decision.is_sent == (verdict == "sent")


def test_what_outweighs_the_penalty_is_sent() -> None:
    enough = break_even_chance(MODEL.slots.share)
    assert enough == pytest.approx(2 / 7, abs=1e-3)
    for margin in np.linspace(-0.1, 0.1, 41).tolist():
        decision = auto(whole(0.6 + margin))
        assert decision.pass_probability == pytest.approx(TRUTH.chance(margin), abs=1e-6)
        assert decision.verdict == ("sent" if TRUTH.chance(margin) > enough else "withheld")
    parts = "quality 0.520, alignment 1.000, ssim 0.000, lpips 0.000, score 0.590"
    assert auto(whole(0.59)).reason == f"it passes with a chance of 18 % ({parts}), and sending pays from 29 % on"


def test_one_in_twenty_of_those_to_withhold_is_sent_to_learn() -> None:
    draws = np.random.default_rng(0).random(5000).tolist()
    verdicts = [auto(whole(0.55), draw=draw).verdict for draw in draws]
    assert set(verdicts) == {"withheld", "explored"}
    assert verdicts.count("explored") / len(verdicts) == pytest.approx(EXPLORED_SHARE, abs=0.01)
    explored = auto(whole(0.55), draw=ALWAYS)
    assert explored.is_sent
    assert explored.reason.endswith("sending pays from 29 % on; one in 20 such is sent to learn")
    # What is to be sent anyway is not marked.
    assert auto(whole(0.7), draw=ALWAYS).verdict == "sent"


@pytest.mark.parametrize(
    ("score", "model", "reason"),
    [
        (whole(0.1), None, "the outcomes so far are not known"),
        (None, MODEL, "it has no score"),
        (Score(ssim=0.9, lpips=0.9), MODEL, "it has no score"),
        (Score(quality=0.1), MODEL, "too few outcomes tell what its quality means"),
    ],
)
def test_what_cannot_be_told_is_sent(score: Score | None, model: PassModel | None, reason: str) -> None:
    assert auto(score, model, draw=NEVER) == GateDecision("sent", reason)


def test_a_score_that_is_no_number_does_not_pass() -> None:
    decision = auto(Score(math.nan, 1.0, 0.9, 0.9))
    assert (decision.verdict, decision.pass_probability) == ("withheld", 0.0)


def test_learnt_decisions_are_those_of_an_oracle_but_for_what_hardly_matters() -> None:
    """Where the learnt gate decides otherwise, the chance is next to the one from which sending pays."""
    rng = np.random.default_rng(5)
    margins = rng.normal(0.01, 0.05, 1500)
    passed = rng.random(1500) < TRUTH.predict(margins)
    tasks = [
        task_row(number, Outcome.ACCEPTED if ok else Outcome.REJECTED, estimated_score=0.6 + margin, threshold=0.6)
        for number, (margin, ok) in enumerate(zip(margins.tolist(), passed.tolist(), strict=True))
    ]
    model = learn_pass_model(tasks, tasks[-1].assigned_at)
    enough = break_even_chance(model.slots.share)
    differ = 0
    for margin in rng.normal(0.01, 0.05, 1000).tolist():
        chance, decision = TRUTH.chance(margin), auto(whole(0.6 + margin), model)
        if (decision.verdict == "sent") != (chance > enough):
            differ += 1
            assert chance == pytest.approx(enough, abs=0.05)
    assert differ < 40
