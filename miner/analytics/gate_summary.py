"""How well the chance to pass is known, and what the gate made of results, for the report."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from miner.analytics.calibration import Calibration, ReliabilityBin, brier_score, fit_calibration, reliability
from miner.analytics.pass_model import MIN_OUTCOMES, Outcomes, ScoreKind, collect_outcomes
from miner.analytics.slots import Slots, count_slots
from miner.ledger import Outcome, TaskRow
from miner.words import phase_label


@dataclass(frozen=True)
class CalibrationSummary:
    """The calibration of one kind of score, against the outcomes that it was fitted to.

    `brier` is its Brier score, and `brier_of_mean` that of predicting the mean rate for all. `bins` are empty while
    there are fewer than MIN_OUTCOMES outcomes.
    """

    kind: ScoreKind
    calibration: Calibration
    brier: float | None
    brier_of_mean: float
    bins: tuple[ReliabilityBin, ...]

    @property
    def even_margin(self) -> float | None:
        """The score less the threshold at which half of the results pass; None if the score makes no difference."""
        calibration = self.calibration
        return -calibration.intercept / calibration.slope if calibration.slope > 0 else None


@dataclass(frozen=True)
class GateCounts:
    """What the gate made of the results of one type of task.

    `accepted` and `judged` are of the explored ones alone. `foretold` is the number of results with an outcome whose
    chance to pass was predicted when they were sent, and `brier` the Brier score of these predictions.
    """

    task_type: str
    sent: int
    withheld: int
    explored: int
    accepted: int
    judged: int
    foretold: int
    brier: float | None


@dataclass(frozen=True)
class GateSummary:
    """The calibrations by kind of score, the gate's decisions by type of task, and the slots of the latest tasks.

    `phases` are the slots of each phase, by name and the beginning of its hash: phases of which only some have a gate
    are to be compared by these, for a withheld result is a task that is not accepted, and saves two slots.
    """

    calibrations: tuple[CalibrationSummary, ...]
    counts: tuple[GateCounts, ...]
    slots: Slots
    phases: tuple[tuple[str, Slots], ...]


def summarise_gate(tasks: Sequence[TaskRow], now: float) -> GateSummary:
    """Sum up tasks in the order of their assignment; `now` is unix time."""
    calibrations = tuple(_calibrate(kind, outcomes) for kind, outcomes in collect_outcomes(tasks).items())
    gated = [task for task in tasks if task.gate is not None]
    types = sorted({task.task_type for task in gated})
    counts = tuple(_count(name, [task for task in gated if task.task_type == name]) for name in types)
    phases = dict[str, Slots]()
    for task in tasks if gated else ():
        label = phase_label(task.phase, task.config_hash)
        phases[label] = phases.get(label, Slots()).with_task(task)
    return GateSummary(calibrations, counts, count_slots(tasks, now), tuple(phases.items()))


def _calibrate(kind: ScoreKind, outcomes: Outcomes) -> CalibrationSummary:
    passed = outcomes.passed
    calibration = fit_calibration(outcomes.margins, passed, kind.prior)
    chances, rate = calibration.predict(outcomes.margins), float(passed.mean())
    bins = reliability(chances, passed) if len(passed) >= MIN_OUTCOMES else ()
    return CalibrationSummary(kind, calibration, brier_score(chances, passed), rate * (1 - rate), bins)


def _count(task_type: str, tasks: Sequence[TaskRow]) -> GateCounts:
    verdicts = Counter(task.gate for task in tasks)
    judged = [task for task in tasks if task.outcome in (Outcome.ACCEPTED, Outcome.REJECTED)]
    explored = Counter(task.outcome for task in judged if task.gate == "explored")
    foretold = [(task.pass_probability, task.outcome) for task in judged if task.pass_probability is not None]
    chances = np.array([chance for chance, _ in foretold], np.float64)
    passed = np.array([outcome == Outcome.ACCEPTED for _, outcome in foretold], np.bool_)
    return GateCounts(
        *(task_type, verdicts["sent"], verdicts["withheld"], verdicts["explored"]),
        accepted=explored[Outcome.ACCEPTED],
        judged=explored.total(),
        foretold=len(foretold),
        brier=brier_score(chances, passed),
    )
