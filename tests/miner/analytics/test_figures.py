from __future__ import annotations

import pytest

from miner.analytics.figures import SPANS, figures
from miner.analytics.intervals import wilson_interval
from miner.analytics.rating import verdict
from miner.ledger.reader import LedgerReader, TaskRow
from tests.support.monitor import HOTKEYS, one_task, write_ledger

NOW = 1_700_000_000.0 // 3600 * 3600


def at(hours_ago: float) -> int:
    return int((NOW - 3600 * hours_ago) * 1e9)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[TaskRow]:
    """Eight tasks of two phases and two validators; the last has no answer yet."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    events = [
        *one_task(at(20), phase="baseline", outcome="rejected", seconds=2.0),
        *one_task(at(19.9), phase="baseline", outcome="rejected", seconds=2.0),
        *one_task(at(10), seconds=3.0, quality=0.8),
        *one_task(at(9.9), outcome="rejected", seconds=4.0),
        *one_task(at(9.8), seconds=5.0, validator=HOTKEYS[1]),
        *one_task(at(2), seconds=3.0),
        *one_task(at(1.9), outcome="skipped", quality=0.4),
        *one_task(at(0.1))[:2],
    ]
    write_ledger(path, events)
    with LedgerReader(path) as reader:
        return reader.tasks()


def test_rates_are_of_judged_tasks_with_wilsons_interval(rows: list[TaskRow]) -> None:
    told = figures(rows, NOW, 24)
    newer, older = told["phases"]
    assert (newer["name"], older["name"]) == ("phase3", "baseline")
    assert (newer["tasks"], newer["accepted"], newer["rejected"], newer["rate"]) == (6, 3, 1, 0.75)
    assert (newer["low"], newer["high"]) == wilson_interval(3, 4)
    assert (older["rate"], older["verdict"]) == (0.0, str(verdict(0, 2)))
    assert newer["score"] == pytest.approx(0.71)
    # Of all that was scored here, what was withheld too.
    assert newer["quality"]["p50"] == pytest.approx(0.6)
    assert older["quality"] is None
    assert (told["total"]["accepted"], told["total"]["rejected"], told["total"]["tasks"]) == (3, 3, 8)


def test_bins_hold_each_judged_task_once(rows: list[TaskRow]) -> None:
    newer = figures(rows, NOW, 24)["phases"][0]
    assert [(one["start"] - NOW, one["accepted"], one["rejected"]) for one in newer["bins"]] == [
        (-10 * 3600, 2, 1),
        (-2 * 3600, 1, 0),
    ]


def test_stage_times_are_quantiles(rows: list[TaskRow]) -> None:
    newer = figures(rows, NOW, 24)["phases"][0]
    assert newer["seconds"]["p50"] == pytest.approx(3.5)
    assert newer["stages"]["structure"]["p50"] == pytest.approx(1.6, abs=1e-3)
    assert sum(stage["p50"] for stage in newer["stages"].values()) == pytest.approx(3.5, abs=1e-3)


def test_validators_with_most_tasks_come_first(rows: list[TaskRow]) -> None:
    first, second = figures(rows, NOW, 24)["validators"]
    assert (first["hotkey"], first["tasks"], first["skipped"], first["open"]) == (HOTKEYS[0], 7, 1, 1)
    assert (second["hotkey"], second["uid"], second["rate"]) == (HOTKEYS[1], 27, 1.0)


def test_the_same_name_with_other_settings_is_another_phase(rows: list[TaskRow]) -> None:
    changed = [row._replace(config_hash="other") if row.key > at(5) else row for row in rows]
    assert [phase["hash"] for phase in figures(changed, NOW, 24)["phases"]] == ["other", "phase3-hash", "baseline-hash"]


@pytest.mark.parametrize("hours", SPANS)
def test_a_ledger_without_tasks(hours: int) -> None:
    told = figures([], NOW, hours)
    assert (told["phases"], told["validators"], told["total"]["rate"], told["total"]["high"]) == ([], [], None, 1.0)
    assert told["since"] == NOW - 3600 * hours
    assert 20 <= 3600 * hours / told["bin_seconds"] <= 48
