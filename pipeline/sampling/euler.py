"""Flow-Euler sampling with classifier-free guidance, independent of networks, files and devices.

Formulas: microsoft/TRELLIS, FlowEulerSampler, FlowEulerCfgSampler and FlowEulerGuidanceIntervalSampler.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from pipeline.params import NEGATIVE, Conditions, SamplerParams, Velocities


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
    """Return steps + 1 times from 1 to 0.

    They are computed in float64, since a time may meet an end of the guidance interval exactly.
    """
    uniform = np.linspace(1, 0, steps + 1)
    return [float(t) for t in rescale_t * uniform / (1 + (rescale_t - 1) * uniform)]


def guided_velocity(velocities: Velocities, x: Tensor, step: int, views: Sequence[int], cfg_strength: float) -> Tensor:
    """Return the velocity averaged over the views' contexts and, unless the strength is 0, guided.

    step and views index the times and contexts that the velocities were prepared for.
    """
    if cfg_strength == 0:
        return _mean(velocities(x, step, views))
    *conditional, negative = velocities(x, step, [*views, NEGATIVE])
    return (1 + cfg_strength) * _mean(conditional) - cfg_strength * negative


def _mean(velocities: Sequence[Tensor]) -> Tensor:
    first, *others = velocities
    return sum(others, first) / len(velocities) if others else first


def euler_steps(velocities: Velocities, noise: Tensor, conditions: Conditions, params: SamplerParams) -> Iterator[Step]:
    """Yield the steps from noise (t = 1) to the sample (t = 0), each computed when it is asked for.

    The velocities are prepared for the times of `schedule` and the contexts of `conditions`.
    """
    times = schedule(params.steps, params.rescale_t)
    x, velocity, reused = noise, noise, params.reuse
    for index, (t, t_next) in enumerate(pairwise(times)):
        is_guided = params.guided(t)
        if is_guided and reused < params.reuse:
            reused += 1
        else:
            strength = params.cfg_strength if is_guided else 0.0
            velocity = guided_velocity(velocities, x, index, conditions.views_at(index), strength)
            reused = 0
        step = Step(index, t, t_next, x, velocity, x - (t - t_next) * velocity)
        yield step
        x = step.x_next
