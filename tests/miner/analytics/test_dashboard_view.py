import json
import math

import pytest

from miner.analytics.dashboard_view import PERIODS, build_dashboard_view
from miner.analytics.figures import Json
from miner.analytics.intervals import wilson_interval
from miner.analytics.rating import AcceptanceRate
from miner.analytics.task_filter import TaskFilter
from miner.ledger.outcomes import Outcome
from miner.ledger.reader import ExperimentRow, PhaseRow, TaskRow
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


def view_of(rows: list[TaskRow], hours: float = 24) -> Json:
    return build_dashboard_view(rows, TaskFilter(NOW - 3600 * hours), NOW)


def test_rates_are_of_judged_tasks_with_wilsons_interval() -> None:
    view = view_of(ROWS)
    newer, older = view["phases"]
    assert (newer["name"], older["name"]) == ("phase3", "baseline")
    assert (newer["tasks"], newer["accepted"], newer["rejected"], newer["rate"]) == (6, 3, 1, 0.75)
    assert newer["interval"] == wilson_interval(3, 4)
    assert (older["rate"], older["verdict"]) == (0.0, str(AcceptanceRate(0, 2).rating))
    assert newer["score"] == pytest.approx(0.71)
    # Of all that was scored here, what was withheld too.
    assert newer["quality"] == pytest.approx(0.6)
    assert older["quality"] is None
    assert (view["total"]["accepted"], view["total"]["rejected"], view["total"]["tasks"]) == (3, 3, 8)


def test_bins_hold_each_judged_task_once() -> None:
    newer = view_of(ROWS)["phases"][0]
    assert [(one["start"] - NOW, one["accepted"], one["judged"]) for one in newer["bins"]] == [
        (-10 * 3600, 2, 3),
        (-2 * 3600, 1, 1),
        (-3600, 0, 0),
    ]


def test_stage_times_are_quantiles() -> None:
    newer = view_of(ROWS)["phases"][0]
    assert newer["seconds_p50"] == pytest.approx(3.5)
    assert newer["stages"]["structure"]["p50"] == pytest.approx(1.4)
    assert sum(stage["p50"] for stage in newer["stages"].values()) == pytest.approx(3.5, abs=1e-3)


def test_validators_with_most_tasks_come_first() -> None:
    first, second = view_of(ROWS)["validators"]
    assert (first["hotkey"], first["tasks"], first["skipped"], first["other"]) == (VALIDATORS[0], 7, 1, 1)
    assert (second["hotkey"], second["uid"], second["rate"]) == (VALIDATORS[1], 27, 1.0)


def test_the_same_name_with_other_settings_is_another_phase() -> None:
    changed = [row._replace(config_hash="other") if row.assigned_at > NOW - 5 * 3600 else row for row in ROWS]
    assert [phase["hash"] for phase in view_of(changed)["phases"]] == [
        "other",
        "phase3-hash",
        "baseline-hash",
    ]


@pytest.mark.parametrize("period", [period for period in PERIODS if period != "all"])
def test_a_ledger_without_tasks(period: str) -> None:
    seconds = PERIODS[period]
    view = view_of([], seconds / 3600)
    assert (view["phases"], view["validators"], view["total"]["rate"]) == ([], [], None)
    assert view["total"]["interval"] == (0.0, 1.0)
    assert view["since"] == NOW - seconds
    assert 12 <= seconds / view["bin_seconds"] <= 48


def test_all_begins_with_the_first_task() -> None:
    assert build_dashboard_view(ROWS, TaskFilter(-math.inf), NOW)["since"] == ROWS[0].assigned_at
    assert build_dashboard_view([], TaskFilter(-math.inf), NOW)["since"] == NOW - 24 * 3600


def test_the_grid_has_a_cell_for_each_phase_and_validator_with_tasks() -> None:
    view = view_of(ROWS)
    cells = {(cell["phase"], cell["validator"]): (cell["accepted"], cell["judged"]) for cell in view["grid"]}
    # Phases and validators by their position: phase3 ran last, and 5Alpha has most tasks.
    assert cells == {(0, 0): (2, 3), (0, 1): (1, 1), (1, 0): (0, 2)}


def test_markers_are_where_something_changed() -> None:
    rows = [row._replace(code_version="2" if row.assigned_at > NOW - 3 * 3600 else "1") for row in ROWS]
    hashes = [(-30, "a"), (-22, "a"), (-15, "b"), (-12, "b"), (-1, "a")]
    phases = [PhaseRow(NOW + 3600 * hours, f"phase-{name}", "start", name * 12, "") for hours, name in hashes]
    experiments = [ExperimentRow("e1", NOW - 3600 * 14, 1, "{}", NOW - 3600 * 13, "decided")]
    markers = build_dashboard_view(rows, TaskFilter(NOW - 24 * 3600), NOW, phases=phases, experiments=experiments)[
        "markers"
    ]
    assert [((marker["at"] - NOW) / 3600, marker["kind"], marker["text"]) for marker in markers] == [
        (-15, "phase", "phase-b bbbbbbbb"),
        (-14, "experiment", "e1 begins"),
        (-13, "experiment", "e1 ends"),
        (pytest.approx(-2), "code", "code 1 to 2"),
        (-1, "phase", "phase-a aaaaaaaa"),
    ]
