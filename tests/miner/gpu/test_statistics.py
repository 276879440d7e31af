from miner.gpu.statistics import WINDOW, CandidateCounter


def test_candidates_a_minute_are_those_of_the_last_minutes() -> None:
    moment = 100.0
    counter = CandidateCounter(lambda: moment)
    assert (counter.total, counter.per_minute) == (0, 0.0)
    for _ in range(11):
        counter.count()
        moment += 2.0
    # Eleven in 22 s.
    assert (counter.total, counter.per_minute) == (11, 30.0)
    moment += WINDOW
    assert (counter.total, counter.per_minute) == (11, 0.0)
