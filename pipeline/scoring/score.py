"""The validator's score as it is computed here, part by part."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pipeline.scoring.formula import final_score

Part = Literal["quality", "alignment", "similarity"]
PARTS: tuple[Part, ...] = ("quality", "alignment", "similarity")


@dataclass(frozen=True)
class Score:
    """The parts of a validator's score of one result, each None if it was not computed.

    quality:   0..1, how good the views look.
    alignment: how well they follow the prompt, as validators scale it: sentences reach 2.86, pictures 1.
    ssim:      0..1, structural similarity of neighbouring views.
    lpips:     0..1, one minus the perceptual distance of neighbouring views.
    """

    quality: float | None = None
    alignment: float | None = None
    ssim: float | None = None
    lpips: float | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that were computed."""
        present = (self.quality, self.alignment, self.ssim if self.lpips is not None else None)
        return tuple(part for part, value in zip(PARTS, present, strict=True) if value is not None)

    @property
    def total(self) -> float | None:
        """The score that a validator compares with its threshold, which may be NaN; None if a part is missing."""
        return self._weighted() if self.parts == PARTS else None

    # Of a task with hundreds of candidates, each is compared again with every further one.
    @cached_property
    def rank(self) -> float:
        """A number by which results with the same parts are ordered as validators would order them, NaN last."""
        weighted = self._weighted()
        return -math.inf if math.isnan(weighted) else weighted

    def _weighted(self) -> float:
        # What is missing counts the same for every result. Without alignment, none falls below its threshold.
        alignment = 1.0 if self.alignment is None else self.alignment
        return final_score(self.quality or 0.0, alignment, self.ssim or 0.0, self.lpips or 0.0)

    def __str__(self) -> str:
        """Return the parts by name, then the total if there is one: `quality 0.712, alignment 0.430, score 0.640`."""
        numbers = {"quality": self.quality, "alignment": self.alignment, "ssim": self.ssim, "lpips": self.lpips}
        numbers["score"] = self.total
        return ", ".join(f"{name} {value:.3f}" for name, value in numbers.items() if value is not None)
