"""Acceptance rates and their rating: a rate is called good or bad only once its interval allows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from miner.analytics.intervals import tasks_to_exclude, wilson_interval
from miner.config import BANDS
from miner.words import plural

# Judged results below which nothing is said: four of four have an interval above 0.5 already, and mean little.
MIN_JUDGED = 20


@dataclass(frozen=True)
class Band:
    """The acceptance rates from `floor` up to the floor of the next better band."""

    name: str
    floor: float


@dataclass(frozen=True)
class Scale:
    """Bands, at least one, from the best down; a rate below the last floor has no name."""

    bands: tuple[Band, ...]

    @staticmethod
    def of(floors: Mapping[str, float]) -> "Scale":
        """Return the scale of bands with these names and floors, in any order."""
        bands = (Band(name, floor) for name, floor in floors.items())
        return Scale(tuple(sorted(bands, key=lambda band: -band.floor)))

    @property
    def lowest(self) -> float:
        """The floor of the last band."""
        return self.bands[-1].floor

    @property
    def explanation(self) -> str:
        """The bands, and what a verdict needs, in words."""
        named = ", ".join(f"{band.name} from {band.floor:.2f}" for band in self.bands)
        best = self.bands[0]
        return (
            f'Verdicts: {named} (bands in miner.yaml). "At least {best.name}" needs {MIN_JUDGED} judged results and a '
            f'95 % interval from {best.floor:.2f} or above, "below {self.lowest:.2f}" as many and one that ends below.'
        )


DEFAULT_SCALE = Scale.of(BANDS)


@dataclass(frozen=True)
class Rating:
    """The statement that judged results allow, and how many more results the next statement needs.

    With a `band`, the rate is at least its floor; with `below`, it is under that, the lowest floor; with neither, there
    is not enough data. `more_tasks`: judged results until the next statement if the rate stays as it is, which is the
    first statement, or else the band that the rate itself lies in; None if there is no further statement, or no telling
    when.
    """

    band: Band | None
    below: float | None
    more_tasks: int | None

    @property
    def is_below(self) -> bool:
        """Whether the rate is under the lowest floor."""
        return self.below is not None

    @property
    def is_known(self) -> bool:
        """Whether there is enough data for a statement."""
        return self.band is not None or self.is_below

    def __str__(self) -> str:
        """Return the statement in words."""
        if self.band is not None:
            return f"at least {self.band.name}"
        if self.below is not None:
            return f"below {self.below:.2f}"
        return "not enough data" + (f", {plural(self.more_tasks, 'more task')}" if self.more_tasks is not None else "")


@dataclass(frozen=True)
class AcceptanceRate:
    """How many of the judged results were accepted. Its interval raises ValueError unless 0 <= accepted <= judged."""

    accepted: int
    judged: int
    scale: Scale = DEFAULT_SCALE

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
        """The best statement that MIN_JUDGED results and the interval allow."""
        low, high = self.interval
        if self.judged < MIN_JUDGED:
            return Rating(None, below=None, more_tasks=self._tasks_to_next(None))
        if high < self.scale.lowest:
            return Rating(None, below=self.scale.lowest, more_tasks=None)
        band = next((band for band in self.scale.bands if low >= band.floor), None)
        return Rating(band, below=None, more_tasks=self._tasks_to_next(band))

    def _tasks_to_next(self, band: Band | None) -> int | None:
        share, lowest = self.share, self.scale.lowest
        if share is None:
            return MIN_JUDGED
        target = lowest
        if band is not None:
            # A rate that equals a floor never clears it.
            target = next((better.floor for better in self.scale.bands if better.floor < share), lowest)
            if target <= band.floor:
                return None
        needed = tasks_to_exclude(share, target)
        return None if needed is None else max(1, needed - self.judged, MIN_JUDGED - self.judged)
