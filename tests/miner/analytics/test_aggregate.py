from pathlib import Path

import pytest

from miner.analytics.aggregate import COMPARED, MAX_BINS, Dimension
from miner.analytics.intervals import compare_proportions, tasks_to_distinguish, wilson_interval
from miner.analytics.report.build import Report, build_report
from miner.analytics.task_filter import TaskFilter
from miner.ledger.outcomes import Outcome
from miner.ledger.reader import PhaseRow, TaskRow
from tests.support.task_rows import NOW
from tests.support.task_rows import task_row as task

HOUR = 3600.0


def report_on(tasks: list[TaskRow], *by: Dimension) -> Report:
    return build_report(Path("ledger.sqlite"), tasks, by or ("phase",), TaskFilter(), NOW)


OUTCOMES = [
    Outcome.ACCEPTED,
    Outcome.ACCEPTED,
    Outcome.REJECTED,
    Outcome.SKIPPED,
    Outcome.NOT_VALIDATED,
    Outcome.UNKNOWN,
    None,
    Outcome.CLOSED_WITHOUT_SCORE,
]


def test_counts_rates_and_times() -> None:
    tasks = [task(number, outcome) for number, outcome in enumerate(OUTCOMES)]
    tasks[1] = tasks[1]._replace(score=0.8)
    (row,) = report_on(tasks).groups
    group, rate = row.summary, row.summary.rate
    assert (group.tasks, rate.accepted, rate.rejected, group.skipped, group.other) == (8, 2, 1, 1, 4)
    assert (rate.judged, rate.share, rate.interval) == (3, 2 / 3, wilson_interval(2, 3))
    assert group.score == pytest.approx(0.75)
    assert group.seconds is not None
    assert group.gaussians is not None
    assert (group.seconds.p50, group.gaussians.p50) == (3.5, 3500)
    assert group.seconds.p95 == pytest.approx(6.65)
    assert str(rate.rating).startswith("not enough data")
    total = report_on(tasks).total
    assert (total.label, total.summary.tasks, total.summary.rate.share) == ("all", 8, 2 / 3)


def test_nothing() -> None:
    found = report_on([])
    assert (found.groups, found.differences, found.bins) == ((), (), ())
    total = found.total.summary
    assert (total.tasks, total.rate.share, total.score, total.seconds) == (0, None, None, None)
    assert all(contrast.effect is None for contrast in found.total.contrasts)


def test_groups() -> None:
    tasks = [
        task(0, "accepted", phase="baseline", config_hash="aaaaaaaabbbb", assigned_at=NOW - 7 * HOUR),
        task(1, "rejected", task_type="text", assigned_at=NOW - 7 * HOUR + 1),
        task(2, "accepted", validator="5Beta00000", uid=None, assigned_at=NOW - 2 * HOUR),
        task(3, "accepted", config_hash="ccccccccdddd", uid=31, assigned_at=NOW - 1),
    ]
    by_phase = report_on(tasks).groups
    assert [(g.label, g.summary.tasks) for g in by_phase] == [
        ("baseline aaaaaaaa", 1),
        ("phase3 1a2b3c4d", 2),
        ("phase3 cccccccc", 1),
    ]
    by_validator = report_on(tasks, "validator").groups
    assert [(g.key, g.label, g.summary.tasks) for g in by_validator] == [
        ("5Alpha9999", "5Alpha99 (uid 31)", 3),
        ("5Beta00000", "5Beta000", 1),
    ]
    assert [(g.label, g.summary.tasks) for g in report_on(tasks, "type").groups] == [("image", 3), ("text", 1)]
    by_hour = report_on(tasks, "hour")
    assert [g.summary.tasks for g in by_hour.groups] == [2, 1, 1]
    assert all(len(g.label) == len("2025-11-01 10:00") and not g.contrasts for g in by_hour.groups)
    assert by_hour.differences == ()


def many(accepted: int, rejected: int, **changes: object) -> list[TaskRow]:
    outcomes = ["accepted"] * accepted + ["rejected"] * rejected
    return [task(number, outcome, **changes) for number, outcome in enumerate(outcomes)]


def test_groups_are_compared_with_the_largest() -> None:
    found = report_on(
        [*many(10, 10, phase="a"), *many(212, 288, phase="b"), *many(60, 10, phase="c"), task(0, None, phase="d")]
    )
    assert [(d.label[0], d.reference[0]) for d in found.differences] == [("a", "b"), ("c", "b")]
    like, unlike = found.differences
    assert like.difference == compare_proportions((10, 20), (212, 500))
    assert like.tasks_each == tasks_to_distinguish(0.5, 0.424)
    assert unlike.difference.is_clear
    assert unlike.tasks_each is None


def test_accepted_against_rejected() -> None:
    tasks = [task(n, "accepted", gaussians=100 + n, quality=0.7) for n in range(20)]
    tasks += [task(n, "rejected", gaussians=50 + n, quality=None) for n in range(30)]
    # Neither judged results nor figures that are unknown take part.
    tasks += [task(n, "skipped", gaussians=10**6) for n in range(10)]
    (group,) = report_on(tasks).groups
    assert [contrast.column for contrast in group.contrasts] == list(COMPARED)
    by_column = {contrast.column: contrast for contrast in group.contrasts}
    gaussians = by_column["gaussians"]
    assert (gaussians.accepted, gaussians.rejected) == (20, 30)
    assert (gaussians.accepted_median, gaussians.rejected_median) == (109.5, 64.5)
    assert gaussians.effect is not None
    assert (gaussians.effect.delta, gaussians.effect.is_clear) == (1.0, True)
    local = by_column["quality"]
    assert (local.accepted, local.rejected, local.effect) == (20, 0, None)


def test_the_quality_is_of_all_that_was_scored_here() -> None:
    outcomes = ("accepted", "rejected", "skipped")
    tasks = [task(n, outcome, quality=0.5 + n / 10) for n, outcome in enumerate(outcomes)]
    tasks.append(task(9, "accepted", quality=None))
    quality = report_on(tasks).total.summary.quality
    assert quality is not None
    assert quality.p50 == pytest.approx(0.6)
    assert report_on(tasks[3:]).total.summary.quality is None


@pytest.mark.parametrize(
    ("hours", "width"), [(0, HOUR), (48, HOUR), (60, 2 * HOUR), (24 * 30, 24 * HOUR), (24 * 365, 7 * 24 * HOUR)]
)
def test_the_time_axis_has_as_many_bins_as_fit(hours: int, width: float) -> None:
    tasks = [
        task(n, "accepted" if n % 3 else "rejected", assigned_at=NOW - 3600 * h)
        for n, h in enumerate(range(hours, -1, -1))
    ]
    found = report_on(tasks)
    assert found.bin_seconds == width
    assert len(found.bins) <= MAX_BINS
    total = found.total.summary.rate
    assert (sum(b.rate.judged for b in found.bins), sum(b.rate.accepted for b in found.bins)) == (
        total.judged,
        total.accepted,
    )
    assert all(b.start % width == 0 for b in found.bins)


def test_only_changes_of_phase_in_the_time_that_is_report_on() -> None:
    phases = [PhaseRow(at, "p", "apply", "h", "") for at in (10.0, 20.0, 30.0)]
    assert [p.at for p in build_report(Path("x"), [], ("phase",), TaskFilter(15.0), 25.0, phases).phases] == [20.0]


def test_groups_of_several_dimensions() -> None:
    tasks = [
        *many(30, 10, phase="a", config_hash="a" * 12, validator="5Alpha", uid=1),
        *many(10, 30, phase="b", config_hash="b" * 12, validator="5Alpha", uid=2),
        *many(5, 15, phase="a", config_hash="a" * 12, validator="5Beta", uid=3),
    ]
    found = report_on(tasks, "phase", "validator")
    assert [(row.keys, row.label, row.summary.rate.accepted) for row in found.groups] == [
        # The uid that a validator had last, in all of its groups.
        (("a aaaaaaaa", "5Alpha"), "a aaaaaaaa · 5Alpha (uid 2)", 30),
        (("a aaaaaaaa", "5Beta"), "a aaaaaaaa · 5Beta (uid 3)", 5),
        (("b bbbbbbbb", "5Alpha"), "b bbbbbbbb · 5Alpha (uid 2)", 10),
    ]
    # Phases are compared among the tasks of one validator.
    (difference,) = found.differences
    assert (difference.label, difference.reference) == ("b bbbbbbbb · 5Alpha (uid 2)", "a aaaaaaaa · 5Alpha (uid 2)")
    assert difference.difference == compare_proportions((10, 40), (30, 40))
    assert (found.total.label, found.total.key, found.title) == ("all", "", "phase and validator")
    assert report_on(tasks, "type", "hour").differences == ()


def test_bins_hold_scores_and_times() -> None:
    tasks = [
        task(2, "accepted", score=0.7, assigned_at=NOW - 7000),
        task(4, "accepted", score=0.8, assigned_at=NOW - 6900),
        task(9, "skipped", generation_seconds=None, assigned_at=NOW - 10),
    ]
    first, last = report_on(tasks).bins
    assert (first.tasks, first.rate.accepted, first.seconds, last.tasks, last.rate.judged) == (2, 2, 3.0, 1, 0)
    assert first.score == pytest.approx(0.75)
    assert (last.score, last.seconds) == (None, None)
