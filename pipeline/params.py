"""Settings of the samplers and what samples are conditioned on; knows nothing of networks, files or devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Generic, Literal, TypeVar

from torch import Tensor

# Tokens [1, S, C] that a velocity is conditioned on, or None for tokens that are all zero.
Context = Tensor | None
AnyContext = TypeVar("AnyContext")
# (x, t, contexts) -> the velocity at x under each context, each of x's shape; t in [0, 1].
Velocities = Callable[[Tensor, float, Sequence[AnyContext]], Sequence[Tensor]]


@dataclass(frozen=True)
class SamplerParams:
    """Settings of one sampler; names are upstream's own.

    steps:        Euler steps, at least 1.
    cfg_strength: s in v = (1 + s) * v_cond - s * v_neg; 0 means the conditional velocity only.
    cfg_interval: guidance applies where lo <= t <= hi, on the rescaled time.
    rescale_t:    r in t = r * u / (1 + (r - 1) * u); above 1 spends more steps near t = 1.
    reuse:        guided steps that take the velocity of the step before instead of their own, between two that do
                  not; not upstream's, and 0 is exact. Guided steps cost two evaluations and, near t = 1, are short.
    """

    steps: int
    cfg_strength: float
    cfg_interval: tuple[float, float] = (0.0, 1.0)
    rescale_t: float = 1.0
    reuse: int = 0

    def __post_init__(self) -> None:
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
        """The settings that upstream knows, as its pipeline.json has them."""
        return {name: value for name, value in asdict(self).items() if name != "reuse"}

    def guided(self, t: float) -> bool:
        """Whether guidance applies at time t."""
        lo, hi = self.cfg_interval
        return self.cfg_strength > 0 and lo <= t <= hi


@dataclass(frozen=True)
class Conditions(Generic[AnyContext]):
    """What a sample is conditioned on: one context or several views of one object, and the negative context.

    Several views take turns from step to step ("stochastic"), or their velocities are averaged in every step
    ("multidiffusion").
    """

    positive: tuple[AnyContext, ...]
    negative: AnyContext
    combine: Literal["stochastic", "multidiffusion"] = "stochastic"

    def at(self, index: int) -> tuple[AnyContext, ...]:
        """The contexts whose velocities are averaged in step `index`."""
        return self.positive if self.combine == "multidiffusion" else (self.positive[index % len(self.positive)],)


@dataclass(frozen=True)
class VoxelLimit:
    """At most `count` occupied voxels; what is above is an error, or the least likely voxels are dropped."""

    count: int
    excess: Literal["refuse", "drop"] = "refuse"


@dataclass(frozen=True)
class TextToImageParams:
    """How a sentence is drawn: sampler steps, and guidance, of which models distilled to few steps take none."""

    steps: int = 4
    guidance: float = 0.0
