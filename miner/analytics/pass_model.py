"""The chance that a result passes, learnt from the ledger's own outcomes.

Only results that were sent have an outcome, and which were sent depends on their scores. That biases the shares of
outcomes, but not the chance to pass at a given score, which is all that is fitted: among results of equal score, those
sent are a random sample. So outcomes count alike, also those of results that were sent to explore. These keep scores
in the data at which nothing else is sent any more, so that a chance that has risen is noticed; to weigh them by the 20
that each stands for would only add noise where the form of the calibration is right.

The chance is that at the score of the result that was chosen, whatever number of candidates it is the best of: a change
of that number shifts it a little, until new outcomes have replaced the old ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_high
from typing import NamedTuple

import numpy as np

from miner.analytics.calibration import Bools, Calibration, Normal, Prior, fit_calibration
from miner.analytics.intervals import Floats
from miner.analytics.slots import Slots, count_slots
from miner.ledger import Outcome, TaskRow

# The subnet's, for tasks whose validator told none, and those from before it was recorded.
DEFAULT_THRESHOLD = 0.6
# Outcomes of one kind after which those before are forgotten, and without which a part of the score tells nothing.
MAX_OUTCOMES, MIN_OUTCOMES = 2000, 50
# How far from the usual threshold that of an outcome may be.
THRESHOLD_TOLERANCE = 0.05

PASS_MODEL_COLUMNS = (
    *("assigned_at", "transport", "validator", "task_type", "outcome"),
    *("quality", "alignment", "estimated_score", "threshold"),
)
"""The columns of a task that are learnt from; the others may be left unread."""

WHOLE = "score"
"""The parts of a score that is whole."""

# The parts' weights in the validator's formula. Similarity moves the score by 0.05 at most, and is left out where
# anything else is missing.
_WEIGHTS = {"quality": 0.75, "alignment": 0.2}

# A whole score is the validator's up to an error. A slope of 40 means a standard deviation of some 0.04, and within
# two deviations of the intercept, half of the results pass at a score at most 0.075 from the threshold.
WHOLE_PRIOR = Prior(intercept=Normal(0.0, 1.5), slope=Normal(40.0, 25.0))
# What is missing of a partial score is worth up to 0.25, and blurs the rest.
PARTIAL_PRIOR = Prior(intercept=Normal(0.0, 10.0), slope=Normal(20.0, 20.0))


class ScoreKind(NamedTuple):
    """What scores can be compared by: the type of task, and the parts that were computed, "score" if all were."""

    task_type: str
    parts: str

    @property
    def prior(self) -> Prior:
        """What is believed of the calibration before any outcome."""
        return WHOLE_PRIOR if self.parts == WHOLE else PARTIAL_PRIOR


class Measured(NamedTuple):
    """A score of some kind."""

    kind: ScoreKind
    value: float


def measure(task_type: str, quality: float | None, alignment: float | None, total: float | None) -> Measured | None:
    """Return the whole score if it is known, else the weighted sum of its parts that are; None without any."""
    if total is not None:
        return Measured(ScoreKind(task_type, WHOLE), total)
    known = {name: value for name, value in {"quality": quality, "alignment": alignment}.items() if value is not None}
    if not known:
        return None
    value = sum(_WEIGHTS[name] * value for name, value in known.items())
    return Measured(ScoreKind(task_type, " and ".join(known)), value)


def margin_of(score: float, threshold: float | None) -> float:
    """Return the score less the validator's threshold, or the subnet's if that is not known."""
    return score - (DEFAULT_THRESHOLD if threshold is None else threshold)


@dataclass(frozen=True)
class Outcomes:
    """The margins [n] of sent results, score less threshold, and whether each was accepted [n]."""

    margins: Floats
    passed: Bools


def usual_threshold(tasks: Sequence[TaskRow]) -> float:
    """Return the median of the thresholds that validators told last, among tasks in their order.

    Each validator counts once, so that none shifts it with many tasks, and the subnet's own once, so that a single one
    among two does not. Of two in the middle, it is the higher.
    """
    told = {task.validator: task.threshold for task in tasks if task.threshold is not None}
    return median_high([DEFAULT_THRESHOLD, *told.values()])


def collect_outcomes(tasks: Sequence[TaskRow]) -> dict[ScoreKind, Outcomes]:
    """Return the latest MAX_OUTCOMES accepted and rejected results of each kind among tasks in their order.

    Those to be judged by a threshold that is more than THRESHOLD_TOLERANCE from the usual one are left out: far from
    all others, a few outcomes would flatten the whole curve, so that a validator which tells a false threshold would
    decide what all others are sent.
    """
    usual = usual_threshold(tasks)
    found = dict[ScoreKind, list[tuple[float, bool]]]()
    for task in reversed(tasks):
        if task.outcome not in (Outcome.ACCEPTED, Outcome.REJECTED):
            continue
        if task.threshold is not None and abs(task.threshold - usual) > THRESHOLD_TOLERANCE:
            continue
        measured = measure(task.task_type, task.quality, task.alignment, task.estimated_score)
        if measured is not None and len(of_kind := found.setdefault(measured.kind, [])) < MAX_OUTCOMES:
            of_kind.append((margin_of(measured.value, task.threshold), task.outcome == Outcome.ACCEPTED))
    outcomes = {}
    for kind, pairs in sorted(found.items()):
        margins, passed = zip(*pairs, strict=True)
        outcomes[kind] = Outcomes(np.array(margins, np.float64), np.array(passed, np.bool_))
    return outcomes


@dataclass(frozen=True)
class PassModel:
    """The calibration of each kind of score that has outcomes, and the slots of the latest tasks."""

    calibrations: Mapping[ScoreKind, Calibration]
    slots: Slots

    def chance(self, measured: Measured, threshold: float | None) -> float | None:
        """Return the chance that a result of this score passes a validator's threshold, None if nothing tells it.

        A whole score is believed from the first, as its kind's prior says. A partial one is on a scale of its own, on
        which the threshold stands for nothing before MIN_OUTCOMES outcomes are known.
        """
        kind = measured.kind
        known = self.calibrations.get(kind)
        if kind.parts != WHOLE and (known is None or known.outcomes < MIN_OUTCOMES):
            return None
        calibration = known or Calibration(kind.prior.intercept.mean, kind.prior.slope.mean)
        return calibration.chance(margin_of(measured.value, threshold))


def learn_pass_model(tasks: Sequence[TaskRow], now: float) -> PassModel:
    """Fit the model to tasks in the order of their assignment; `now` is unix time."""
    outcomes = collect_outcomes(tasks)
    calibrations = {kind: fit_calibration(found.margins, found.passed, kind.prior) for kind, found in outcomes.items()}
    return PassModel(calibrations, count_slots(tasks, now))
