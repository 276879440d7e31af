"""Acceptance rates and their rating: a rate is called good or bad only once its interval allows it."""

from dataclasses import dataclass
from functools import cached_property

from miner.analytics.intervals import tasks_to_exclude, wilson_interval
from miner.words import plural


@dataclass(frozen=True)
class Band:
    """The acceptance rates from `floor` up to the floor of the next better band."""

    name: str
    floor: float


# From the best down; a rate below the last floor has no name.
BANDS = (Band("excellent", 0.70), Band("good", 0.60), Band("minimum", 0.55), Band("modest", 0.45))
LOWEST_FLOOR = BANDS[-1].floor


@dataclass(frozen=True)
class Rating:
    """The statement that judged results allow, and how many more results the next statement needs.

    With a `band`, the rate is at least its floor; with `is_below`, it is under the lowest floor; with neither, there is
    not enough data. `more_tasks`: judged results until the next statement if the rate stays as it is, which is the
    first statement, or else the band that the rate itself lies in; None if there is no further statement, or no telling
    when.
    """

    band: Band | None
    is_below: bool
    more_tasks: int | None

    @property
    def is_known(self) -> bool:
        """Return whether there is enough data for a statement."""
        return self.band is not None or self.is_below

    def __str__(self) -> str:
        """Return the statement in words."""
        if self.band is not None:
            return f"at least {self.band.name}"
        if self.is_below:
            return f"below {LOWEST_FLOOR:.2f}"
        return "not enough data" + (f", {plural(self.more_tasks, 'more task')}" if self.more_tasks is not None else "")


@dataclass(frozen=True)
class AcceptanceRate:
    """How many of the judged results were accepted. Its interval raises ValueError unless 0 <= accepted <= judged."""

    accepted: int
    judged: int

    @property
    def rejected(self) -> int:
        """The number of rejected results."""
        return self.judged - self.accepted

    @property
    def share(self) -> float | None:
        """The share of accepted results; None without data."""
        return self.accepted / self.judged if self.judged else None

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the share; (0, 1) without data."""
        return wilson_interval(self.accepted, self.judged)

    @property
    def rating(self) -> Rating:
        """The best statement that the interval allows."""
        low, high = self.interval
        if high < LOWEST_FLOOR:
            return Rating(None, is_below=True, more_tasks=None)
        band = next((band for band in BANDS if low >= band.floor), None)
        return Rating(band, is_below=False, more_tasks=self._tasks_to_next(band))

    def _tasks_to_next(self, band: Band | None) -> int | None:
        share = self.share
        if share is None:
            return None
        target = LOWEST_FLOOR
        if band is not None:
            # A rate that equals a floor never clears it.
            target = next((better.floor for better in BANDS if better.floor < share), LOWEST_FLOOR)
            if target <= band.floor:
                return None
        needed = tasks_to_exclude(share, target)
        return None if needed is None else max(1, needed - self.judged)
