import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.analytics.intervals import wilson_interval
from miner.analytics.rating import DEFAULT_SCALE, MIN_JUDGED, AcceptanceRate, Rating, Scale


def rate(accepted: int, judged: int) -> Rating:
    return AcceptanceRate(accepted, judged).rating


@pytest.mark.parametrize(
    ("accepted", "judged", "words"),
    [
        (0, 0, "not enough data, 20 more tasks"),
        (3, 4, "not enough data, 16 more tasks"),
        (4, 4, "not enough data, 16 more tasks"),
        (0, 5, "not enough data, 15 more tasks"),
        (19, 19, "not enough data, 1 more task"),
        (0, 20, "below 0.45"),
        (9, 21, "not enough data, 2050 more tasks"),
        (212, 500, "not enough data, 907 more tasks"),
        (45, 100, "not enough data"),
        (180, 500, "below 0.45"),
        (275, 500, "at least modest"),
        (300, 500, "at least minimum"),
        (650, 1000, "at least good"),
        (1450, 2000, "at least excellent"),
        (20, 20, "at least excellent"),
    ],
)
def test_ratings(accepted: int, judged: int, words: str) -> None:
    assert str(rate(accepted, judged)) == words


def test_tasks_until_the_next_band() -> None:
    found = rate(620, 1000)
    assert str(found) == "at least minimum"
    assert found.more_tasks == round(1.959963984540054**2 * 0.6 * 0.4 / 0.02**2) - 1000
    # A rate of exactly .60 never shows that it is at least .60.
    assert rate(3000, 5000).more_tasks is None
    assert rate(1450, 2000).more_tasks is None
    assert (str(rate(1440, 2000)), rate(1440, 2000).more_tasks) == ("at least good", 17)


def test_no_proportion() -> None:
    with pytest.raises(ValueError, match="no proportion"):
        rate(2, 1)


counts = st.integers(1, 3000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


@given(counts)
def test_a_rating_is_what_the_interval_allows(pair: tuple[int, int]) -> None:
    low, high = wilson_interval(*pair)
    found = rate(*pair)
    has_enough = pair[1] >= MIN_JUDGED
    assert found.is_below == (has_enough and high < DEFAULT_SCALE.lowest)
    assert (found.band is not None) == (has_enough and low >= DEFAULT_SCALE.lowest)
    if found.band is not None:
        assert low >= found.band.floor
        assert all(low < band.floor for band in DEFAULT_SCALE.bands if band.floor > found.band.floor)


@given(counts)
def test_the_rating_comes_when_it_was_promised(pair: tuple[int, int]) -> None:
    accepted, judged = pair
    before = rate(accepted, judged)
    if before.more_tasks is None or before.is_known:
        return
    # At a multiple of the counts the rate is the same.
    factor = -(-(judged + before.more_tasks) // judged)
    assert rate(factor * accepted, factor * judged).is_known
    if factor > 2:
        assert not rate((factor - 2) * accepted, (factor - 2) * judged).is_known


def test_a_scale_of_ones_own() -> None:
    scale = Scale.of({"poor": 0.2, "superb": 0.9})
    assert [band.name for band in scale.bands] == ["superb", "poor"]
    assert str(AcceptanceRate(60, 60, scale).rating) == "at least superb"
    assert str(AcceptanceRate(30, 60, scale).rating) == "at least poor"
    assert str(AcceptanceRate(1, 60, scale).rating) == "below 0.20"
    assert scale.explanation == (
        'Verdicts: superb from 0.90, poor from 0.20 (bands in miner.yaml). "At least superb" needs 20 judged results '
        'and a 95 % interval from 0.90 or above, "below 0.20" as many and one that ends below.'
    )


def test_a_rate_has_its_counts_share_and_interval() -> None:
    found = AcceptanceRate(3, 4)
    assert (found.rejected, found.share, found.interval) == (1, 0.75, wilson_interval(3, 4))
    assert (AcceptanceRate(0, 0).share, AcceptanceRate(0, 0).interval) == (None, (0.0, 1.0))
