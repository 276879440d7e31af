"""What an acceptance rate is worth: bands, and a verdict only once the interval allows it."""

from __future__ import annotations

from dataclasses import dataclass

from miner.analytics.intervals import tasks_to_exclude, wilson_interval


@dataclass(frozen=True)
class Band:
    """Acceptance rates from `floor` up to the floor of the next band."""

    name: str
    floor: float


# From the best down; below the last floor there is no name.
BANDS = (Band("excellent", 0.70), Band("good", 0.60), Band("minimum", 0.55), Band("modest", 0.45))
LOWEST = BANDS[-1].floor


@dataclass(frozen=True)
class Rating:
    """What `accepted` of `judged` results show: one of three forms, and the tasks until more could be said.

    `band`: the rate is at least this band's floor. `below`: it is under the lowest floor. Neither: not enough data.
    `more`: judged results until the next statement, if the rate stays as it is: of not enough data, to any verdict; of
    a band, to the band that the rate itself lies in. None if there is nothing more to say, or no saying when.
    """

    band: Band | None
    below: bool
    more: int | None

    @property
    def is_known(self) -> bool:
        """Whether there is enough data for any verdict."""
        return self.band is not None or self.below

    def __str__(self) -> str:
        if self.band is not None:
            return f"at least {self.band.name}"
        if self.below:
            return f"below {LOWEST:.2f}"
        return "not enough data" + (f", {self.more} more tasks" if self.more is not None else "")


def verdict(accepted: int, judged: int) -> Rating:
    """Judge a rate by its 95 % Wilson interval. Raises ValueError unless 0 <= accepted <= judged."""
    low, high = wilson_interval(accepted, judged)
    if high < LOWEST:
        return Rating(None, below=True, more=None)
    reached = next((band for band in BANDS if low >= band.floor), None)
    return Rating(reached, below=False, more=_more(accepted, judged, reached))


def _more(accepted: int, judged: int, reached: Band | None) -> int | None:
    if judged == 0:
        return None
    share = accepted / judged
    if reached is None:
        target = LOWEST
    else:
        # A rate that lies on a floor never clears it.
        target = next((band.floor for band in BANDS if band.floor < share), LOWEST)
        if target <= reached.floor:
            return None
    needed = tasks_to_exclude(share, target)
    return None if needed is None else max(1, needed - judged)
