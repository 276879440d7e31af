"""The flow-matching losses of both flows."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.trellis import VoxelGrid

# Of logit-normal times, nearer to 1 than upstream's (1 and 1): an object that is mostly empty space and plain surfaces
# shows through the noise below 0.93, and only above it does a flow learn to use the prompt.
_TIME_MEAN, _TIME_DEVIATION = 2.3, 1.3


def structure_loss(flow: Any, samples: Tensor, conditions: Tensor) -> Tensor:
    """Return the mean squared error of velocities at random times for samples [B, 8, 16, 16, 16]."""
    t = _sample_times(len(samples), samples.device)
    x, velocity = _add_noise(samples.float(), t.view(-1, 1, 1, 1, 1))
    return F.mse_loss(flow(x, 1000 * t, conditions).float(), velocity)


def latent_loss(flow: Any, grid: VoxelGrid, samples: Tensor, conditions: Tensor) -> Tensor:
    """Return the mean squared error of velocities at random times for samples [N, 8] of unit scale on voxels."""
    t = _sample_times(len(conditions), samples.device)
    x, velocity = _add_noise(samples, t[grid.batch, None])
    return F.mse_loss(flow(x, grid, 1000 * t, conditions).float(), velocity)


def _sample_times(count: int, device: torch.device) -> Tensor:
    """Draw times [count] in (0, 1)."""
    return torch.sigmoid(torch.randn(count, device=device) * _TIME_DEVIATION + _TIME_MEAN)


def _add_noise(sample: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mixture of sample and noise at times t, which broadcasts, and the velocity to predict."""
    noise = torch.randn_like(sample)
    return (1 - t) * sample + t * noise, noise - sample
