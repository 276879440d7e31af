"""What all stages share: a loop that ends on time, averaged weights, and the flow-matching loss."""

from __future__ import annotations

import copy
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

# Of the exponential moving average of the weights, which samples better than the last ones.
_AVERAGE = 0.999
_WARM_UP = 0.03
_LOG_SECONDS = 10.0
_MAX_GRADIENT = 1.0
_EAGER_STEPS = 3
# The host may start so many steps before it waits for the GPU: what time is left is told by its clock.
_STEPS_AHEAD = 16
# Of logit-normal times, nearer to 1 than upstream's (1 and 1): an object that is mostly empty space and plain surfaces
# shows through the noise below 0.93, and only above it does a flow learn to look at the prompt.
_TIME_MEAN, _TIME_DEVIATION = 2.3, 1.3


Losses = Callable[[Tensor], dict[str, Tensor]]


class Averaged:
    """An exponential moving average of a network's parameters, which forgets the first ones quickly."""

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._averages: list[Tensor] = list(self.network.parameters())
        self._parameters: list[Tensor] = list(network.parameters())
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take a step towards the present parameters; larger ones at the beginning."""
        self._steps += 1
        keep = min(_AVERAGE, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._averages, self._parameters, 1 - keep)


class Optimisation:
    """Steps of AdamW on the sum of some losses; on a GPU, replayed as a graph if the batches have one shape.

    A step of small networks is a thousand kernels, which takes a processor longer to start than the GPU to run.
    """

    def __init__(self, networks: Sequence[nn.Module], rate: float, batch: Tensor, *, captured: bool) -> None:
        self._parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
        self._captured = captured and batch.is_cuda
        self.rate = torch.tensor(rate, device=batch.device)
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=self.rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True, capturable=self._captured
        )
        self._batch = batch.clone()
        self._replays: dict[Losses, tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]] = {}
        self._warmed: Counter[Losses] = Counter()

    def step(self, losses: Losses, batch: Tensor, turns: Sequence[Losses]) -> dict[str, Tensor]:
        """One step on a batch; `turns` are all losses there are, since graphs begin when each has run a few times."""
        if not self._captured:
            return self._eager(losses, batch)
        self._batch.copy_(batch)
        if min(self._warmed[each] for each in turns) < _EAGER_STEPS:
            self._warmed[losses] += 1
            return self._beside(losses)
        if losses not in self._replays:
            self._optimizer.zero_grad(set_to_none=True)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                found = self._advance(losses, self._batch)
            self._replays[losses] = graph, found
        graph, found = self._replays[losses]
        graph.replay()
        return found

    def _beside(self, losses: Losses) -> dict[str, Tensor]:
        # On a stream of its own, as whatever is to be captured later has to be run before.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            found = self._eager(losses, self._batch)
        torch.cuda.current_stream().wait_stream(stream)
        return found

    def _eager(self, losses: Losses, batch: Tensor) -> dict[str, Tensor]:
        self._optimizer.zero_grad(set_to_none=True)
        return self._advance(losses, batch)

    def _advance(self, losses: Losses, batch: Tensor) -> dict[str, Tensor]:
        found = losses(batch)
        torch.stack(list(found.values())).sum().backward()
        nn.utils.clip_grad_norm_(self._parameters, _MAX_GRADIENT)
        self._optimizer.step()
        return {name: loss.detach() for name, loss in found.items()}


def train(
    name: str,
    networks: Sequence[nn.Module],
    rows: Iterator[Tensor],
    turns: Sequence[Losses],
    *,
    seconds: float,
    rate: float,
    log: Path,
    captured: bool,
) -> list[nn.Module]:
    """Minimise losses of batches for so many seconds; returns the networks with averaged weights.

    The losses take turns. `captured` promises that they wait for no tensor's value and that all shapes stay the same.
    The learning rate rises to `rate`, then falls to zero along a cosine by the time that is left. Every few seconds a
    line of JSON with the losses is added to `log`.
    """
    averages = [Averaged(network) for network in networks]
    batch = next(rows)
    optimisation = Optimisation(networks, rate, batch, captured=captured)
    start, logged, step = time.monotonic(), 0.0, 0
    while (spent := time.monotonic() - start) < seconds:
        share = spent / seconds
        factor = min(1.0, share / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * share))
        optimisation.rate.fill_(rate * max(factor, 1e-3))
        found = optimisation.step(turns[step % len(turns)], batch, turns)
        for average in averages:
            average.update()
        batch = next(rows)
        step += 1
        if batch.is_cuda and step % _STEPS_AHEAD == 0:
            torch.cuda.synchronize()
        if spent - logged >= _LOG_SECONDS or step == 1:
            logged = spent
            values = {key: round(float(value), 5) for key, value in found.items()}
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
