"""Functions of tensors that are replayed from CUDA graphs, which saves launching their kernels one by one.

Graphs are captured without a pause: `torch.cuda.graph` would synchronise and release cached memory, which costs more
time than a structure's graphs save.
"""

import weakref
from collections.abc import Callable, Sequence

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


class GraphedCallable:
    """A function of tensors of constant shapes: the first call runs it, the second captures it, later ones replay it.

    Without a pool, as on a CPU, or without enough memory, every call runs it. Large tensors that the function reads are
    better kept in `StaticTensors` than passed as inputs, which every graph has a copy of.
    """

    def __init__(self, run: Callable[..., Tensor], pool: GraphPool | None) -> None:
        """Wrap `run`, which is to be captured in the pool."""
        self._run = run
        self._pool = pool
        self._has_run = False
        # A graph, the memory of its result and that of its inputs.
        self._captured: tuple[torch.cuda.CUDAGraph, Tensor, list[Tensor]] | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the function's result, which the next call may overwrite."""
        if self._captured is None and self._pool is not None and self._has_run:
            try:
                static_inputs = [x.clone() for x in inputs]
                self._captured = (*self._pool.capture(lambda: self._run(*static_inputs)), static_inputs)
            except torch.OutOfMemoryError:
                # During a capture torch cannot release cached memory to satisfy an allocation; otherwise it can.
                self._pool = None
        self._has_run = True
        if self._captured is None:
            return self._run(*inputs)
        graph, out, static_inputs = self._captured
        for target, source in zip(static_inputs, inputs, strict=True):
            target.copy_(source)
        graph.replay()
        return out


class StaticTensors:
    """Tensors in memory of their own, which graphs may read whatever was copied there."""

    def __init__(self) -> None:
        """Begin without any."""
        self._tensors: dict[tuple[torch.Size, ...], tuple[list[Tensor], list[weakref.ref[Tensor]]]] = {}

    def load(self, sources: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return copies of the sources, always in the same memory for the same shapes.

        Sources are not to be changed: those that were copied last are not copied again.
        """
        key = tuple(source.shape for source in sources)
        if key not in self._tensors:
            self._tensors[key] = [torch.empty_like(source) for source in sources], []
        targets, copied = self._tensors[key]
        if not copied or any(reference() is not source for reference, source in zip(copied, sources, strict=True)):
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source)
            # References that hold no memory: sources belong to one run of a sampler.
            copied[:] = [weakref.ref(source) for source in sources]
        return targets
