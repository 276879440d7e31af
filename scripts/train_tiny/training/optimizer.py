"""The optimiser of all stages, on a GPU by way of CUDA graphs, and averages of the weights."""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Decay of the exponential moving average of the weights, which samples better than the last weights.
_EMA_DECAY = 0.999
_MAX_GRADIENT_NORM = 1.0
# Steps of each loss function before graphs are captured.
_EAGER_STEPS = 3

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
        self, networks: Sequence[nn.Module], loss_functions: Sequence[LossFunction], batch: Tensor, *, use_graphs: bool
    ) -> None:
        """Optimise the networks' parameters; `batch` is any batch, whose shape and device the graphs have.

        The learning rate is 0 until it is filled in.
        """
        self._parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
        self._loss_functions = loss_functions
        self._use_graphs = use_graphs and batch.is_cuda
        self.learning_rate = torch.tensor(0.0, device=batch.device)
        options: dict[str, Any] = {"weight_decay": 0.01, "fused": True, "capturable": self._use_graphs}
        self._adam = torch.optim.AdamW(self._parameters, self.learning_rate, (0.9, 0.98), **options)
        self._batch = batch.clone()
        self._graphs: dict[LossFunction, tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]] = {}
        self._eager_steps: Counter[LossFunction] = Counter()

    def step(self, loss_function: LossFunction, batch: Tensor) -> dict[str, Tensor]:
        """Take one step on a batch; return the losses.

        Graphs are captured once each of the loss functions has run a few times.
        """
        if not self._use_graphs:
            return self._step(loss_function, batch)
        self._batch.copy_(batch)
        if min(self._eager_steps[function] for function in self._loss_functions) < _EAGER_STEPS:
            self._eager_steps[loss_function] += 1
            return self._step_on_side_stream(loss_function)
        if loss_function not in self._graphs:
            # Before the capture, so that it allocates the gradients.
            self._adam.zero_grad(set_to_none=True)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                losses = self._step(loss_function, self._batch)
            self._graphs[loss_function] = graph, losses
        graph, losses = self._graphs[loss_function]
        graph.replay()
        return losses

    def _step_on_side_stream(self, loss_function: LossFunction) -> dict[str, Tensor]:
        # Work that is to be captured later has to run on a stream of its own before.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            losses = self._step(loss_function, self._batch)
        torch.cuda.current_stream().wait_stream(stream)
        return losses

    def _step(self, loss_function: LossFunction, batch: Tensor) -> dict[str, Tensor]:
        self._adam.zero_grad(set_to_none=True)
        losses = loss_function(batch)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(self._parameters, _MAX_GRADIENT_NORM)
        self._adam.step()
        return {name: loss.detach() for name, loss in losses.items()}
