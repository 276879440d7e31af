"""The optimisation loop of all stages: it ends on time and returns averaged weights."""

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

# Decay of the exponential moving average of the weights, which samples better than the last weights.
_EMA_DECAY = 0.999
_WARM_UP_SHARE = 0.03
_LOG_INTERVAL = 10.0
_MAX_GRADIENT_NORM = 1.0
# Steps of each loss function before graphs are captured.
_EAGER_STEPS = 3
# Number of steps that the host starts before it waits for the GPU; the loop ends by the host's clock.
_STEPS_AHEAD = 16

# Returns the named losses of a batch, given its rows; their sum is minimised.
LossFunction = Callable[[Tensor], dict[str, Tensor]]


class AveragedNetwork:
    """An exponential moving average of a network's parameters, which forgets the initial ones quickly."""

    def __init__(self, network: nn.Module) -> None:
        """Begin with the present parameters."""
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._averages: list[Tensor] = list(self.network.parameters())
        self._parameters: list[Tensor] = list(network.parameters())
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take a step towards the present parameters; larger ones at the beginning."""
        self._steps += 1
        decay = min(_EMA_DECAY, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)


class Optimizer:
    """AdamW on the sum of some losses; on a GPU, steps are replayed as CUDA graphs if all batches have one shape.

    A step of small networks is a thousand kernels, which the processor takes longer to launch than the GPU to run.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        loss_functions: Sequence[LossFunction],
        learning_rate: float,
        batch: Tensor,
        *,
        use_graphs: bool,
    ) -> None:
        """Optimise the networks' parameters; `batch` is any batch, whose shape and device the graphs have."""
        self._parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
        self._loss_functions = loss_functions
        self._use_graphs = use_graphs and batch.is_cuda
        self.learning_rate = torch.tensor(learning_rate, device=batch.device)
        self._adam = torch.optim.AdamW(
            self._parameters,
            lr=self.learning_rate,
            weight_decay=0.01,
            betas=(0.9, 0.98),
            fused=True,
            capturable=self._use_graphs,
        )
        self._batch = batch.clone()
        self._graphs: dict[LossFunction, tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]] = {}
        self._eager_steps: Counter[LossFunction] = Counter()

    def step(self, loss_function: LossFunction, batch: Tensor) -> dict[str, Tensor]:
        """Take one step on a batch; return the losses.

        Graphs are captured once each of the loss functions has run a few times.
        """
        if not self._use_graphs:
            return self._step_eagerly(loss_function, batch)
        self._batch.copy_(batch)
        if min(self._eager_steps[function] for function in self._loss_functions) < _EAGER_STEPS:
            self._eager_steps[loss_function] += 1
            return self._step_on_side_stream(loss_function)
        if loss_function not in self._graphs:
            self._adam.zero_grad(set_to_none=True)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                losses = self._backward(loss_function, self._batch)
            self._graphs[loss_function] = graph, losses
        graph, losses = self._graphs[loss_function]
        graph.replay()
        return losses

    def _step_on_side_stream(self, loss_function: LossFunction) -> dict[str, Tensor]:
        # Work that is to be captured later has to run on a stream of its own before.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            losses = self._step_eagerly(loss_function, self._batch)
        torch.cuda.current_stream().wait_stream(stream)
        return losses

    def _step_eagerly(self, loss_function: LossFunction, batch: Tensor) -> dict[str, Tensor]:
        self._adam.zero_grad(set_to_none=True)
        return self._backward(loss_function, batch)

    def _backward(self, loss_function: LossFunction, batch: Tensor) -> dict[str, Tensor]:
        losses = loss_function(batch)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(self._parameters, _MAX_GRADIENT_NORM)
        self._adam.step()
        return {name: loss.detach() for name, loss in losses.items()}


def optimise(
    stage: str,
    networks: Sequence[nn.Module],
    batches: Iterator[Tensor],
    loss_functions: Sequence[LossFunction],
    seconds: float,
    learning_rate: float,
    log: Path,
    use_graphs: bool = False,
) -> list[nn.Module]:
    """Minimise the losses for the given seconds; return the networks with averaged weights.

    The loss functions take turns from step to step. With `use_graphs` they must not wait for the value of any tensor,
    and all shapes must stay the same. The learning rate rises to its maximum and then falls to zero along a cosine over
    the time that is left. Every few seconds a line of JSON with the losses is added to `log`.
    """
    averages = [AveragedNetwork(network) for network in networks]
    batch = next(batches)
    optimizer = Optimizer(networks, loss_functions, learning_rate, batch, use_graphs=use_graphs)
    start, logged, step = time.monotonic(), 0.0, 0
    while (elapsed := time.monotonic() - start) < seconds:
        progress = elapsed / seconds
        factor = min(1.0, progress / _WARM_UP_SHARE) * 0.5 * (1 + math.cos(math.pi * progress))
        optimizer.learning_rate.fill_(learning_rate * max(factor, 1e-3))
        losses = optimizer.step(loss_functions[step % len(loss_functions)], batch)
        for average in averages:
            average.update()
        batch = next(batches)
        step += 1
        if batch.is_cuda and step % _STEPS_AHEAD == 0:
            torch.cuda.synchronize()
        if elapsed - logged >= _LOG_INTERVAL or step == 1:
            logged = elapsed
            values = {name: round(float(loss), 5) for name, loss in losses.items()}
            write_log(log, {"stage": stage, "step": step, "seconds": round(elapsed, 1)} | values)
    return [average.network for average in averages]


def write_log(log: Path, content: dict[str, object]) -> None:
    """Print a line of JSON and add it to the log."""
    line = json.dumps(content)
    print(line, flush=True)
    with log.open("a") as file:
        file.write(line + "\n")
