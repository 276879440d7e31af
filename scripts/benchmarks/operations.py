"""Floating-point operations of a generation: matrix products and attention, two for each multiply-add.

They count what has to be computed, each thing once: keys and values of the context once for a sampler, nothing of the
cross-attention to a context of zeros, convolutions only for neighbours that exist.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import nn

from pipeline.params import SamplerParams
from pipeline.sampling.euler import schedule
from pipeline.trellis import SLatFlowModel, SLatGaussianDecoder, SparseStructureFlowModel, VoxelGrid


class _BlockOperations(NamedTuple):
    """Operations of transformer blocks.

    common: of each evaluation. context: added to it by a context of tokens. once: of a context for a whole sampling.
    """

    common: float
    context: float
    once: float


def _linear(layer: Any, rows: int) -> float:
    """Count a linear layer over a number of rows; nothing for an identity."""
    return 2.0 * rows * layer.in_features * layer.out_features if isinstance(layer, nn.Linear) else 0.0


def _transformer_blocks(blocks: Iterable[Any], tokens: int, context_tokens: int) -> _BlockOperations:
    common = context = once = 0.0
    for block in blocks:
        channels = block.norm2.normalized_shape[0]
        attention, cross, mlp = block.self_attn, block.cross_attn, block.mlp.mlp
        common += _linear(attention.to_qkv, tokens) + _linear(attention.to_out, tokens)
        common += 4.0 * tokens * tokens * channels + _linear(mlp[0], tokens) + _linear(mlp[2], tokens)
        context += _linear(cross.to_q, tokens) + _linear(cross.to_out, tokens)
        context += 4.0 * tokens * context_tokens * channels
        once += _linear(cross.to_kv, context_tokens)
    return _BlockOperations(common, context, once)


def _sampling(params: SamplerParams, blocks: _BlockOperations, shared: float, *, zero_negative: bool) -> float:
    """Count all steps; `shared` operations are computed once for both sides of a guided step."""
    guided = sum(params.guided(t) for t in schedule(params.steps, params.rescale_t)[:-1])
    guided_evaluations = -(-guided // (params.reuse + 1))
    evaluations = params.steps - guided + guided_evaluations
    negative = blocks.common if zero_negative else blocks.common + blocks.context
    total = evaluations * (shared + blocks.common + blocks.context) + guided_evaluations * negative
    return total + (1 if zero_negative else 2) * blocks.once


def structure_sampling(
    flow: SparseStructureFlowModel, params: SamplerParams, context_tokens: int, *, zero_negative: bool
) -> float:
    """Count all steps of the structure sampler; the negative context may be of zeros."""
    blocks = _transformer_blocks(flow.blocks, (flow.resolution // flow.patch_size) ** 3, context_tokens)
    return _sampling(params, blocks, 0.0, zero_negative=zero_negative)


def latent_sampling(
    flow: SLatFlowModel, params: SamplerParams, grid: VoxelGrid, context_tokens: int, *, zero_negative: bool
) -> float:
    """Count all steps of the latent sampler over a structure; the negative context may be of zeros."""
    levels = [grid]
    shared = 0.0
    for block in flow.input_blocks:
        if block.resample == "down":
            levels.append(levels[-1].pooling.coarse)
        shared += _residual_block(block, levels[-1], len(levels[-1]))
    blocks = _transformer_blocks(flow.blocks, len(levels[-1]), context_tokens)
    output = 0.0
    for block in flow.out_blocks:
        skip_rows = len(levels[-1])
        if block.resample == "up":
            levels.pop()
        output += _residual_block(block, levels[-1], skip_rows)
    return _sampling(params, blocks._replace(common=blocks.common + output), shared, zero_negative=zero_negative)


def _residual_block(block: Any, grid: VoxelGrid, skip_rows: int) -> float:
    neighbour_pairs = int((grid.neighbours < len(grid)).sum())
    total = _linear(block.skip_connection, skip_rows)
    for weight in (block.conv1.conv.weight, block.conv2.conv.weight):
        total += 2.0 * neighbour_pairs * int(weight.shape[0]) * int(weight.shape[-1])
    return total


def gaussian_decoding(decoder: SLatGaussianDecoder, grid: VoxelGrid) -> float:
    """Count the gaussian decoder over a structure."""
    rows = len(grid)
    total = _linear(decoder.input_layer, rows) + _linear(decoder.out_layer, rows)
    blocks: Iterable[Any] = decoder.blocks
    for index, block in enumerate(blocks):
        windows = grid.windows(decoder.window_size, decoder.window_size // 2 * (index % 2))
        lengths = windows.segment_ids.bincount().double()
        attention, mlp = block.attn, block.mlp.mlp
        layers = (attention.to_qkv, attention.to_out, mlp[0], mlp[2])
        total += sum(_linear(layer, rows) for layer in layers)
        total += 4.0 * float(lengths.square().sum()) * attention.to_out.in_features
    return total
