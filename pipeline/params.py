"""Settings of the samplers, and the contexts that samples are conditioned on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from torch import Tensor

# Tokens [1, S, C], or [B, S, C] if each sample of a batch has its own; None for tokens that are all zero.
Context = Tensor | None
# (x, step, indices) -> the velocity at x under each of those contexts, each of x's shape. `step` counts the times, and
# `indices` the contexts, that the velocities were prepared for; see `Conditions.contexts`.
Velocities = Callable[[Tensor, int, Sequence[int]], Sequence[Tensor]]
# Index of the negative context in `Conditions.contexts`.
NEGATIVE = -1


@dataclass(frozen=True)
class SamplerParams:
    """Settings of one sampler, named as upstream names them.

    steps:        Euler steps, at least 1.
    cfg_strength: s in v = (1 + s) * v_cond - s * v_neg; 0 means the conditional velocity only.
    cfg_interval: guidance applies where lo <= t <= hi, on the rescaled time.
    rescale_t:    r in t = r * u / (1 + (r - 1) * u); above 1 spends more steps near t = 1.
    reuse:        number of consecutive guided steps that take the velocity of the step before them instead of
                  evaluating their own; not an upstream setting, and only 0 is exact. Guided steps cost two evaluations
                  and, near t = 1, are short.
    """

    steps: int
    cfg_strength: float
    cfg_interval: tuple[float, float] = (0.0, 1.0)
    rescale_t: float = 1.0
    reuse: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError if a setting is out of range."""
        lo, hi = self.cfg_interval
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if not 0 <= self.cfg_strength < math.inf:
            raise ValueError(f"cfg_strength must be finite and not negative, is {self.cfg_strength}")
        if not 0 <= lo <= hi <= 1:
            raise ValueError(f"cfg_interval must satisfy 0 <= lo <= hi <= 1, is {self.cfg_interval}")
        if not 0 < self.rescale_t < math.inf:
            raise ValueError(f"rescale_t must be finite and positive, is {self.rescale_t}")
        if self.reuse < 0:
            raise ValueError(f"reuse must not be negative, is {self.reuse}")

    def published(self) -> dict[str, object]:
        """Return the settings that upstream knows, as its pipeline.json has them."""
        return {name: value for name, value in asdict(self).items() if name != "reuse"}

    def guided(self, t: float) -> bool:
        """Return whether guidance applies at time t."""
        lo, hi = self.cfg_interval
        return self.cfg_strength > 0 and lo <= t <= hi


@dataclass(frozen=True, eq=False)
class Conditions:
    """The contexts of a sample: one or several views of an object, and the negative context.

    Several views take turns from step to step ("stochastic"), or their velocities are averaged in every step
    ("multidiffusion").
    """

    positive: tuple[Context, ...]
    negative: Context
    combine: Literal["stochastic", "multidiffusion"] = "stochastic"

    @property
    def contexts(self) -> tuple[Context, ...]:
        """All contexts: the positive ones, then the negative one, which is also at NEGATIVE."""
        return (*self.positive, self.negative)

    def views_at(self, step: int) -> Sequence[int]:
        """Return the indices of the positive contexts whose velocities are averaged in a step."""
        views = range(len(self.positive))
        return views if self.combine == "multidiffusion" else (views[step % len(views)],)


@dataclass(frozen=True)
class VoxelLimit:
    """The largest number of occupied voxels; an excess is an error, or the least likely voxels are dropped."""

    count: int
    excess: Literal["refuse", "drop"] = "refuse"


@dataclass(frozen=True)
class CutOutParams:
    """How the object of a picture is cut out of its ground and framed.

    models:    which of the loaded models are run, in this order; all of them if none is named.
    choose:    of the mattes of several models, the one that the rule expects most of, or the first usable one, for
               which later models are not run.
    unusable:  a picture of which no model makes a cut-out is refused, or the whole of it becomes the object.
    pieces:    what is kept of an object: all pieces, the largest, or those of at least this share of it.
    clean_edges: whether colours of the ground are taken out of soft edges.
    faint:     an object too faint to be framed is refused, or its alpha scaled up until it is opaque.
    margin:    side of the framing square over the longest side of the object.
    min_side:  an object whose longest side has fewer pixels is refused.
    enlarge:   pictures with a shorter longest side are enlarged to it before they are cut out; None leaves them small.
    """

    models: tuple[str, ...] = ()
    choose: Literal["rule", "first"] = "rule"
    unusable: Literal["refuse", "whole"] = "refuse"
    pieces: Literal["all", "largest"] | float = "all"
    clean_edges: bool = False
    faint: Literal["refuse", "scale"] = "refuse"
    margin: float = 1.2
    min_side: int = 2
    enlarge: int | None = None


@dataclass(frozen=True)
class TextToImageParams:
    """Settings of a text-to-image model, and of how the objects of its drawings are cut out.

    guidance: 0 for models that are distilled to few steps.
    drawings: pictures that are drawn of a sentence before the first object is made, the best matte first. With more
              than one, an object depends on how many were made before it.
    """

    steps: int = 4
    guidance: float = 0.0
    drawings: int = 1
    cut_out: CutOutParams = field(default_factory=CutOutParams)
