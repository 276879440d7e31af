import itertools
import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats

from miner.analytics.assignment import Experiment
from miner.analytics.sequential_test import (
    DELTAS,
    LOG_PRIOR,
    ContingencyTables,
    ExperimentResult,
    Observation,
    evaluate,
    log_e_values,
    odds_ratio_interval,
)
from miner.ledger.events import Stratum

IMAGE, TEXT = Stratum("5V", "image"), Stratum("5V", "text")
EVEN = Experiment(7, {"phase3": 50, "baseline": 50})


def draws(experiment: Experiment, stratum: Stratum, tasks: int) -> list[str]:
    return [experiment.arm(stratum, turn) for turn in range(tasks)]


@pytest.mark.parametrize(
    ("weights", "block"),
    [
        ({"a": 50, "b": 50}, {"a": 1, "b": 1}),
        ({"a": 70, "b": 30}, {"a": 7, "b": 3}),
        ({"a": 50, "b": 25, "c": 25}, {"a": 2, "b": 1, "c": 1}),
    ],
)
def test_each_block_holds_each_arm_as_often_as_its_weight_says(weights: dict[str, int], block: dict[str, int]) -> None:
    experiment = Experiment(3, weights)
    size = sum(block.values())
    arms = draws(experiment, IMAGE, 20 * size)
    for start in range(0, len(arms), size):
        assert Counter(arms[start : start + size]) == block


def test_the_draw_is_the_same_in_every_process_and_differs_by_seed_and_stratum() -> None:
    # As drawn when this was written: an experiment must be drawn again from the ledger years later.
    assert "".join(arm[0] for arm in draws(EVEN, IMAGE, 16)) == "pbbpbppbbpbppbpb"
    assert draws(Experiment(7, {"phase3": 1, "baseline": 1}), IMAGE, 16) == draws(EVEN, IMAGE, 16)
    others = [
        draws(Experiment(8, EVEN.weights), IMAGE, 64),
        draws(EVEN, TEXT, 64),
        draws(EVEN, Stratum("5W", "image"), 64),
    ]
    assert all(other != draws(EVEN, IMAGE, 64) for other in others)


def test_the_order_within_blocks_is_fair() -> None:
    experiment = Experiment(1, {"a": 1, "b": 1, "c": 1})
    arms = draws(experiment, IMAGE, 3 * 3000)
    orders = Counter(tuple(arms[start : start + 3]) for start in range(0, len(arms), 3))
    assert len(orders) == 6
    assert stats.chisquare(list(orders.values())).pvalue > 0.001


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"a": 100}, "at least two arms"),
        ({"a": 0, "b": 100}, "weight of 1 or more"),
        ({"a": 33, "b": 67}, "a=33, b=67 repeats only after 100 tasks.*70 and 30"),
    ],
)
def test_what_is_no_experiment(weights: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Experiment(0, weights)


def observations(
    experiment: Experiment,
    rates: Mapping[str, float],
    tasks: int,
    seed: int,
    strata: tuple[Stratum, ...] = (IMAGE, TEXT),
) -> list[Observation]:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(tasks):
        stratum, turn = strata[number % len(strata)], number // len(strata)
        arm = experiment.arm(stratum, turn)
        found.append(Observation(stratum, turn, arm, bool(rng.random() < rates[arm]), float(number)))
    return found


def highest(decision: ExperimentResult) -> dict[tuple[str, str], float]:
    return {(c.better, c.worse): c.highest_e_value for c in decision.comparisons}


def test_a_better_arm_wins_and_the_other_is_clearly_worse() -> None:
    decision = evaluate(EVEN, observations(EVEN, {"phase3": 0.7, "baseline": 0.3}, 400, seed=1))
    assert (decision.state, decision.winner, decision.losers) == ("winner", "phase3", ("baseline",))
    assert (decision.threshold, decision.blocks, decision.counted) == (40.0, 200, 400)
    e_values = highest(decision)
    assert e_values["phase3", "baseline"] > 40 > e_values["baseline", "phase3"]
    low, high = decision.comparisons[0].odds_ratio
    assert 1 < low < (0.7 / 0.3) ** 2 < high
    back = decision.comparisons[1].odds_ratio
    assert back == pytest.approx((1 / high, 1 / low))


def test_without_results_one_goes_on() -> None:
    for few in ([], observations(EVEN, {"phase3": 0.7, "baseline": 0.3}, 2, seed=1)):
        decision = evaluate(EVEN, few)
        assert (decision.state, decision.winner, decision.losers, decision.blocks) == ("continue", None, (), 0)
        assert all((c.e_value, c.odds_ratio) == (1.0, (0.0, math.inf)) for c in decision.comparisons)


def test_of_three_arms_one_may_be_worse_before_any_wins() -> None:
    experiment = Experiment(5, {"a": 1, "b": 1, "c": 1})
    decision = evaluate(experiment, observations(experiment, {"a": 0.6, "b": 0.6, "c": 0.2}, 600, seed=2))
    assert (decision.state, decision.winner, decision.losers) == ("loser", None, ("c",))
    assert (decision.threshold, len(decision.comparisons)) == (120.0, 6)
    decision = evaluate(experiment, observations(experiment, {"a": 0.8, "b": 0.5, "c": 0.2}, 600, seed=2))
    assert (decision.state, decision.winner, decision.losers) == ("winner", "a", ("b", "c"))


def test_the_order_in_which_observations_are_given_and_pairs_are_named_does_not_matter() -> None:
    some = observations(EVEN, {"phase3": 0.6, "baseline": 0.4}, 200, seed=3)
    assert evaluate(EVEN, some[::-1]) == evaluate(EVEN, some)


def test_a_decision_does_not_depend_on_who_looked_before() -> None:
    some = observations(EVEN, {"phase3": 0.6, "baseline": 0.4}, 300, seed=4)
    looks = [highest(evaluate(EVEN, some[:n])) for n in range(0, 301, 10)]
    for pair in looks[-1]:
        seen = [look[pair] for look in looks]
        assert seen == sorted(seen)
    every = [evaluate(EVEN, some[:n]).comparisons[0].e_value for n in range(301)]
    assert looks[-1]["phase3", "baseline"] == pytest.approx(max(every))


def test_only_whole_blocks_count_in_the_order_in_which_they_ended() -> None:
    pending = [
        Observation(IMAGE, 0, EVEN.arm(IMAGE, 0), True, 1.0),
        Observation(IMAGE, 1, EVEN.arm(IMAGE, 1), None, math.inf),
    ]
    assert evaluate(EVEN, pending).blocks == 0
    given_up = [pending[0], Observation(IMAGE, 1, EVEN.arm(IMAGE, 1), None, 3600.0)]
    decision = evaluate(EVEN, given_up)
    assert (decision.blocks, decision.counted) == (1, 1)
    assert [c.e_value for c in decision.comparisons] == pytest.approx([1.0, 1.0])
    # A gap in the ledger leaves a block open, and what is there twice was drawn once.
    assert evaluate(EVEN, [pending[0], Observation(IMAGE, 2, EVEN.arm(IMAGE, 2), True, 2.0)]).blocks == 0
    assert evaluate(EVEN, [pending[0], pending[0]]).blocks == 0


def block(stratum: Stratum, winner: str, *ended: float) -> list[Observation]:
    """The first block of a stratum, in which only one arm was accepted."""
    arms = (EVEN.arm(stratum, 0), EVEN.arm(stratum, 1))
    return [Observation(stratum, turn, arm, arm == winner, ended[turn]) for turn, arm in enumerate(arms)]


def test_blocks_count_in_the_order_in_which_they_ended() -> None:
    lost_last = [*block(IMAGE, "baseline", 0.0, 100.0), *block(TEXT, "phase3", 1.0, 2.0)]
    lost_first = [*block(IMAGE, "baseline", 0.0, 1.5), *block(TEXT, "phase3", 1.0, 2.0)]
    assert highest(evaluate(EVEN, lost_last))["phase3", "baseline"] > 1.1
    assert highest(evaluate(EVEN, lost_first))["phase3", "baseline"] == pytest.approx(1.0)


def test_of_a_task_that_is_there_twice_the_first_verdict_counts() -> None:
    once = block(IMAGE, "phase3", 1.0, 2.0)
    again = [one._replace(accepted=not one.accepted, ended=one.ended + 10) for one in once]
    assert evaluate(EVEN, [*again, *once]) == evaluate(EVEN, once)


def test_the_bets_are_fair_whatever_the_block() -> None:
    """Over all orders of the arms, equally likely, a block's factor is 1 on average, for any results of its tasks."""
    for arms, results in itertools.product(["ab", "aabb", "aaab", "abbbbb"], [0, 1, 2, 3, 4]):
        outcomes = [position < results for position in range(len(arms))]
        factors = []
        for order in itertools.permutations(arms):
            table = [
                sum(outcome for outcome, arm in zip(outcomes, order, strict=True) if arm == "a"),
                order.count("a"),
                sum(outcome for outcome, arm in zip(outcomes, order, strict=True) if arm == "b"),
                order.count("b"),
            ]
            factors.append(math.exp(log_e_values(np.array([table]))[0]))
        assert sum(factors) / len(factors) == pytest.approx(1.0, abs=1e-12)


def test_the_likelihood_is_fishers_noncentral_hypergeometric() -> None:
    table = (5, 7, 2, 6)
    expected = [
        stats.nchypergeom_fisher(13, 7, 7, math.exp(delta)).logpmf(5) - stats.hypergeom(13, 7, 7).logpmf(5)
        for delta in DELTAS.tolist()
    ]
    found = log_e_values(np.array([table]))[0]
    assert found == pytest.approx(np.logaddexp.reduce(np.array(expected) + LOG_PRIOR), abs=1e-9)


def test_the_interval_of_the_odds_ratio_covers_at_any_time() -> None:
    rng = np.random.default_rng(5)
    truth = (0.55 / 0.45) / (0.38 / 0.62)
    missed = 0
    for _ in range(150):
        tables: ContingencyTables = np.ones((400, 4), np.int64)
        tables[:, 0], tables[:, 2] = rng.random(400) < 0.55, rng.random(400) < 0.38
        ends = [odds_ratio_interval(tables[:blocks], 0.05) for blocks in range(20, 401, 20)]
        missed += any(not low <= truth <= high for low, high in ends)
    assert missed / 150 <= 0.05
    low, high = ends[-1]
    assert 1 < low < high < 10
