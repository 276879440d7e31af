"""Functions of tensors replayed from CUDA graphs, which a GPU starts faster than a processor starts kernel by kernel.

Graphs here are recorded with no pause: `torch.cuda.graph` would wait for the GPU and give its cached memory back, which
takes longer than what a structure gains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class GraphMemory:
    """Working memory that graphs share, which is right for those that never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)
        self._keeper: torch.cuda.CUDAGraph | None = None

    def record(self, run: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """A graph of what `run` does, which must have been run before, and the memory of its result."""
        if self._keeper is None:
            # Keeps the pool in being while there is no other graph.
            self._keeper, _ = self._record(lambda: torch.zeros(1, device=self._device))
        return self._record(run)

    def _record(self, run: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            # Other threads may use the GPU meanwhile, to encode the previous result.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                out = run()
            finally:
                graph.capture_end()
        return graph, out


@dataclass(frozen=True, eq=False)
class _Recorded:
    """A graph and the memory it reads from and writes to."""

    graph: torch.cuda.CUDAGraph
    inputs: Sequence[Tensor]
    out: Tensor


class GraphedCallable:
    """A function of tensors whose shapes stay the same: run when it is first called, recorded the second time and
    replayed from then on. Without memory for graphs, as on a CPU, or without enough, it is always run."""

    def __init__(self, run: Callable[..., Tensor], memory: GraphMemory | None) -> None:
        self._run = run
        self._memory = memory
        self._met = False
        self._recorded: _Recorded | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's result, in memory of its own."""
        if self._recorded is None and self._memory is not None and self._met:
            self._recorded = self._record(self._memory, inputs)
        self._met = True
        if self._recorded is None:
            return self._run(*inputs)
        for target, source in zip(self._recorded.inputs, inputs, strict=True):
            target.copy_(source)
        self._recorded.graph.replay()
        return self._recorded.out.clone()

    def _record(self, memory: GraphMemory, inputs: Sequence[Tensor]) -> _Recorded | None:
        try:
            own = [x.clone() for x in inputs]
            graph, out = memory.record(lambda: self._run(*own))
            return _Recorded(graph, own, out)
        except torch.OutOfMemoryError:
            # While it records, torch cannot give cached memory back to make room; otherwise it can.
            self._memory = None
            return None
