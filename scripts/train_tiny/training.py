"""What all stages share: a loop that ends on time, averaged weights, and the flow-matching loss."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

# Of the exponential moving average of the weights, which samples better than the last ones.
_AVERAGE = 0.999
_WARM_UP = 0.03
_LOG_SECONDS = 10.0
_MAX_GRADIENT = 1.0
# Of logit-normal times, as upstream trains: more of them near 1, where the noise is.
_TIME_MEAN, _TIME_DEVIATION = 1.0, 1.0
CONDITION_DROPPED = 0.12


class Averaged:
    """An exponential moving average of a network's parameters, which forgets the first ones quickly."""

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._parameters = list(self.network.parameters())
        self._steps = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take a step towards the present parameters; larger ones at the beginning."""
        self._steps += 1
        keep = min(_AVERAGE, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._parameters, list(network.parameters()), 1 - keep)


def train(
    name: str,
    networks: Iterable[nn.Module],
    losses: Callable[[], dict[str, Tensor]],
    *,
    seconds: float,
    rate: float,
    log: Path,
) -> list[nn.Module]:
    """Minimise the sum of the losses for so many seconds; returns the networks with averaged weights.

    The learning rate rises to `rate`, then falls to zero along a cosine by the time that is left. Every few seconds a
    line of JSON with the losses is added to `log`.
    """
    networks = list(networks)
    averages = [Averaged(network) for network in networks]
    parameters = [parameter for network in networks for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    start, logged, step = time.monotonic(), 0.0, 0
    while (spent := time.monotonic() - start) < seconds:
        share = spent / seconds
        factor = min(1.0, share / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate * max(factor, 1e-3)
        found = losses()
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(found.values())).sum().backward()
        nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT)
        optimizer.step()
        for average, network in zip(averages, networks, strict=True):
            average.update(network)
        step += 1
        if spent - logged >= _LOG_SECONDS or step == 1:
            logged = spent
            values = {key: round(float(value.detach()), 5) for key, value in found.items()}
            write_line(log, {"stage": name, "step": step, "seconds": round(spent, 1)} | values)
    return [average.network for average in averages]


def write_line(log: Path, content: dict[str, object]) -> None:
    """Print a line of JSON and add it to the log."""
    line = json.dumps(content)
    print(line, flush=True)
    with log.open("a") as file:
        file.write(line + "\n")


def random_times(count: int, device: torch.device) -> Tensor:
    """[count] times in (0, 1)."""
    return torch.sigmoid(torch.randn(count, device=device) * _TIME_DEVIATION + _TIME_MEAN)


def noisy(sample: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Sample and noise mixed at times t, which broadcasts: the mixture and the velocity that a flow has to find."""
    noise = torch.randn_like(sample)
    return (1 - t) * sample + t * noise, noise - sample
