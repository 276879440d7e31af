import pytest

from miner.analytics.experiments import MIN_COUNTED, summarise_experiment
from miner.analytics.forecast import tasks_to_decide
from miner.analytics.report import forecast_lines
from miner.ledger.reader import ExperimentRow
from tests.support.task_rows import NOW
from tests.support.task_rows import task_row as task


@pytest.mark.parametrize(("better", "worse", "mean"), [(0.55, 0.38, 312), (0.50, 0.42, 1315), (0.62, 0.42, 235)])
def test_it_is_near_the_mean_of_simulated_experiments(better: float, worse: float, mean: float) -> None:
    """The means are those of scripts/validation/sequential_test.md."""
    tasks = tasks_to_decide(better, worse, (1, 1), 40.0)
    assert tasks == pytest.approx(mean, rel=0.15)


def test_more_evidence_and_uneven_shares_take_longer() -> None:
    even = tasks_to_decide(0.55, 0.38, (1, 1), 40.0)
    assert even is not None
    for other in (tasks_to_decide(0.55, 0.38, (1, 1), 400.0), tasks_to_decide(0.55, 0.38, (9, 1), 40.0)):
        assert other is not None
        assert other > even


@pytest.mark.parametrize(("better", "worse"), [(0.4, 0.4), (0.3, 0.4), (0.5, 0.4999)])
def test_what_is_not_foreseen(better: float, worse: float) -> None:
    assert tasks_to_decide(better, worse, (1, 1), 40.0) is None


def test_an_experiment_is_told_what_it_would_take() -> None:
    row = ExperimentRow("e", 0.0, 7, '{"a": 50, "b": 50}', None, None)

    def lines(tasks: int, shares: tuple[int, int]) -> list[str]:
        outcomes = ("accepted" if n // 2 % 10 < shares[n % 2] else "rejected" for n in range(tasks))
        rows = [task(n, outcome, arm="ab"[n % 2], turn=n) for n, outcome in enumerate(outcomes)]
        return forecast_lines(summarise_experiment(row, rows, NOW))

    tasks = tasks_to_decide(0.5, 0.4, (1, 1), 40.0)
    words = f"At these rates, a would be called better than b after some {tasks:,} tasks of both; 80 are counted"
    assert lines(80, (5, 4)) == [words]
    assert lines(2 * MIN_COUNTED - 2, (5, 4)) == []
    # Told apart already.
    assert lines(400, (9, 1)) == []
