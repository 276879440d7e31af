"""What the ledger tells of the chance to pass."""

import math

import numpy as np
import pytest

from miner.analytics.calibration import Calibration
from miner.analytics.pass_model import (
    DEFAULT_THRESHOLD,
    MAX_OUTCOMES,
    MIN_OUTCOMES,
    PASS_MODEL_COLUMNS,
    WHOLE_PRIOR,
    Measured,
    PassModel,
    ScoreKind,
    collect_outcomes,
    learn_pass_model,
    measure,
)
from miner.analytics.slots import Slots
from miner.ledger.outcomes import Outcome
from miner.ledger.reader import TaskRow
from tests.support.task_rows import NOW, task_row

IMAGE, TEXT = ScoreKind("image", "score"), ScoreKind("text", "score")
QUALITY = ScoreKind("image", "quality")


def scored(number: int, score: float, accepted: bool, **changes: object) -> TaskRow:
    """A result with its whole score."""
    outcome = Outcome.ACCEPTED if accepted else Outcome.REJECTED
    parts = {"quality": 0.5, "alignment": 0.9, "ssim": 0.8, "lpips": 0.7, "estimated_score": score, "threshold": 0.6}
    return task_row(number, outcome, **(parts | changes))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((0.5, 0.9, 0.58), ("score", 0.58)),
        ((0.5, 0.9, None), ("quality and alignment", 0.555)),
        ((0.5, None, None), ("quality", 0.375)),
        ((None, 0.9, None), ("alignment", 0.18)),
    ],
)
def test_scores_of_different_parts_are_different_kinds(
    parts: tuple[float | None, float | None, float | None], expected: tuple[str, float]
) -> None:
    measured = measure("text", *parts)
    assert measured is not None
    assert measured.kind == ("text", expected[0])
    assert measured.value == pytest.approx(expected[1])
    assert measure("text", None, None, None) is None


@pytest.mark.parametrize(("told", "accepted"), [(0.01, False), (0.3, False), (1.4, True)])
def test_a_validator_that_tells_a_false_threshold_does_not_decide_what_others_are_sent(
    told: float, accepted: bool
) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0.55, 0.06, 400)
    honest = [
        scored(number, score, bool(rng.random() < 1 / (1 + math.exp(-40 * (score - 0.6)))), validator=f"5V{number % 4}")
        for number, score in enumerate(scores.tolist())
    ]
    # Most of the tasks are its own.
    liar = [scored(400 + number, 0.55, accepted, validator="5Liar", threshold=told) for number in range(500)]
    good = Measured(IMAGE, 0.66)
    expected = learn_pass_model(honest, NOW).chance(good, 0.6)
    assert expected is not None
    assert expected > 0.8
    assert learn_pass_model([*honest, *liar], NOW).chance(good, 0.6) == expected
    # Nor does it if there are only two of them.
    two = [task._replace(validator="5V0") for task in honest]
    assert learn_pass_model([*two, *liar], NOW).chance(good, 0.6) == expected


def test_a_threshold_that_most_validators_tell_is_learnt_from() -> None:
    tasks = [scored(number, 0.78, True, validator=f"5V{number}", threshold=0.75) for number in range(3)]
    assert len(collect_outcomes(tasks)[IMAGE].margins) == 3
    assert len(collect_outcomes(tasks[:1])[IMAGE].margins) == 1


def test_only_judged_results_with_a_score_are_outcomes_and_kinds_are_not_mixed() -> None:
    tasks = [
        scored(1, 0.65, True),
        scored(2, 0.55, False, gate="explored"),
        scored(3, 0.65, False, threshold=0.64),
        scored(4, 0.62, True, threshold=None),
        scored(5, 0.62, True, task_type="text"),
        scored(6, 0.62, True, estimated_score=None, alignment=None),
        *(task_row(7 + n, outcome, estimated_score=0.9) for n, outcome in enumerate([*Outcome, None]) if n > 1),
        task_row(20, Outcome.ACCEPTED),
    ]
    found = collect_outcomes(tasks)
    assert list(found) == [QUALITY, IMAGE, TEXT]
    # The latest first; without a threshold, the subnet's.
    assert found[IMAGE].margins == pytest.approx([0.02, 0.01, -0.05, 0.05])
    assert found[IMAGE].passed.tolist() == [True, False, False, True]
    assert found[QUALITY].margins == pytest.approx([0.375 - DEFAULT_THRESHOLD])


def test_old_outcomes_are_forgotten() -> None:
    tasks = [scored(n, 0.7, accepted=n >= 500) for n in range(500 + MAX_OUTCOMES)]
    outcomes = collect_outcomes(tasks)[IMAGE]
    assert (len(outcomes.passed), bool(outcomes.passed.all())) == (MAX_OUTCOMES, True)


def test_the_chance_is_learnt_of_each_kind() -> None:
    rng = np.random.default_rng(1)
    truths = {"image": Calibration(1.0, 60.0), "text": Calibration(-1.0, 25.0)}
    tasks = []
    for number, score in enumerate(rng.normal(0.6, 0.05, 3000).tolist()):
        task_type = "image" if number % 2 else "text"
        accepted = bool(rng.random() < truths[task_type].chance(score - 0.6))
        tasks.append(scored(number, score, accepted, task_type=task_type))
    model = learn_pass_model(tasks, tasks[-1].assigned_at)
    for task_type, truth in truths.items():
        for threshold in (0.6, 0.65):
            chance = model.chance(Measured(ScoreKind(task_type, "score"), 0.62), threshold)
            assert chance == pytest.approx(truth.chance(0.62 - threshold), abs=0.06)
    assert 0 < model.slots.share < 0.5


def test_before_there_are_outcomes_a_whole_score_is_believed_and_a_part_is_not() -> None:
    empty = learn_pass_model([], NOW)
    assert empty == PassModel({}, Slots())
    assert empty.chance(Measured(IMAGE, 0.6), 0.6) == 0.5
    assert empty.chance(Measured(IMAGE, 0.55), None) == pytest.approx(1 / (1 + math.exp(0.05 * WHOLE_PRIOR.slope.mean)))
    assert empty.chance(Measured(QUALITY, 0.9), 0.6) is None
    part = {"estimated_score": None, "alignment": None}
    tasks = [scored(n, 0, accepted=n % 2 == 0, quality=0.6 + 0.1 * (n % 2 == 0), **part) for n in range(MIN_OUTCOMES)]
    assert learn_pass_model(tasks[1:], NOW).chance(Measured(QUALITY, 0.75 * 0.7), 0.6) is None
    model = learn_pass_model(tasks, NOW)
    low, high = (model.chance(Measured(QUALITY, 0.75 * quality), 0.6) for quality in (0.6, 0.7))
    assert low is not None
    assert high is not None
    assert low < 0.2 < 0.8 < high


def test_no_other_columns_are_needed() -> None:
    tasks = [scored(n, 0.6 + 0.01 * (n % 3), accepted=n % 3 > 0) for n in range(60)]
    bare = [task._replace(**dict.fromkeys(set(TaskRow._fields) - set(PASS_MODEL_COLUMNS))) for task in tasks]
    now = tasks[-1].assigned_at
    assert learn_pass_model(bare, now) == learn_pass_model(tasks, now)
