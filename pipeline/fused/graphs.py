"""Functions of tensors that are replayed from CUDA graphs, which saves launching their kernels one by one.

Graphs are captured without a pause: `torch.cuda.graph` would synchronise and release cached memory, which costs more
time than a structure's graphs save.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class GraphPool:
    """A pool of memory that CUDA graphs share, which is safe as long as they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        """Create an empty pool on a CUDA device."""
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)
        self._placeholder: torch.cuda.CUDAGraph | None = None

    def capture(self, run: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Capture `run`, which must have been run before; return the graph and the memory of its result."""
        if self._placeholder is None:
            # Keeps the pool alive while it has no other graph.
            self._placeholder, _ = self._capture(lambda: torch.zeros(1, device=self._device))
        return self._capture(run)

    def _capture(self, run: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            # Other threads may use the GPU meanwhile, for example to encode the previous result.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                out = run()
            finally:
                graph.capture_end()
        return graph, out


@dataclass(frozen=True, eq=False)
class _CapturedGraph:
    """A graph and the memory that it reads from and writes to."""

    graph: torch.cuda.CUDAGraph
    inputs: Sequence[Tensor]
    out: Tensor


class GraphedCallable:
    """A function of tensors of constant shapes: the first call runs it, the second captures it, later ones replay it.

    Without a pool, as on a CPU, or without enough memory, every call runs it.
    """

    def __init__(self, run: Callable[..., Tensor], pool: GraphPool | None) -> None:
        """Wrap `run`, which is to be captured in the pool."""
        self._run = run
        self._pool = pool
        self._has_run = False
        self._graph: _CapturedGraph | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the function's result, in memory of its own."""
        if self._graph is None and self._pool is not None and self._has_run:
            self._graph = self._capture(self._pool, inputs)
        self._has_run = True
        if self._graph is None:
            return self._run(*inputs)
        for target, source in zip(self._graph.inputs, inputs, strict=True):
            target.copy_(source)
        self._graph.graph.replay()
        return self._graph.out.clone()

    def _capture(self, pool: GraphPool, inputs: Sequence[Tensor]) -> _CapturedGraph | None:
        try:
            static_inputs = [x.clone() for x in inputs]
            graph, out = pool.capture(lambda: self._run(*static_inputs))
            return _CapturedGraph(graph, static_inputs, out)
        except torch.OutOfMemoryError:
            # During a capture torch cannot release cached memory to satisfy an allocation; otherwise it can.
            self._pool = None
            return None
