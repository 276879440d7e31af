"""Floating-point operations of a generation: products of matrices and attention, two for each multiply-add.

They count what has to be computed, each thing once: keys and values of the context once for a sampler, nothing of
the cross-attention to a context of zeros, convolutions for the neighbours that exist.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from pipeline.params import SamplerParams
from pipeline.sampling.euler import schedule
from pipeline.trellis import SLatFlowModel, SLatGaussianDecoder, SparseStructureFlowModel, VoxelGrid


def linear(layer: Any, rows: int) -> float:
    """A linear layer over so many rows; nothing for an identity."""
    return 2.0 * rows * layer.in_features * layer.out_features if isinstance(layer, nn.Linear) else 0.0


def _trunk(blocks: Iterable[Any], tokens: int, context: int) -> tuple[float, float, float]:
    """Of one evaluation: what every pass takes, what a context of tokens adds to it; and what a sampler takes once."""
    common = added = once = 0.0
    for block in blocks:
        channels = block.norm2.normalized_shape[0]
        own, cross, mlp = block.self_attn, block.cross_attn, block.mlp.mlp
        common += linear(own.to_qkv, tokens) + linear(own.to_out, tokens) + 4.0 * tokens * tokens * channels
        common += linear(mlp[0], tokens) + linear(mlp[2], tokens)
        added += linear(cross.to_q, tokens) + linear(cross.to_out, tokens) + 4.0 * tokens * context * channels
        once += linear(cross.to_kv, context)
    return common, added, once


def _evaluations(params: SamplerParams) -> tuple[int, int]:
    """Evaluations under the context of tokens, and how many of them are guided."""
    guided = sum(params.guided(t) for t in schedule(params.steps, params.rescale_t)[:-1])
    evaluated = -(-guided // (params.reuse + 1))
    return params.steps - guided + evaluated, evaluated


def structure_sampling(
    flow: SparseStructureFlowModel, params: SamplerParams, context: int, *, zero_negative: bool
) -> float:
    """All steps of the structure sampler; contexts have `context` tokens, the negative one may be of zeros."""
    steps, guided = _evaluations(params)
    common, added, once = _trunk(flow.blocks, (flow.resolution // flow.patch_size) ** 3, context)
    negative = common if zero_negative else common + added
    return steps * (common + added) + guided * negative + (1 if zero_negative else 2) * once


def latent_sampling(
    flow: SLatFlowModel, params: SamplerParams, grid: VoxelGrid, context: int, *, zero_negative: bool
) -> float:
    """All steps of the latent sampler over a structure; contexts as for `structure_sampling`."""
    steps, guided = _evaluations(params)
    levels = [grid]
    shared = 0.0
    for block in flow.input_blocks:
        if block.resample == "down":
            levels.append(levels[-1].pooling.coarse)
        shared += _residual(block, levels[-1], len(levels[-1]))
    common, added, once = _trunk(flow.blocks, len(levels[-1]), context)
    for block in flow.out_blocks:
        skip_rows = len(levels[-1])
        if block.resample == "up":
            levels.pop()
        common += _residual(block, levels[-1], skip_rows)
    negative = common if zero_negative else common + added
    return steps * (shared + common + added) + guided * negative + (1 if zero_negative else 2) * once


def _residual(block: Any, grid: VoxelGrid, skip_rows: int) -> float:
    pairs = int((grid.neighbours < len(grid)).sum())
    total = linear(block.skip_connection, skip_rows)
    for weight in (block.conv1.conv.weight, block.conv2.conv.weight):
        total += 2.0 * pairs * int(weight.shape[0]) * int(weight.shape[-1])
    return total


def gaussian_decoding(decoder: SLatGaussianDecoder, grid: VoxelGrid) -> float:
    """The gaussian decoder over a structure."""
    rows = len(grid)
    total = linear(decoder.input_layer, rows) + linear(decoder.out_layer, rows)
    blocks: Iterable[Any] = decoder.blocks
    for index, block in enumerate(blocks):
        lengths = (
            grid.windows(decoder.window_size, decoder.window_size // 2 * (index % 2)).segment_ids.bincount().double()
        )
        attention, mlp = block.attn, block.mlp.mlp
        layers = (attention.to_qkv, attention.to_out, mlp[0], mlp[2])
        total += sum(linear(layer, rows) for layer in layers)
        total += 4.0 * float(lengths.square().sum()) * attention.to_out.in_features
    return total
