from __future__ import annotations

import math

import pytest

from miner.analytics.aggregate import (
    COMPARED,
    MOST_BINS,
    VERDICT_LIMIT,
    By,
    Report,
    report,
    summarise_experiment,
    trial,
)
from miner.analytics.intervals import compare_proportions, tasks_to_distinguish, wilson_interval
from miner.ledger.events import Stratum
from miner.ledger.reader import ExperimentRow, PhaseRow, TaskRow

HOUR = 3600.0
NOW = 1_762_000_000.0 // HOUR * HOUR


def task(number: int, outcome: str | None, **changes: object) -> TaskRow:
    plain: dict[str, object] = dict.fromkeys(TaskRow._fields)
    at = changes.get("assigned_at", NOW - 100.0 * HOUR + number)
    plain |= {
        "key": number,
        "assigned_at": at,
        "transport": "pull",
        "validator": "5Alpha9999",
        "uid": 27,
        "task_id": str(number),
        "task_type": "image",
        "phase": "phase3",
        "config_hash": "1a2b3c4d5e6f",
        "code_version": "1",
        "outcome": outcome,
        "answered_at": at + 20.0 if outcome else None,  # type: ignore[operator]
        "score": 0.7 if outcome == "accepted" else None,
        "submissions": 1,
        "gaussians": 1000 * number,
        "generation_seconds": float(number),
    }
    return TaskRow(**(plain | changes))  # type: ignore[arg-type]


def told(tasks: list[TaskRow], by: By = "phase", since: float = 0.0) -> Report:
    return report(tasks, by, since, NOW)


OUTCOMES = ["accepted", "accepted", "rejected", "skipped", "not validated", "unknown", None, "closed without a score"]


def test_counts_rates_and_times() -> None:
    tasks = [task(number, outcome) for number, outcome in enumerate(OUTCOMES)]
    tasks[1] = tasks[1]._replace(score=0.8)
    (group,) = told(tasks).groups
    assert (group.tasks, group.accepted, group.rejected, group.skipped, group.other) == (8, 2, 1, 1, 4)
    assert (group.judged, group.rate, group.interval) == (3, 2 / 3, wilson_interval(2, 3))
    assert group.score == pytest.approx(0.75)
    assert (group.seconds_p50, group.gaussians_p50) == (3.5, 3500)
    assert group.seconds_p95 == pytest.approx(6.65)
    assert str(group.verdict).startswith("not enough data")
    total = told(tasks).total
    assert (total.label, total.tasks, total.rate) == ("all", 8, 2 / 3)


def test_nothing() -> None:
    found = told([])
    assert (found.groups, found.differences, found.bins) == ((), (), ())
    assert (found.total.tasks, found.total.rate, found.total.score, found.total.seconds_p50) == (0, None, None, None)
    assert all(contrast.effect is None for contrast in found.total.contrasts)


def test_groups() -> None:
    tasks = [
        task(0, "accepted", phase="baseline", config_hash="aaaaaaaabbbb", assigned_at=NOW - 7 * HOUR),
        task(1, "rejected", task_type="text", assigned_at=NOW - 7 * HOUR + 1),
        task(2, "accepted", validator="5Beta00000", uid=None, assigned_at=NOW - 2 * HOUR),
        task(3, "accepted", config_hash="ccccccccdddd", uid=31, assigned_at=NOW - 1),
    ]
    by_phase = told(tasks).groups
    assert [(g.label, g.tasks) for g in by_phase] == [
        ("baseline aaaaaaaa", 1),
        ("phase3 1a2b3c4d", 2),
        ("phase3 cccccccc", 1),
    ]
    by_validator = told(tasks, "validator").groups
    assert [(g.key, g.label, g.tasks) for g in by_validator] == [
        ("5Alpha9999", "5Alpha99 (uid 31)", 3),
        ("5Beta00000", "5Beta000", 1),
    ]
    assert [(g.label, g.tasks) for g in told(tasks, "type").groups] == [("image", 3), ("text", 1)]
    by_hour = told(tasks, "hour")
    assert [g.tasks for g in by_hour.groups] == [2, 1, 1]
    assert all(len(g.label) == len("2025-11-01 10:00") and not g.contrasts for g in by_hour.groups)
    assert by_hour.differences == ()


def many(accepted: int, rejected: int, **changes: object) -> list[TaskRow]:
    outcomes = ["accepted"] * accepted + ["rejected"] * rejected
    return [task(number, outcome, **changes) for number, outcome in enumerate(outcomes)]


def test_groups_are_compared_with_the_largest() -> None:
    found = told(
        [*many(10, 10, phase="a"), *many(212, 288, phase="b"), *many(60, 10, phase="c"), task(0, None, phase="d")]
    )
    assert [(d.label[0], d.reference[0]) for d in found.differences] == [("a", "b"), ("c", "b")]
    like, unlike = found.differences
    assert like.difference == compare_proportions((10, 20), (212, 500))
    assert like.tasks_each == tasks_to_distinguish(0.5, 0.424)
    assert unlike.difference.is_clear
    assert unlike.tasks_each is None


def test_accepted_against_rejected() -> None:
    tasks = [task(n, "accepted", gaussians=100 + n, local_score=0.7) for n in range(20)]
    tasks += [task(n, "rejected", gaussians=50 + n, local_score=None) for n in range(30)]
    # Neither judged results nor figures that are unknown take part.
    tasks += [task(n, "skipped", gaussians=10**6) for n in range(10)]
    (group,) = told(tasks).groups
    assert [contrast.column for contrast in group.contrasts] == list(COMPARED)
    by_column = {contrast.column: contrast for contrast in group.contrasts}
    gaussians = by_column["gaussians"]
    assert (gaussians.accepted, gaussians.rejected) == (20, 30)
    assert (gaussians.accepted_median, gaussians.rejected_median) == (109.5, 64.5)
    assert gaussians.effect is not None
    assert (gaussians.effect.delta, gaussians.effect.is_clear) == (1.0, True)
    local = by_column["local_score"]
    assert (local.accepted, local.rejected, local.effect) == (20, 0, None)


def test_the_quality_is_of_all_that_was_scored_here() -> None:
    outcomes = ("accepted", "rejected", "skipped")
    tasks = [task(n, outcome, local_score=0.5 + n / 10) for n, outcome in enumerate(outcomes)]
    tasks.append(task(9, "accepted", local_score=None))
    assert told(tasks).total.quality == pytest.approx(0.6)
    assert told(tasks[3:]).total.quality is None


@pytest.mark.parametrize(
    ("hours", "width"), [(0, HOUR), (48, HOUR), (60, 2 * HOUR), (24 * 30, 24 * HOUR), (24 * 365, 7 * 24 * HOUR)]
)
def test_the_time_axis_has_as_many_bins_as_fit(hours: int, width: float) -> None:
    tasks = [
        task(n, "accepted" if n % 3 else "rejected", assigned_at=NOW - 3600 * h)
        for n, h in enumerate(range(hours, -1, -1))
    ]
    found = told(tasks)
    assert found.bin_seconds == width
    assert len(found.bins) <= MOST_BINS
    assert (sum(b.judged for b in found.bins), sum(b.accepted for b in found.bins)) == (
        found.total.judged,
        found.total.accepted,
    )
    assert all(b.start % width == 0 for b in found.bins)


def test_only_changes_of_phase_in_the_time_that_is_told() -> None:
    phases = [PhaseRow(at, "p", "apply", "h", "") for at in (10.0, 20.0, 30.0)]
    assert [p.at for p in report([], "phase", 15.0, 25.0, phases).phases] == [20.0]


@pytest.mark.parametrize(
    ("outcome", "accepted"),
    [
        ("accepted", True),
        ("rejected", False),
        ("skipped", False),
        ("not validated", None),
        ("closed without a score", None),
    ],
)
def test_what_a_task_says_of_its_arm(outcome: str, accepted: bool | None) -> None:
    row = task(5, outcome, arm="phase3", turn=2)
    found = trial(row, NOW)
    assert found == (Stratum("5Alpha9999", "image"), 2, "phase3", accepted, row.answered_at)


@pytest.mark.parametrize("outcome", [None, "unknown", "still open", "not held"])
def test_a_task_without_a_verdict_is_waited_for_an_hour(outcome: str | None) -> None:
    row = task(5, outcome, arm="phase3", turn=2)
    assert trial(row, row.assigned_at + 60).ended == math.inf
    late = trial(row, row.assigned_at + VERDICT_LIMIT + 1)
    assert (late.accepted, late.ended) == (None, row.assigned_at + VERDICT_LIMIT)


def test_a_verdict_that_comes_later_does_not_change_what_was_decided() -> None:
    row = task(5, "accepted", arm="phase3", turn=2)
    late = row._replace(answered_at=row.assigned_at + VERDICT_LIMIT + 5)
    assert trial(late, NOW) == trial(row._replace(outcome=None, answered_at=None), NOW)


def test_a_task_of_no_experiment() -> None:
    with pytest.raises(ValueError, match="belongs to no experiment"):
        trial(task(5, "accepted"), NOW)


def test_an_experiment_is_judged_by_its_arms() -> None:
    row = ExperimentRow("e", 0.0, 7, '{"phase3": 50, "baseline": 50}', None, None)
    arms = ("baseline", "phase3")
    tasks = [
        task(n, "accepted" if (n % 10 < 8) == (n % 2 == 1) else "rejected", arm=arms[n % 2], turn=n) for n in range(400)
    ]
    tasks.append(task(400, "skipped", arm="gone", turn=400))
    found = summarise_experiment(row, tasks, NOW)
    assert found.arms == (("phase3", 160, 200), ("baseline", 40, 200))
    assert (found.decision.winner, found.decision.losers, found.decision.blocks) == ("phase3", ("baseline",), 200)
