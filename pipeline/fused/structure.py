"""The structure flow, replayed from CUDA graphs: its shapes never change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.flows import Context
from pipeline.fused.attention import attend_fixed
from pipeline.fused.prepared import Prepared, tokens_first
from pipeline.fused.trunk import Passes, Trunk
from pipeline.sampling import Conditions, Velocities
from pipeline.trellis import SparseStructureFlowModel
from pipeline.trellis.layers import FINAL_NORM_EPS
from pipeline.trellis.structure_flow import patchify, unpatchify

# Contexts that one graph takes; more would not run faster, and graphs hold memory.
_MAX_PASSES = 2
_WARM_UP_RUNS = 2


@dataclass(frozen=True, eq=False)
class _Captured:
    """A graph and the memory it reads from and writes to."""

    graph: torch.cuda.CUDAGraph
    x: Tensor
    modulation: Tensor
    keys_values: Sequence[Tensor]
    out: Tensor


class StructureSampler:
    """Velocities of one sample at a time."""

    def __init__(self, flow: SparseStructureFlowModel, *, fp8: bool = False) -> None:
        self._flow = flow
        self._trunk = Trunk(flow.blocks, fp8=fp8)
        self._captured: dict[tuple[int, int, int], _Captured] = {}
        self._pool: Any = None

    def prepare(self, times: Sequence[float], conditions: Conditions[Context]) -> Velocities[Context]:
        """Velocities of x [1, channels, R, R, R] float32 at the given times."""
        prepared = Prepared(self._flow, self._trunk, times, conditions)

        def velocities(x: Tensor, t: float, contexts: Sequence[Context]) -> list[Tensor]:
            results: dict[int, Tensor] = {}
            order = tokens_first(contexts)
            for start in range(0, len(order), _MAX_PASSES):
                places = order[start : start + _MAX_PASSES]
                wanted = [contexts[place] for place in places]
                real = [prepared.keys_values(context) for context in wanted if context is not None]
                found = self._replay(x, prepared.modulation(t), real, len(places) - len(real))
                results |= dict(zip(places, found, strict=True))
            return [results[place] for place in range(len(contexts))]

        return velocities

    def _replay(self, x: Tensor, modulation: Tensor, real: Sequence[Sequence[Tensor]], zero: int) -> Sequence[Tensor]:
        key = (len(real), zero, real[0][0].shape[1] if real else 0)
        if key not in self._captured:
            self._captured[key] = self._capture(x, modulation, real, zero)
        captured = self._captured[key]
        captured.x.copy_(x)
        captured.modulation.copy_(modulation)
        for index, target in enumerate(captured.keys_values):
            for place, blocks in enumerate(real):
                target[place].copy_(blocks[index][0])
        captured.graph.replay()
        passes: Sequence[Tensor] = captured.out.clone().split(1)
        return passes

    def _capture(self, x: Tensor, modulation: Tensor, real: Sequence[Sequence[Tensor]], zero: int) -> _Captured:
        x, modulation = x.clone(), modulation.clone()
        keys_values = [torch.cat(blocks) for blocks in zip(*real, strict=True)]
        passes = Passes(keys_values, len(real), zero)

        def run() -> Tensor:
            return self._velocity(x, modulation, passes)

        # All graphs share their working memory: results are copied out before another one runs.
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph, out = _record(run, self._pool)
        return _Captured(graph, x, modulation, keys_values, out)

    def _velocity(self, x: Tensor, modulation: Tensor, passes: Passes) -> Tensor:
        """x [1, channels, R, R, R] -> [passes, out_channels, R, R, R]."""
        flow = self._flow
        patches = patchify(x, flow.patch_size)
        tokens = patches.flatten(2).transpose(1, 2)[0]
        h = (flow.input_layer(tokens) + flow.pos_emb).to(flow.dtype)
        h = self._trunk(h, modulation, passes, attend_fixed, len(h)).to(x.dtype)
        out = flow.out_layer(F.layer_norm(h, h.shape[-1:], eps=FINAL_NORM_EPS)).unflatten(0, (passes.count, -1))
        return unpatchify(out.transpose(1, 2).unflatten(2, patches.shape[2:]), flow.patch_size)


def _record(run: Callable[[], Tensor], pool: Any) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A graph of what `run` does, and its result's memory."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP_RUNS):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the GPU meanwhile, to encode the previous result.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        out = run()
    return graph, out
