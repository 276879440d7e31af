"""What the report tells of the chance to pass and of the gate."""

import numpy as np
import pytest

from miner.analytics.calibration import Calibration
from miner.analytics.gate_summary import GateSummary, summarise_gate
from miner.analytics.pass_model import MIN_OUTCOMES
from miner.analytics.slots import Slots
from miner.ledger.outcomes import Outcome
from miner.ledger.reader import TaskRow
from tests.support.task_rows import NOW, task_row

TRUTH = Calibration(-0.5, 40.0)


def judged(number: int, margin: float, accepted: bool, **changes: object) -> TaskRow:
    outcome = Outcome.ACCEPTED if accepted else Outcome.REJECTED
    return task_row(number, outcome, **({"estimated_score": 0.6 + margin, "threshold": 0.6} | changes))


def test_a_calibration_is_held_against_its_outcomes() -> None:
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 0.05, 2000).tolist()
    tasks = [judged(n, margin, bool(rng.random() < TRUTH.chance(margin))) for n, margin in enumerate(margins)]
    tasks += [judged(2000 + n, 0.1, True, task_type="text") for n in range(MIN_OUTCOMES - 1)]
    image, text = summarise_gate(tasks, NOW).calibrations
    assert image.kind == ("image", "score")
    assert image.even_margin == pytest.approx(0.0125, abs=0.004)
    accepted = sum(task.outcome == Outcome.ACCEPTED for task in tasks[:2000])
    assert sum(found.total for found in image.bins) == 2000
    assert sum(found.passed for found in image.bins) == accepted
    assert image.brier_of_mean == pytest.approx(accepted / 2000 * (1 - accepted / 2000))
    expected = np.mean([TRUTH.chance(margin) * (1 - TRUTH.chance(margin)) for margin in margins])
    assert image.brier == pytest.approx(expected, abs=0.01)
    assert (text.kind, text.bins, text.calibration.outcomes) == (("text", "score"), (), MIN_OUTCOMES - 1)


def test_the_gate_s_decisions_are_counted_by_type() -> None:
    tasks = [
        judged(1, 0.1, True, gate="sent", pass_probability=0.9),
        judged(2, 0.05, False, gate="sent", pass_probability=0.6),
        judged(3, -0.05, True, gate="explored", pass_probability=0.1),
        judged(4, -0.05, False, gate="explored", pass_probability=0.1),
        task_row(5, None, gate="explored", pass_probability=0.2),
        *(task_row(n, Outcome.SKIPPED, gate="withheld", pass_probability=0.05) for n in range(6, 9)),
        judged(9, 0.1, True, gate="sent", task_type="text"),
        judged(10, 0.1, True, phase="baseline"),
    ]
    image, text = (summary := summarise_gate(tasks, tasks[-1].assigned_at)).counts
    assert (image.task_type, image.sent, image.withheld, image.explored) == ("image", 2, 3, 3)
    assert (image.accepted, image.judged, image.foretold) == (1, 2, 4)
    assert image.brier == pytest.approx((0.01 + 0.36 + 0.81 + 0.01) / 4)
    assert (text.task_type, text.sent, text.withheld, text.foretold, text.brier) == ("text", 1, 0, 0, None)
    assert summary.slots == Slots(4, 4 + 3 + 2 * 3)
    assert dict(summary.phases) == {"phase3 1a2b3c4d": Slots(3, 3 + 3 + 2 * 3), "baseline 1a2b3c4d": Slots(1, 1)}


def test_without_scores_and_gates_there_is_nothing_to_tell() -> None:
    tasks = [task_row(1, Outcome.ACCEPTED), task_row(2, None)]
    assert summarise_gate(tasks, NOW) == GateSummary((), (), Slots(), ())
