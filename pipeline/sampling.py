"""Flow-Euler sampling with classifier-free guidance; knows nothing of networks, files or devices.

Formulas: microsoft/TRELLIS, FlowEulerSampler, FlowEulerCfgSampler and FlowEulerGuidanceIntervalSampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Generic, Literal, TypeVar

import numpy as np
from torch import Tensor

Context = TypeVar("Context")
# (x, t, contexts) -> the velocity at x under each context, each of x's shape; t in [0, 1].
Velocities = Callable[[Tensor, float, Sequence[Context]], Sequence[Tensor]]


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
class Conditions(Generic[Context]):
    """What a sample is conditioned on: one context or several views of one object, and the negative context.

    Several views take turns from step to step ("stochastic"), or their velocities are averaged in every step
    ("multidiffusion").
    """

    positive: tuple[Context, ...]
    negative: Context
    combine: Literal["stochastic", "multidiffusion"] = "stochastic"

    def at(self, index: int) -> tuple[Context, ...]:
        """The contexts whose velocities are averaged in step `index`."""
        return self.positive if self.combine == "multidiffusion" else (self.positive[index % len(self.positive)],)


@dataclass(frozen=True, eq=False)
class Step:
    """One Euler step: from x at time t with `velocity` to x_next at time t_next; index counts from 0."""

    index: int
    t: float
    t_next: float
    x: Tensor
    velocity: Tensor
    x_next: Tensor


def schedule(steps: int, rescale_t: float) -> list[float]:
    """steps + 1 times from 1 to 0. In float64, since a time may meet an end of the guidance interval exactly."""
    uniform = np.linspace(1, 0, steps + 1)
    return [float(t) for t in rescale_t * uniform / (1 + (rescale_t - 1) * uniform)]


def guided_velocity(
    velocities: Velocities[Context],
    x: Tensor,
    t: float,
    contexts: Sequence[Context],
    negative: Context,
    params: SamplerParams,
) -> Tensor:
    """Velocity at (x, t), averaged over contexts: guided inside the interval, conditional outside it."""
    if not params.guided(t):
        return _mean(velocities(x, t, contexts))
    *conditional, unconditional = velocities(x, t, [*contexts, negative])
    s = params.cfg_strength
    return (1 + s) * _mean(conditional) - s * unconditional


def _mean(velocities: Sequence[Tensor]) -> Tensor:
    first, *others = velocities
    return sum(others, first) / len(velocities) if others else first


def euler_steps(
    velocities: Velocities[Context], noise: Tensor, conditions: Conditions[Context], params: SamplerParams
) -> Iterator[Step]:
    """The steps from noise (t = 1) to the sample (t = 0), each computed when asked for."""
    times = schedule(params.steps, params.rescale_t)
    x, v, reused = noise, noise, params.reuse
    for index, (t, t_next) in enumerate(pairwise(times)):
        if reused < params.reuse and params.guided(t):
            reused += 1
        else:
            v = guided_velocity(velocities, x, t, conditions.at(index), conditions.negative, params)
            reused = 0
        step = Step(index, t, t_next, x, v, x - (t - t_next) * v)
        yield step
        x = step.x_next
