import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from miner.analytics.intervals import (
    Floats,
    cliffs_delta,
    compare_proportions,
    quantiles,
    tasks_to_distinguish,
    tasks_to_exclude,
    wilson_interval,
)

COUNTS = [(0, 10), (5, 10), (10, 10), (212, 500), (0, 50), (1, 3), (38_000, 100_000)]


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    # From the closed form with z = 1.96; see Brown, Cai, DasGupta (2001) for the method.
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (212, 500, 0.3814, 0.4677),
        (0, 50, 0, 0.0713),
    ],
)
def test_known_intervals(successes: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("successes", "total"), COUNTS)
def test_the_same_intervals_as_scipy(successes: int, total: int) -> None:
    expected = stats.binomtest(successes, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_without_data_everything_is_possible() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "total"), [(-1, 5), (6, 5), (0, -1)])
def test_what_is_no_proportion(successes: int, total: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(successes, total)


@given(st.integers(1, 10_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_share_lies_inside_and_ten_times_the_data_says_more(counts: tuple[int, int]) -> None:
    successes, total = counts
    low, high = wilson_interval(successes, total)
    assert 0 <= low <= successes / total <= high <= 1
    narrower = wilson_interval(10 * successes, 10 * total)
    assert narrower[1] - narrower[0] < high - low


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    # Newcombe (1998), table II, method 10.
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_published_intervals_of_differences(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    found = compare_proportions(first, second)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
    mirrored = compare_proportions(second, first)
    assert (mirrored.low, mirrored.high) == pytest.approx((-high, -low), abs=1e-4)


def test_a_difference_is_clear_when_its_interval_leaves_out_zero() -> None:
    assert compare_proportions((56, 70), (48, 80)).is_clear
    assert compare_proportions((48, 80), (56, 70)).is_clear
    assert not compare_proportions((9, 21), (212, 500)).is_clear


def test_the_interval_of_differences_covers_at_95_percent() -> None:
    generator = np.random.default_rng(1)
    draws = zip(generator.binomial(40, 0.38, 2000).tolist(), generator.binomial(60, 0.55, 2000).tolist(), strict=True)
    found = [compare_proportions((a, 40), (b, 60)) for a, b in draws]
    coverage = sum(f.low <= 0.38 - 0.55 <= f.high for f in found) / len(found)
    assert 0.935 <= coverage <= 0.97


def test_nothing_is_compared_without_data() -> None:
    with pytest.raises(ValueError, match="without data"):
        compare_proportions((0, 0), (1, 2))


@pytest.mark.parametrize(
    ("first", "second", "tasks"), [(0.42, 0.50, 608), (0.42, 0.55, 231), (0.42, 0.62, 97), (0.38, 0.55, 134)]
)
def test_tasks_to_tell_two_rates_apart(first: float, second: float, tasks: int) -> None:
    assert tasks_to_distinguish(first, second) == tasks_to_distinguish(second, first)
    assert tasks_to_distinguish(first, second) == pytest.approx(tasks, abs=2)


def test_the_sample_size_has_the_power_it_promises() -> None:
    n = tasks_to_distinguish(0.38, 0.55)
    assert n is not None
    generator = np.random.default_rng(2)
    first, second = generator.binomial(n, 0.38, 20_000), generator.binomial(n, 0.55, 20_000)
    pooled = (first + second) / (2 * n)
    z = (second - first) / n / np.sqrt(2 * pooled * (1 - pooled) / n)
    assert np.mean(np.abs(z) > stats.norm.ppf(0.975)) == pytest.approx(0.8, abs=0.02)


def test_equal_rates_are_never_told_apart() -> None:
    assert tasks_to_distinguish(0.4, 0.4) is None
    assert tasks_to_exclude(0.45, 0.45) is None


@given(st.integers(1, 400).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_an_interval_leaves_the_bound_out_from_the_number_of_tasks_on_that_was_told(counts: tuple[int, int]) -> None:
    successes, total = counts
    bound = 0.451
    needed = tasks_to_exclude(successes / total, bound)
    assert needed is not None
    low, high = wilson_interval(successes, total)
    assert (low > bound or high < bound) == (total >= needed)


FIRST: Floats = np.array([1.0, 2.0, 2.0, 5.0, 9.0, 9.0, 1e6])
SECOND: Floats = np.array([2.0, 3.0, 3.0, 4.0, 9.0])


def test_the_effect_size_counts_pairs_and_agrees_with_scipy() -> None:
    found = cliffs_delta(FIRST, SECOND)
    assert found is not None
    pairs = [float(np.sign(a - b)) for a in FIRST for b in SECOND]
    assert found.delta == pytest.approx(sum(pairs) / len(pairs), abs=1e-15)
    statistic = stats.mannwhitneyu(FIRST, SECOND).statistic
    assert (found.delta + 1) / 2 == pytest.approx(statistic / (len(FIRST) * len(SECOND)), abs=1e-15)
    mirrored = cliffs_delta(SECOND, FIRST)
    assert mirrored is not None
    assert (mirrored.delta, mirrored.low, mirrored.high) == pytest.approx((-found.delta, -found.high, -found.low))


def test_the_effect_size_of_large_samples_agrees_with_scipy() -> None:
    generator = np.random.default_rng(3)
    first, second = generator.poisson(6, 5000).astype(float), generator.poisson(5, 3000).astype(float)
    found = cliffs_delta(first, second)
    assert found is not None
    expected = stats.mannwhitneyu(first, second).statistic / (5000 * 3000)
    assert (found.delta + 1) / 2 == pytest.approx(expected, abs=1e-12)
    assert found.is_clear
    assert found.magnitude == "small"


def test_separate_samples_still_leave_a_doubt() -> None:
    found = cliffs_delta(np.arange(5.0, 10.0), np.arange(5.0))
    assert found is not None
    assert (found.delta, found.high) == (1.0, pytest.approx(1.0))
    assert 0 < found.low < 0.9
    single = cliffs_delta(np.array([2.0]), np.array([1.0]))
    assert single is not None
    assert single.delta == 1.0
    assert not single.is_clear


def test_the_interval_of_effect_sizes_covers_at_95_percent() -> None:
    generator = np.random.default_rng(4)
    # Two normal samples whose means differ by one deviation: the chance to be larger is Phi(1 / sqrt 2).
    truth = 2 * stats.norm.cdf(1 / math.sqrt(2)) - 1
    intervals = [cliffs_delta(generator.normal(1, 1, 30), generator.normal(0, 1, 20)) for _ in range(1500)]
    coverage = np.mean([found is not None and found.low <= truth <= found.high for found in intervals])
    assert 0.935 <= coverage <= 0.975


def test_the_ends_of_the_interval_of_an_effect_size_solve_the_published_equation() -> None:
    found = cliffs_delta(FIRST, SECOND)
    assert found is not None
    m, n = len(FIRST), len(SECOND)
    for end in ((found.low + 1) / 2, (found.high + 1) / 2):
        spread = 1 + ((m + n) / 2 - 1) * ((1 - end) / (2 - end) + end / (1 + end))
        deviation = math.sqrt(end * (1 - end) * spread / (m * n))
        assert abs((found.delta + 1) / 2 - end) / deviation == pytest.approx(stats.norm.ppf(0.975), abs=1e-9)


def test_words_for_effect_sizes() -> None:
    words = []
    for shift in (0.0, 0.4, 0.7, 1.5):
        normal = stats.norm.ppf((np.arange(400) + 0.5) / 400)
        found = cliffs_delta(normal + shift, normal)
        assert found is not None
        words.append(found.magnitude)
    assert words == ["negligible", "small", "medium", "large"]


def test_nothing_has_no_effect_size_and_no_quantiles() -> None:
    assert cliffs_delta(np.array([]), FIRST) is None
    assert cliffs_delta(FIRST, np.array([])) is None
    assert quantiles(np.array([])) is None


def test_quantiles_agree_with_scipy() -> None:
    expected = stats.mstats.mquantiles(FIRST, [0.5, 0.95], alphap=1, betap=1).tolist()
    found = quantiles(FIRST)
    assert found is not None
    assert [found.p50, found.p95] == pytest.approx(expected)
