"""Flow-Euler sampling with classifier-free guidance; knows nothing of networks, files or devices.

Formulas: microsoft/TRELLIS, FlowEulerSampler, FlowEulerCfgSampler and FlowEulerGuidanceIntervalSampler.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from pipeline.params import AnyContext, Conditions, SamplerParams, Velocities


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
    velocities: Velocities[AnyContext],
    x: Tensor,
    t: float,
    contexts: Sequence[AnyContext],
    negative: AnyContext,
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
    velocities: Velocities[AnyContext], noise: Tensor, conditions: Conditions[AnyContext], params: SamplerParams
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
