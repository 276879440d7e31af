"""The chance to pass as a function of the score, on data whose truth is known."""

import math

import numpy as np
import pytest
from scipy import optimize

from miner.analytics.calibration import Bools, Calibration, Normal, Prior, brier_score, fit_calibration, reliability
from miner.analytics.intervals import Floats, wilson_interval

PRIOR = Prior(intercept=Normal(0.0, 1.5), slope=Normal(40.0, 25.0))
TRUTH = Calibration(-0.6, 30.0)


def draw(rng: np.random.Generator, count: int, truth: Calibration = TRUTH) -> tuple[Floats, Bools]:
    margins = rng.normal(0.01, 0.06, count)
    return margins, rng.random(count) < truth.predict(margins)


def test_the_fit_recovers_the_truth() -> None:
    errors = []
    for seed in range(40):
        found = fit_calibration(*draw(np.random.default_rng(seed), 20_000), PRIOR)
        errors.append((found.intercept - TRUTH.intercept, found.slope - TRUTH.slope))
        assert found.outcomes == 20_000
    # Four standard errors of 40 fits, each of which is off by some 0.02 and 0.5.
    intercept, slope = np.mean(errors, axis=0)
    assert abs(intercept) < 0.015
    assert abs(slope) < 0.35
    assert np.std(errors, axis=0) == pytest.approx([0.0165, 0.44], rel=0.5)


def test_the_fit_is_the_peak_of_the_posterior() -> None:
    margins, passed = draw(np.random.default_rng(1), 60)

    def loss(at: Floats) -> float:
        logits = at[0] + at[1] * margins
        priors = (at[0] / 1.5) ** 2 + ((at[1] - 40) / 25) ** 2
        return float(np.logaddexp(0, np.where(passed, -logits, logits)).sum() + priors / 2)

    best = optimize.minimize(loss, (0.0, 40.0), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12})
    found = fit_calibration(margins, passed, PRIOR)
    assert (found.intercept, found.slope) == pytest.approx(best.x, abs=1e-4)


def test_without_outcomes_the_prior_holds_and_few_hardly_move_it() -> None:
    nothing = fit_calibration(np.zeros(0), np.zeros(0, np.bool_), PRIOR)
    assert (nothing.intercept, nothing.slope, nothing.outcomes) == (0.0, 40.0, 0)
    assert nothing.chance(0.0) == 0.5
    assert nothing.chance(0.05) == pytest.approx(1 / (1 + math.exp(-2)))
    one = fit_calibration(np.array([0.05]), np.array([False]), PRIOR)
    assert 0.2 < one.chance(0.0) < 0.5
    many = fit_calibration(np.full(400, 0.05), np.zeros(400, np.bool_), PRIOR)
    assert many.chance(0.05) < 0.02


def test_scores_that_tell_all_apart_leave_the_fit_finite() -> None:
    """Without a prior, the slope of separated outcomes is infinite."""
    margins = np.linspace(-0.1, 0.1, 500)
    found = fit_calibration(margins, margins > 0, PRIOR)
    assert 100 < found.slope < 1000
    assert found.chance(-0.02) < 0.1 < 0.9 < found.chance(0.02)
    far = fit_calibration(np.array([-1e6, 1e6, 1e6]), np.array([False, True, False]), PRIOR)
    assert math.isfinite(far.intercept)
    assert 0 <= far.chance(-1e9) <= far.chance(1e9) <= 1


def test_a_higher_score_never_passes_less() -> None:
    rng = np.random.default_rng(3)
    margins, passed = draw(rng, 5000, Calibration(1.0, -20.0))
    found = fit_calibration(margins, passed, PRIOR)
    assert found.slope == 0
    assert found.chance(0.3) == found.chance(-0.3) == pytest.approx(float(passed.mean()), abs=0.01)


def test_results_that_were_withheld_for_their_score_do_not_bias_the_fit() -> None:
    """The chance at a score is the same whether others at other scores were sent or not."""
    rng = np.random.default_rng(4)
    margins, passed = draw(rng, 60_000)
    is_sent = (margins > 0) | (rng.random(len(margins)) < 0.05)
    found = fit_calibration(margins[is_sent], passed[is_sent], PRIOR)
    assert passed[is_sent].mean() > passed.mean() + 0.15
    grid = np.linspace(-0.15, 0.15, 31)
    assert np.abs(found.predict(grid) - TRUTH.predict(grid)).max() < 0.02


def test_margins_must_be_numbers() -> None:
    for margins in (np.array([math.nan]), np.array([math.inf]), np.zeros(2)):
        with pytest.raises(ValueError, match="finite margin for each outcome"):
            fit_calibration(margins, np.array([True]), PRIOR)


def test_the_brier_score() -> None:
    assert brier_score(np.zeros(0), np.zeros(0, np.bool_)) is None
    assert brier_score(np.array([1.0, 0.0]), np.array([True, False])) == 0
    assert brier_score(np.array([0.8, 0.4]), np.array([True, True])) == pytest.approx((0.04 + 0.36) / 2)


def test_the_bins_of_reliability() -> None:
    chances = np.array([0.0, 0.05, 0.1, 0.55, 0.59, 0.5, 1.0])
    passed = np.array([False, True, False, True, True, False, True])
    first, second, middle, last = reliability(chances, passed)
    assert (first.low, first.high, first.passed, first.total, first.predicted) == (0.0, 0.1, 1, 2, 0.025)
    assert (second.low, second.passed, second.total) == (0.1, 0, 1)
    assert (middle.passed, middle.total, middle.share) == (2, 3, pytest.approx(2 / 3))
    assert middle.interval == wilson_interval(2, 3)
    assert middle.predicted == pytest.approx(1.64 / 3)
    assert (last.low, last.high, last.total) == (0.9, 1.0, 1)
    assert reliability(np.zeros(0), np.zeros(0, np.bool_)) == ()


def test_a_fit_is_reliable_where_it_is_used() -> None:
    """Nineteen of twenty Wilson intervals hold the mean of the predictions."""
    misses = total = 0
    for seed in range(30):
        margins, passed = draw(np.random.default_rng(seed), 2000)
        for found in reliability(fit_calibration(margins, passed, PRIOR).predict(margins), passed):
            low, high = found.interval
            misses, total = misses + (not low <= found.predicted <= high), total + 1
    assert total == 300
    assert misses <= 0.08 * total
