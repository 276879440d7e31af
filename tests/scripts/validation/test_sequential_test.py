"""Small versions of the measurements in scripts.validation.sequential_test."""

import numpy as np
import pytest

from scripts.validation.sequential_test import MODELS, measure_decisions, measure_false_alarms, measure_power


def test_false_alarms_are_rarer_than_five_percent_however_often_one_looks() -> None:
    figures = measure_false_alarms(np.random.default_rng(6), 0.45, runs=300, tasks=2000)
    assert figures["false_alarms"] <= 0.05
    # The usual test at 5 % that is evaluated as often.
    assert figures["naive_false_alarms"] > 0.25


def test_38_percent_against_55_is_found_in_hundreds_of_tasks() -> None:
    figures = measure_power(np.random.default_rng(7), 0.38, 0.55, runs=200, tasks=2000)
    assert figures["decided_by_1000"] >= 0.97
    assert 200 <= figures["median_tasks"] <= 320
    assert figures["wrong_winner"] <= 0.01


@pytest.mark.parametrize("name", ["alike", "alike, very slow arm"])
def test_the_whole_way_raises_few_false_alarms(name: str) -> None:
    assert measure_decisions(np.random.default_rng(8), MODELS[name], runs=40, tasks=400)["any_loser"] <= 0.05
