"""Some hours of the simulated day."""

import pytest

from miner.pull import state_machine
from scripts.validation import simulated_day


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_violation_no_lost_task_and_nearly_all_that_is_possible(seed: int) -> None:
    figures = simulated_day.run(hours=6, validators=7, seed=seed)
    assert figures["outages"] > 0
    assert figures["our_restarts"] > 0
    assert simulated_day.has_passed(figures), figures


def test_the_simulation_notices_a_miner_that_pulls_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_machine, "CLOCK_MARGIN", -2.5)
    figures = simulated_day.run(hours=1, validators=2, seed=0)
    assert figures["violations_of_known_cooldowns"] > 0
    assert not simulated_day.has_passed(figures)


def test_the_simulation_notices_a_miner_that_waits_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_machine, "CLOCK_MARGIN", 12.0)
    figures = simulated_day.run(hours=6, validators=7, seed=0)
    assert figures["share_of_possible"] < simulated_day.MIN_SHARE
