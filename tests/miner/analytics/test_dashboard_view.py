import json

import pytest

from miner.analytics.dashboard_view import PERIODS, build_dashboard_view
from miner.analytics.intervals import wilson_interval
from miner.analytics.rating import AcceptanceRate
from miner.ledger.outcomes import Outcome
from miner.ledger.reader import TaskRow
from tests.support.task_rows import NOW, task_row

VALIDATORS = ("5Alpha", "5Beta")


def task(hours_ago: float, outcome: Outcome | None, seconds: float | None = None, **changes: object) -> TaskRow:
    stages = seconds and {"structure": 0.4 * seconds, "latents": 0.6 * seconds}
    plain: dict[str, object] = {
        "assigned_at": NOW - 3600 * hours_ago,
        "validator": VALIDATORS[0],
        "generation_seconds": seconds,
        "stages": json.dumps(stages) if stages else None,
        "score": 0.71 if outcome == Outcome.ACCEPTED else None,
        "config_hash": f"{changes.get('phase', 'phase3')}-hash",
    }
    return task_row(1, outcome, **(plain | changes))


ROWS = [
    task(20, Outcome.REJECTED, 2.0, phase="baseline"),
    task(19.9, Outcome.REJECTED, 2.0, phase="baseline"),
    task(10, Outcome.ACCEPTED, 3.0, quality=0.8),
    task(9.9, Outcome.REJECTED, 4.0),
    task(9.8, Outcome.ACCEPTED, 5.0, validator=VALIDATORS[1]),
    task(2, Outcome.ACCEPTED, 3.0),
    task(1.9, Outcome.SKIPPED, quality=0.4),
    task(0.1, None),
]


def test_rates_are_of_judged_tasks_with_wilsons_interval() -> None:
    view = build_dashboard_view(ROWS, NOW, 24)
    newer, older = view["phases"]
    assert (newer["name"], older["name"]) == ("phase3", "baseline")
    assert (newer["tasks"], newer["accepted"], newer["rejected"], newer["rate"]) == (6, 3, 1, 0.75)
    assert (newer["low"], newer["high"]) == wilson_interval(3, 4)
    assert (older["rate"], older["verdict"]) == (0.0, str(AcceptanceRate(0, 2).rating))
    assert newer["score"] == pytest.approx(0.71)
    # Of all that was scored here, what was withheld too.
    assert newer["quality"]["p50"] == pytest.approx(0.6)
    assert older["quality"] is None
    assert (view["total"]["accepted"], view["total"]["rejected"], view["total"]["tasks"]) == (3, 3, 8)


def test_bins_hold_each_judged_task_once() -> None:
    newer = build_dashboard_view(ROWS, NOW, 24)["phases"][0]
    assert [(one["start"] - NOW, one["accepted"], one["rejected"]) for one in newer["bins"]] == [
        (-10 * 3600, 2, 1),
        (-2 * 3600, 1, 0),
    ]


def test_stage_times_are_quantiles() -> None:
    newer = build_dashboard_view(ROWS, NOW, 24)["phases"][0]
    assert newer["seconds"]["p50"] == pytest.approx(3.5)
    assert newer["stages"]["structure"]["p50"] == pytest.approx(1.4)
    assert sum(stage["p50"] for stage in newer["stages"].values()) == pytest.approx(3.5, abs=1e-3)


def test_validators_with_most_tasks_come_first() -> None:
    first, second = build_dashboard_view(ROWS, NOW, 24)["validators"]
    assert (first["hotkey"], first["tasks"], first["skipped"], first["open"]) == (VALIDATORS[0], 7, 1, 1)
    assert (second["hotkey"], second["uid"], second["rate"]) == (VALIDATORS[1], 27, 1.0)


def test_the_same_name_with_other_settings_is_another_phase() -> None:
    changed = [row._replace(config_hash="other") if row.assigned_at > NOW - 5 * 3600 else row for row in ROWS]
    assert [phase["hash"] for phase in build_dashboard_view(changed, NOW, 24)["phases"]] == [
        "other",
        "phase3-hash",
        "baseline-hash",
    ]


@pytest.mark.parametrize("hours", PERIODS)
def test_a_ledger_without_tasks(hours: int) -> None:
    view = build_dashboard_view([], NOW, hours)
    assert (view["phases"], view["validators"], view["total"]["rate"], view["total"]["high"]) == ([], [], None, 1.0)
    assert view["since"] == NOW - 3600 * hours
    assert 20 <= 3600 * hours / view["bin_seconds"] <= 48
